"""Requests have to be what an OpenAPI document says: its operations, their parameters, and their bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator

import orjson

from proxy.exchange import Exchange, Payload
from proxy.filter import Rule, RuleFilter
from proxy.inspect.bodies import Malformed, divided, field_name, media_type
from proxy.inspect.openapi import FORM, Contract, Operation, Violation
from proxy.inspect.parts import pairs
from proxy.rejection import ContractViolation, MethodNotAllowed, NoRoute, UnsupportedMediaType

OFF_LOOP = 32 * 1024
"""Bytes of a body from which on a thread checks it."""


class ContractCheck(RuleFilter):
    """`unknown_parameters` is ignore, shadow or reject; `unknown_operations` whether requests that the document does
    not know pass."""

    __slots__ = ("_contract", "_unknown_operations", "_unknown_parameters")

    def __init__(self, rule: Rule, contract: Contract, *, unknown_parameters: str, unknown_operations: bool) -> None:
        super().__init__(rule)
        self._contract = contract
        self._unknown_parameters = unknown_parameters
        self._unknown_operations = unknown_operations

    def _operation(self, exchange: Exchange) -> tuple[Operation | None, dict[str, str], list[str]]:
        return self._contract.find(exchange.method.decode(), exchange.path.decode("latin-1"))

    def on_request(self, exchange: Exchange) -> None:
        operation, path, methods = self._operation(exchange)
        if operation is None:
            if not self._unknown_operations:
                self._refuse_unknown(exchange, methods)
            return
        cookies = _cookies(exchange.headers.index.get(b"cookie", b""))
        for one in operation.violations(path, exchange.query, exchange.headers.index, cookies):
            self._rule.refuse(exchange, _refusal(one))
        if operation.body_required and not exchange.body_length:
            self._rule.refuse(exchange, ContractViolation("a body is missing"))
        if self._unknown_parameters != "ignore" and (names := operation.unknown(exchange.query)):
            told = ContractViolation(f"{len(names)} parameter{'s' * (len(names) > 1)} of the query are not known here")
            if self._unknown_parameters == "reject":
                self._rule.refuse(exchange, told)
            else:
                self._rule.saw(exchange, told)

    def _refuse_unknown(self, exchange: Exchange, methods: list[str]) -> None:
        if methods:
            allow = ", ".join(methods)
            rejection = MethodNotAllowed(
                f"the contract has {allow} here", remedy="Use one of the allowed methods.",
                headers=((b"allow", allow.encode()),),
            )  # fmt: skip
            self._rule.refuse(exchange, rejection)
        else:
            self._rule.refuse(exchange, NoRoute("the contract has no such path"))

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        if not payload.data:
            return None
        operation, _, _ = self._operation(exchange)
        if operation is None:
            return None
        content_type = exchange.headers.index.get(b"content-type", b"")
        kind = content_type.split(b";")[0].strip().lower().decode("latin-1")
        try:
            check = operation.body_check(kind)
        except KeyError:
            taken = ", ".join(operation.bodies)
            self._rule.refuse(exchange, UnsupportedMediaType(f"this operation takes {taken}"))
            return None
        form = operation.forms.get(kind)
        if check is None or not (form is not None or kind == "application/json" or kind.endswith("+json")):
            return None
        if exchange.headers.index.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            self._rule.refuse(exchange, UnsupportedMediaType("a compressed body can't be checked by the contract"))
            return None

        def judged(data: bytes) -> Violation | None:
            try:
                return check(form.value(_fields(kind, content_type, data)) if form else orjson.loads(data))
            except orjson.JSONDecodeError:
                return Violation("", "is no JSON")
            except Malformed as error:
                return Violation(error.pointer, f"can't be read: {error.detail}")

        if len(payload.data) > OFF_LOOP:

            async def apart() -> None:
                self._settle(exchange, await asyncio.to_thread(judged, payload.data))

            return apart()
        self._settle(exchange, judged(payload.data))
        return None

    def _settle(self, exchange: Exchange, found: Violation | None) -> None:
        if found is not None:
            self._rule.refuse(exchange, _refusal(Violation(found.where or "the body", found.what)))


def _refusal(violation: Violation) -> ContractViolation:
    return ContractViolation(f"{violation.where} {violation.what}")


def _fields(kind: str, content_type: bytes, data: bytes) -> Iterator[tuple[str, str]]:
    """A form's names and texts; of a file, its bytes one by one. Raises Malformed."""
    if kind == FORM:
        yield from pairs(data.decode("utf-8", "replace"))
        return
    for head, content in divided(media_type(content_type), data)[1]:
        name, is_file = field_name(head)
        yield name, content.decode("latin-1") if is_file else content.decode("utf-8", "replace")


def _cookies(value: bytes) -> dict[str, str]:
    found = {}
    for one in value.decode("latin-1").split(";"):
        name, _, content = one.partition("=")
        found[name.strip()] = content.strip()
    return found
