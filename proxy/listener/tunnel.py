"""What follows a 101: bytes both ways, with back-pressure, until both sides have ended (RFC 6455).

Frames pass unread for now; the WebSocket policies will look at them here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

from proxy.exchange import Exchange
from proxy.headers import tokens
from proxy.http1.framing import NO_BODY
from proxy.rejection import BadHandshake

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream
    from proxy.upstream.connection import UpstreamConnection

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def is_handshake(exchange: Exchange, length: int) -> bool:
    """Whether the request opens a WebSocket; any other upgrade is not passed on, and the request goes as it is.

    Raises BadHandshake where it means to open one and does it wrongly (RFC 6455 section 4.2.1).
    """
    index = exchange.headers.index
    if index.get(b"upgrade", b"").lower() != b"websocket":
        return False
    if b"upgrade" not in tokens(b",".join(exchange.headers.all(b"connection"))):
        return False
    if exchange.method != b"GET" or exchange.minor == 0:
        return False
    if length != NO_BODY:
        raise BadHandshake("a WebSocket handshake has no body", rule="http.websocket")
    if index.get(b"sec-websocket-version") != b"13":
        raise BadHandshake(
            "only version 13 of the WebSocket protocol is spoken",
            rule="http.websocket",
            headers=((b"sec-websocket-version", b"13"),),
        )
    try:
        key = base64.b64decode(index.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise BadHandshake("Sec-WebSocket-Key is no 16 bytes in base64", rule="http.websocket")
    return True


def accepts(exchange: Exchange, answer: bytes | None) -> bool:
    """Whether the upstream's Sec-WebSocket-Accept belongs to the client's key."""
    key = exchange.headers.index[b"sec-websocket-key"]
    return answer == base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Tunnel:
    """Two half-open streams; `finished` once both have ended."""

    __slots__ = ("_client", "_client_ended", "_upstream", "_upstream_ended", "last_activity")

    def __init__(self, client: Downstream, upstream: UpstreamConnection, now: float) -> None:
        self._client = client
        self._upstream = upstream
        self._client_ended = False
        self._upstream_ended = False
        self.last_activity = now

    @property
    def finished(self) -> bool:
        return self._client_ended and self._upstream_ended

    def from_client(self, data: bytes, now: float) -> None:
        self.last_activity = now
        self._upstream.write(data)

    def from_upstream(self, data: bytes, now: float) -> None:
        self.last_activity = now
        self._client.send(data)

    def client_ended(self) -> None:
        self._client_ended = True
        self._upstream.finish_tunnel()

    def upstream_ended(self) -> None:
        self._upstream_ended = True
        self._client.end_of_stream()
