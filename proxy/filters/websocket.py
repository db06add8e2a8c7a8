"""Who may open a WebSocket from where, and what a handshake offers goes on to the application."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.exchange import Exchange
from proxy.filter import Mode, Rule, RuleFilter
from proxy.headers import Headers, tokens
from proxy.origins import Origins
from proxy.rejection import BadHandshake, Forbidden

EXTENSIONS, PROTOCOL = b"sec-websocket-extensions", b"sec-websocket-protocol"
INSPECTED = b"permessage-deflate; client_no_context_takeover; server_no_context_takeover"
"""Each message compressed by itself: one can be read, or dropped, without the others (RFC 7692 section 7.1.1)."""


class WebSocketAccess(RuleFilter):
    """`origins` empty lets every origin in; so does a handshake without one, which no browser makes. `self` is the host
    that the handshake itself is for."""

    __slots__ = ("_deflate", "_origins", "_same", "_subprotocols")

    def __init__(self, rule: Rule, origins: tuple[str, ...], subprotocols: tuple[bytes, ...], deflate: str) -> None:
        super().__init__(rule)
        self._same = "self" in origins
        self._origins = Origins(tuple(one for one in origins if one != "self")) if origins else None
        self._subprotocols = frozenset(subprotocols)
        self._deflate = deflate

    def on_request(self, exchange: Exchange) -> None:
        if not exchange.websocket:
            return
        index = exchange.headers.index
        origin = index.get(b"origin")
        if self._origins is not None and origin is not None and not self._knows(self._origins, origin, index):
            self._rule.refuse(exchange, Forbidden("WebSockets are not opened from this origin"))
        changes: dict[bytes, bytes] = {}
        if self._subprotocols and PROTOCOL in index:
            offered = [one.strip() for value in exchange.headers.all(PROTOCOL) for one in value.split(b",")]
            allowed = [one for one in offered if one in self._subprotocols]
            if not allowed:
                known = b", ".join(sorted(self._subprotocols)).decode()
                self._rule.refuse(exchange, BadHandshake(f"no subprotocol that is spoken here; there are {known}"))
            changes[PROTOCOL] = b", ".join(allowed)
        if self._deflate != "pass" and EXTENSIONS in index:
            offers = b",".join(exchange.headers.all(EXTENSIONS)).lower()
            offered_deflate = any(b"permessage-deflate" in tokens(one.split(b";")[0]) for one in offers.split(b","))
            changes[EXTENSIONS] = INSPECTED if self._deflate == "inspect" and offered_deflate else b""
        if changes and self._rule.mode is Mode.ENFORCE:
            pairs = [pair for pair in exchange.headers.pairs if pair[0] not in changes]
            exchange.headers = Headers([*pairs, *((name, value) for name, value in changes.items() if value)])

    def _knows(self, origins: Origins, origin: bytes, index: Mapping[bytes, bytes]) -> bool:
        if self._same and origin.partition(b"://")[2].lower() == index.get(b"host", b"").lower():
            return True
        return origin in origins
