"""Who may open a WebSocket from where, and what a handshake offers goes on to the application."""

from __future__ import annotations

from proxy.exchange import Exchange
from proxy.filter import Mode, Rule, RuleFilter
from proxy.headers import Headers
from proxy.origins import Origins
from proxy.rejection import BadHandshake, Forbidden

SUBPROTOCOL = b"sec-websocket-protocol"
DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


class WebSocketAccess(RuleFilter):
    """`origins` empty lets every origin in; so does a handshake without one, which no browser makes. `self` is the host
    and port that the handshake itself is for."""

    __slots__ = ("_origins", "_same", "_subprotocols")

    def __init__(self, rule: Rule, origins: tuple[str, ...], subprotocols: tuple[bytes, ...]) -> None:
        super().__init__(rule)
        self._same = "self" in origins
        self._origins = Origins(tuple(one for one in origins if one != "self")) if origins else None
        self._subprotocols = frozenset(subprotocols)

    def on_request(self, exchange: Exchange) -> None:
        if not exchange.websocket:
            return
        index = exchange.headers.index
        origin = index.get(b"origin")
        if self._origins is not None and origin is not None and not self._knows(self._origins, origin, exchange):
            self._rule.refuse(exchange, Forbidden("WebSockets are not opened from this origin"))
        if self._subprotocols and SUBPROTOCOL in index:
            offered = [one.strip() for value in exchange.headers.all(SUBPROTOCOL) for one in value.split(b",")]
            allowed = [one for one in offered if one in self._subprotocols]
            if not allowed:
                known = b", ".join(sorted(self._subprotocols)).decode()
                self._rule.refuse(exchange, BadHandshake(f"no subprotocol that is spoken here; there are {known}"))
            if self._rule.mode is Mode.ENFORCE:
                pairs = [pair for pair in exchange.headers.pairs if pair[0] != SUBPROTOCOL]
                exchange.headers = Headers([*pairs, (SUBPROTOCOL, b", ".join(allowed))])

    def _knows(self, origins: Origins, origin: bytes, exchange: Exchange) -> bool:
        return (self._same and _is_same(origin.lower(), exchange)) or origin in origins


def _is_same(origin: bytes, exchange: Exchange) -> bool:
    """By host and port (RFC 6454 section 5). The scheme may be http's where nobody vouches that the client came by
    TLS; where somebody does, it is https."""
    scheme, _, authority = origin.partition(b"://")
    if scheme not in DEFAULT_PORTS or (exchange.scheme == b"https" and scheme != b"https"):
        return False
    port = DEFAULT_PORTS[scheme]
    return _split(authority, port) == _split((exchange.public_host or exchange.host).lower(), port)


def _split(authority: bytes, default: bytes) -> tuple[bytes, bytes]:
    host, colon, port = authority.rpartition(b":")
    return (host, port) if colon and port.isdigit() else (authority, default)
