"""Named fields of a request are cleaned before it goes on; each change is counted and logged, and told on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from proxy.exchange import Exchange, Payload, Response, Verdict
from proxy.filter import Mode, Rule, RuleFilter
from proxy.inspect.sanitizer import Change, Sanitizer, Unreadable
from proxy.rejection import InvalidBody, UnsupportedMediaType

OFF_LOOP = 8 * 1024
"""Bytes of a body from which on a thread cleans it."""
TOLD = b"x-sanitized"


class Sanitization(RuleFilter):
    """`told` is whether the answer says what was changed, in `X-Sanitized`: for those who try a policy out."""

    __slots__ = ("_sanitizer", "_told")

    def __init__(self, rule: Rule, sanitizer: Sanitizer, *, told: bool) -> None:
        super().__init__(rule)
        self._sanitizer = sanitizer
        self._told = told

    def on_request(self, exchange: Exchange) -> None:
        changes: list[Change] = []
        query = self._sanitizer.query(exchange.query, changes)
        if changes and self._count(exchange, changes):
            exchange.query = query

    def _count(self, exchange: Exchange, changes: list[Change]) -> bool:
        """Whether they are made."""
        enforced = self._rule.mode is Mode.ENFORCE
        for at, action in dict.fromkeys(changes):
            self._rule.changed(exchange, f"{at or '/'} {action}")
        return enforced

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if not self._told:
            return
        done: list[Verdict] = [one for one in exchange.verdicts if one.rule == self._rule.name and one.detail]
        if done:
            response.headers.add(TOLD, ", ".join(one.detail for one in done[:20]).encode("ascii", "replace"))


class BodySanitization(Sanitization):
    """Where fields of bodies are named, too: only then bodies are held."""

    __slots__ = ()

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        index = exchange.headers.index
        if not payload.data or not self._sanitizer.reads(index.get(b"content-type", b"")):
            return None
        if index.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            self._rule.refuse(exchange, UnsupportedMediaType("a compressed body can't be sanitized"))
            return None
        if len(payload.data) > OFF_LOOP:
            return self._apart(exchange, payload)
        changes: list[Change] = []
        try:
            found = self._cleaned(exchange, payload.data, changes)
        except Unreadable as error:
            self._unreadable(exchange, error)
            return None
        self._apply(exchange, payload, found, changes)
        return None

    async def _apart(self, exchange: Exchange, payload: Payload) -> None:
        changes: list[Change] = []
        try:
            found = await asyncio.to_thread(self._cleaned, exchange, payload.data, changes)
        except Unreadable as error:
            self._unreadable(exchange, error)
            return
        self._apply(exchange, payload, found, changes)

    def _cleaned(self, exchange: Exchange, body: bytes, changes: list[Change]) -> bytes:
        return self._sanitizer.body(exchange.headers.index.get(b"content-type", b""), body, changes)

    def _unreadable(self, exchange: Exchange, error: Unreadable) -> None:
        """What can't be read can't be cleaned, and who reads it more leniently would get it as it is."""
        self._rule.refuse(exchange, InvalidBody(f"{error}, so it can't be sanitized"))

    def _apply(self, exchange: Exchange, payload: Payload, found: bytes, changes: list[Change]) -> None:
        if changes and self._count(exchange, changes):
            payload.data = found
