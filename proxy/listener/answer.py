"""Writes one exchange's answer to the client: head, body in the client's framing, end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.exchange import Exchange, Response
from proxy.headers import HOP_BY_HOP, Pair, with_named
from proxy.http1.chunked import encode_chunk, encode_last_chunk
from proxy.http1.framing import NO_BODY
from proxy.listener.rescue import REASONS, http_date

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream

REMOVED = HOP_BY_HOP | {b"server", b"x-powered-by"}


class AnswerWriter:
    """`begun` once the final head is out; `keep_alive` then says whether the connection stays."""

    __slots__ = ("_chunked", "_client", "_exchange", "begun", "keep_alive")

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self.begun = False
        self.keep_alive = False
        self._chunked = False

    def begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.begun = False
        self.keep_alive = False
        self._chunked = False

    def informational(self, response: Response) -> None:
        if not self.begun:
            self._client.send(b"".join([*_lines(response), b"\r\n"]))

    def head(self, response: Response, length: int, data: bytes, ended: bool, trailers: list[Pair]) -> None:
        """The final head, with what of the body is there; `length` is the framing that the upstream used."""
        exchange = self._exchange
        lines = _lines(response)
        self.keep_alive = keep_alive = self._client.may_keep_alive
        if length < NO_BODY:
            if exchange.minor:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = keep_alive = False
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        elif not exchange.minor:
            lines.append(b"connection: keep-alive\r\n")
        if b"date" not in response.headers.index:
            lines.append(b"date: %b\r\n" % http_date())
        lines.append(b"\r\n")
        self.begun = True
        exchange.status = response.status
        if self._chunked:
            self._body(lines, data, ended, trailers)
            return
        if data:
            exchange.bytes_out += len(data)
            lines.append(data)
        self._client.send(b"".join(lines))

    def data(self, data: bytes, ended: bool, trailers: list[Pair]) -> None:
        self._body([], data, ended, trailers)

    def _body(self, lines: list[bytes], data: bytes, ended: bool, trailers: list[Pair]) -> None:
        if data:
            self._exchange.bytes_out += len(data)
            lines.append(encode_chunk(data) if self._chunked else data)
        if ended and self._chunked:
            lines.append(encode_last_chunk(trailers))
        if lines:
            self._client.send(b"".join(lines))

    def own(self, response: Response, *, closing: bool) -> None:
        """An answer made here, whole."""
        if closing:
            self._client.may_keep_alive = False
        body = b"" if self._exchange.method == b"HEAD" else response.body
        self.head(response, len(response.body), body, True, [])

    def switching(self, response: Response, data: bytes) -> None:
        lines = _lines(response)
        lines.append(b"connection: upgrade\r\nupgrade: websocket\r\n\r\n")
        self.begun = True
        self._exchange.status = response.status
        self._client.send(b"".join([*lines, data]))


def _lines(response: Response) -> list[bytes]:
    headers = response.headers
    return [
        _STATUS_LINES.get(response.status) or _status_line(response),
        headers.encoded if headers.encoded is not None else _encoded(response),
        *response.blocks,
    ]


def _encoded(response: Response) -> bytes:
    headers = response.headers
    removed = with_named(REMOVED, headers) if b"connection" in headers.index else REMOVED
    if response.status < 200 or response.status == 204:
        removed = removed | {b"content-length"}
    encoded = b"".join([b"%b: %b\r\n" % pair for pair in headers.pairs if pair[0] not in removed])
    headers.keep_encoded(encoded)
    return encoded


def _status_line(response: Response) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)


_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()}
"""With the standard's reason phrases: what an upstream calls its statuses says nothing (RFC 9110 section 15.1)."""
