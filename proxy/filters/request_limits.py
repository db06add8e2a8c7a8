"""What a request may look like: methods, media types, sizes of target and head."""

from __future__ import annotations

from proxy.exchange import Exchange
from proxy.filter import Rule, RuleFilter
from proxy.rejection import BodyTooLarge, MethodNotAllowed, TargetTooLong, UnsupportedMediaType


class RequestLimits(RuleFilter):
    """Media types are `type/subtype`, `type/*`, or `type/*+suffix`; they are asked for only where there is a body."""

    __slots__ = ("_exact", "_max_body", "_max_target", "_methods", "_suffixes", "_types")

    def __init__(
        self,
        rule: Rule,
        methods: tuple[str, ...],
        media_types: tuple[str, ...],
        max_target: int | None,
        max_body: int | None,
    ) -> None:
        super().__init__(rule)
        self._methods = frozenset(method.encode() for method in methods)
        encoded = [media_type.lower().encode() for media_type in media_types]
        self._exact = frozenset(encoded)
        self._types = tuple(m[:-1] for m in encoded if m.endswith(b"/*"))
        self._suffixes = tuple(tuple(m.split(b"*", 1)) for m in encoded if b"*+" in m)
        self._max_target = max_target
        self._max_body = max_body

    def on_request(self, exchange: Exchange) -> None:
        if self._methods and exchange.method not in self._methods:
            allow = b", ".join(sorted(self._methods))
            self._rule.refuse(
                exchange,
                MethodNotAllowed(
                    f"allowed are {allow.decode()}", remedy="Use one of them.", headers=((b"allow", allow),)
                ),
            )
        if self._max_target and len(exchange.path) + len(exchange.query) > self._max_target:
            self._rule.refuse(exchange, TargetTooLong(f"the target exceeds {self._max_target} bytes"))
        if exchange.body_length:
            if self._max_body and exchange.body_length > self._max_body:
                self._rule.refuse(exchange, BodyTooLarge(f"the body exceeds {self._max_body} bytes"))
            if self._exact:
                self._check_media_type(exchange)

    def _check_media_type(self, exchange: Exchange) -> None:
        given = exchange.headers.index.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        if given in self._exact or any(given.startswith(prefix) for prefix in self._types):
            return
        if any(given.startswith(start) and given.endswith(end) for start, end in self._suffixes):
            return
        accepted = b", ".join(sorted(self._exact))
        self._rule.refuse(
            exchange,
            UnsupportedMediaType(
                "the body's media type is not accepted here",
                remedy=f"Send one of: {accepted.decode()}.",
                headers=((b"accept", accepted),),
            ),
        )
