"""WebSocket handshakes (RFC 6455 section 4): what a client asks for, and what an upstream may answer."""

from __future__ import annotations

import base64
import binascii
import hashlib

from proxy.exchange import Exchange, Response
from proxy.headers import Headers, tokens
from proxy.http1.framing import NO_BODY
from proxy.listener.extensions import CLIENT_ALONE, SERVER_ALONE, Malformed, answered, offers, proposal
from proxy.rejection import BadHandshake, InvalidUpstreamResponse
from proxy.websocket.terms import SocketTerms

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
EXTENSIONS, SUBPROTOCOL = b"sec-websocket-extensions", b"sec-websocket-protocol"


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


def propose(exchange: Exchange, terms: SocketTerms) -> None:
    """Of the extensions that the client offers, those go on that the route's terms can do with. Raises BadHandshake."""
    headers = exchange.headers
    if EXTENSIONS not in headers.index:
        return
    try:
        offered = proposal(offers(headers.all(EXTENSIONS)), terms.deflate)
    except Malformed:
        raise BadHandshake("Sec-WebSocket-Extensions is no list of extensions", rule="http.websocket") from None
    pairs = [pair for pair in headers.pairs if pair[0] != EXTENSIONS]
    exchange.headers = Headers([*pairs, (EXTENSIONS, offered)] if offered else pairs)


def agreed(exchange: Exchange, response: Response, terms: SocketTerms) -> bool:
    """Whether messages may be compressed, by what the upstream took of what it was offered (sections 4.1, 9.1).

    Raises InvalidUpstreamResponse where it took something else, or switched to something else.
    """
    _check_switch(response.headers, exchange.headers.index[b"sec-websocket-key"])
    headers = response.headers
    offered = [one.strip() for value in exchange.headers.all(SUBPROTOCOL) for one in value.split(b",")]
    chosen = headers.all(SUBPROTOCOL)
    if len(chosen) > 1 or (chosen and chosen[0] not in offered):
        raise InvalidUpstreamResponse("the upstream chose a subprotocol that was not offered")
    try:
        taken = answered(headers.all(EXTENSIONS), offers(exchange.headers.all(EXTENSIONS)))
    except ValueError:
        raise InvalidUpstreamResponse("the upstream took an extension that was not offered, or not so") from None
    if taken is None:
        return False
    if terms.deflate == "inspect" and not {CLIENT_ALONE, SERVER_ALONE} <= taken.keys():
        raise InvalidUpstreamResponse("the upstream does not compress each message by itself")
    return True


def _check_switch(headers: Headers, key: bytes) -> None:
    """The 101 itself (RFC 6455 section 4.2.2, RFC 9110 sections 7.8 and 8.6)."""
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    if headers.all(b"sec-websocket-accept") != [accept]:
        raise InvalidUpstreamResponse("the upstream's Sec-WebSocket-Accept does not fit the key")
    if [one.lower() for one in headers.all(b"upgrade")] != [b"websocket"]:
        raise InvalidUpstreamResponse("the upstream's 101 does not switch to websocket")
    if b"upgrade" not in tokens(b",".join(headers.all(b"connection"))):
        raise InvalidUpstreamResponse("the upstream's 101 has no Connection: Upgrade")
    if b"transfer-encoding" in headers.index or headers.index.get(b"content-length", b"0") != b"0":
        raise InvalidUpstreamResponse("the upstream's 101 announces a body")
