"""WebSocket handshakes (RFC 6455 section 4): what a client asks for, and what an upstream may answer."""

from __future__ import annotations

import base64
import binascii
import hashlib

from proxy.exchange import Exchange, Response
from proxy.headers import tokens
from proxy.http1.framing import NO_BODY
from proxy.rejection import BadHandshake, InvalidUpstreamResponse
from proxy.websocket.terms import SocketTerms

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


def agreed(exchange: Exchange, response: Response, terms: SocketTerms) -> bool:
    """Whether messages may be compressed, by what the upstream took of what it was offered (sections 4.1, 9.1).

    Raises InvalidUpstreamResponse where it took something else.
    """
    key = exchange.headers.index[b"sec-websocket-key"]
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    headers = response.headers
    if headers.get(b"sec-websocket-accept") != accept:
        raise InvalidUpstreamResponse("the upstream's Sec-WebSocket-Accept does not fit the key")
    offered = [one.strip() for value in exchange.headers.all(b"sec-websocket-protocol") for one in value.split(b",")]
    chosen = headers.all(b"sec-websocket-protocol")
    if len(chosen) > 1 or (chosen and chosen[0] not in offered):
        raise InvalidUpstreamResponse("the upstream chose a subprotocol that was not offered")
    taken = [one.strip() for value in headers.all(b"sec-websocket-extensions") for one in value.split(b",")]
    if not taken:
        return False
    wanted = b",".join(exchange.headers.all(b"sec-websocket-extensions")).lower()
    names = [one.split(b";")[0].strip().lower() for one in taken]
    if names != [b"permessage-deflate"] or b"permessage-deflate" not in wanted:
        raise InvalidUpstreamResponse("the upstream took an extension that was not offered, or is not known")
    parameters = {one.strip().split(b"=")[0].lower() for one in taken[0].split(b";")[1:]}
    alone = {b"client_no_context_takeover", b"server_no_context_takeover"}
    if terms.deflate == "inspect" and not alone <= parameters:
        raise InvalidUpstreamResponse("the upstream does not compress each message by itself")
    return True
