"""One connection to an endpoint: requests go out as bytes, answers come back through llhttp, checked once more.

What llhttp lets through and a client could misread is refused here: bare line ends and control characters in the head,
a transfer coding that isn't `chunked`, framing given twice, bytes after the message (RFC 9112 sections 6.3 and 11).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import httptools

from proxy.batch import Outbox
from proxy.exchange import Response
from proxy.headers import Pair
from proxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE
from proxy.rejection import InvalidUpstreamResponse, Rejection, UpstreamReset

if TYPE_CHECKING:
    from proxy.upstream.pool import Pool

MAX_HEAD = 64 * 1024
MAX_FIELDS = 200
MAX_INFORMATIONAL = 8

_CONTROLS = bytes(code for code in range(0x20) if code not in (0x09, 0x0A, 0x0D)) + b"\x7f"
_SINGLE = frozenset({b"content-length", b"transfer-encoding", b"content-type", b"location", b"content-range"})


class Receiver(Protocol):
    """Who gets an answer, piece by piece; all calls come from the event loop, in this order."""

    def on_informational(self, response: Response) -> None: ...

    def on_upstream_head(self, response: Response, length: int, data: bytes, ended: bool) -> None: ...

    def on_upstream_data(self, data: bytes, ended: bool) -> None: ...

    def on_upstream_switched(self, response: Response, data: bytes) -> None:
        """A 101 that was asked for; `data` is what came after it."""

    def on_tunnel_data(self, data: bytes) -> None: ...

    def on_tunnel_eof(self) -> None: ...

    def on_upstream_lost(self, rejection: Rejection) -> None:
        """The connection is of no more use; called at most once, and nothing after it."""

    def on_upstream_writable(self, writable: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Carries one exchange at a time; `pool` owns it between exchanges, `receiver` while one runs."""

    __slots__ = (
        "_bodyless", "_clean", "_ended", "_fields", "_in_head", "_informational", "_keep_alive", "_length", "_llhttp",
        "_outbox", "_partial", "_pieces", "_reason", "_receiver", "_response", "_told", "_tunnel", "_upgrade",
        "answered", "idle_since", "pool", "trailers", "transport", "used", "writable",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.used = 0
        self.idle_since = 0.0
        self.writable = True
        self.answered = False
        self._receiver: Receiver | None = None
        self._llhttp = httptools.HttpResponseParser(self)
        self._tunnel = False
        self._reset(bodyless=False, upgrade=False)

    def _reset(self, *, bodyless: bool, upgrade: bool) -> None:
        self._bodyless = bodyless
        self._upgrade = upgrade
        self._fields: list[Pair] = []
        self.trailers: list[Pair] = []
        self._pieces: list[bytes] = []
        self._reason = b""
        self._response: Response | None = None
        self._told = False
        self._length = NO_BODY
        self._partial = b""
        self._informational = 0
        self._in_head = True
        self._ended = False
        self._clean = True
        self._keep_alive = False
        self.answered = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, as create_connection gives it
        self._outbox = Outbox(self.pool.writer, self.transport)

    def pause_writing(self) -> None:
        self.writable = False
        if self._receiver is not None:
            self._receiver.on_upstream_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self._receiver is not None:
            self._receiver.on_upstream_writable(True)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.pool.on_lost(self)
            self.transport.abort()
            return
        if self._tunnel:
            receiver.on_tunnel_data(data)
            return
        self.answered = True
        try:
            if self._in_head:
                self._feed_heads(data)
            else:
                self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(receiver, data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, Rejection):
                cause = InvalidUpstreamResponse("the upstream's answer is no valid HTTP/1.1")
            self._fail(cause)
        except Rejection as rejection:
            self._fail(rejection)
        else:
            self._deliver(receiver)

    def eof_received(self) -> bool:
        receiver = self._receiver
        if self._tunnel and receiver is not None:
            receiver.on_tunnel_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.on_lost(self)
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if exc is None and self._response is not None and self._length == UNTIL_CLOSE and not self._tunnel:
            receiver.on_upstream_data(b"", True)
        else:
            receiver.on_upstream_lost(UpstreamReset("the upstream closed the connection before its answer had ended"))

    # httptools callbacks: they only note what was seen; _deliver acts on it

    def on_message_begin(self) -> None:
        if self._ended:
            self._clean = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._fields.append((name.lower(), value))
        else:
            self.trailers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        status = self._llhttp.get_status_code()
        if status < 200 and status != 101:
            self._on_informational(status)
            return
        self._in_head = False
        if self._llhttp.get_http_version() not in ("1.1", "1.0") or status > 599:
            raise InvalidUpstreamResponse("the upstream's answer has an unknown version or status")
        if len(self._fields) > MAX_FIELDS:
            raise InvalidUpstreamResponse(f"the upstream's answer has more than {MAX_FIELDS} fields")
        response = Response(status, self._reason, self._fields)
        self._length = self._framing(response)
        self._keep_alive = self._llhttp.should_keep_alive() and self._length != UNTIL_CLOSE
        self._response = response

    def on_body(self, piece: bytes) -> None:
        if not self._bodyless and not self._ended:
            self._pieces.append(piece)
        else:
            self._clean = False

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._ended = True

    # what the pool and the exchange call

    def start(self, receiver: Receiver, head: bytes, *, bodyless: bool, upgrade: bool) -> None:
        """Send a request's head; `bodyless` for HEAD, whose answer has none, `upgrade` where a 101 may come."""
        if self.used:
            self._reset(bodyless=bodyless, upgrade=upgrade)
        else:
            self._bodyless = bodyless
            self._upgrade = upgrade
        self.used += 1
        self._receiver = receiver
        self._outbox.write(head)

    def write(self, data: bytes) -> None:
        self._outbox.write(data)

    def finish_tunnel(self) -> None:
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self._outbox.flush()
            self.transport.write_eof()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def release(self, *, request_ended: bool) -> None:
        """The exchange is over: back to the pool where both messages ended cleanly, else closed."""
        self._receiver = None
        if request_ended and self._ended and self._clean and self._keep_alive and not self.transport.is_closing():
            if self._bodyless or self._response is None or self._response.status in (204, 304):
                self._llhttp = httptools.HttpResponseParser(self)
            self.pool.on_released(self)
        else:
            self.pool.on_discarded(self)
            self.transport.abort()

    def abandon(self) -> None:
        """Whatever comes of the answer, the connection can't be used again."""
        self._clean = False

    @property
    def reused(self) -> bool:
        return self.used > 1

    # the answer

    def _feed_heads(self, data: bytes) -> None:
        """Feed llhttp whole heads only, each checked first; interim ones one by one."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        while self._in_head and data:
            end = data.find(b"\r\n\r\n") + 4
            head = data[:end] if end > 3 else data
            if len(head) > MAX_HEAD:
                raise InvalidUpstreamResponse(f"the upstream's response head exceeds {MAX_HEAD} bytes")
            lines = head.count(b"\n")
            if lines != head.count(b"\r\n") or len(head.translate(None, _CONTROLS)) != len(head):
                raise InvalidUpstreamResponse("the upstream's response head holds control characters")
            if end <= 3:
                self._partial = data
                if not data.startswith(b"HTTP/"[: len(data)]):
                    raise InvalidUpstreamResponse("the upstream's answer is no HTTP/1.1")
                return
            if data[9:10] != b"1":
                self._llhttp.feed_data(data)
                return
            self._llhttp.feed_data(head)
            data = data[end:]

    def _framing(self, response: Response) -> int:
        headers = response.headers
        index = headers.index
        if len(index) != len(headers.pairs):
            for name in _SINGLE & index.keys():
                if len(headers.all(name)) > 1:
                    raise InvalidUpstreamResponse(f"the upstream sent {name.decode()} more than once")
        coding = index.get(b"transfer-encoding")
        length = index.get(b"content-length")
        if coding is not None and (length is not None or coding.lower() != b"chunked"):
            raise InvalidUpstreamResponse("the upstream's answer has ambiguous framing")
        if length is not None and not (length.isdigit() and len(length) <= 18):
            raise InvalidUpstreamResponse("the upstream's Content-Length is no number")
        if self._bodyless or response.status in (101, 204, 304):
            self._ended = True
            return NO_BODY
        if coding is not None:
            return CHUNKED
        return int(length) if length is not None else UNTIL_CLOSE

    def _on_informational(self, status: int) -> None:
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise InvalidUpstreamResponse(f"the upstream sent more than {MAX_INFORMATIONAL} interim answers")
        if status != 100 and self._receiver is not None:
            self._receiver.on_informational(Response(status, self._reason, self._fields))
        self._fields = []
        self._reason = b""

    def _deliver(self, receiver: Receiver) -> None:
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._pieces = []
        else:
            data = b""
        if self._told:
            if data or self._ended:
                receiver.on_upstream_data(data, self._ended)
        elif self._response is not None:
            self._told = True
            if self._response.status == 101:
                self._fail(InvalidUpstreamResponse("the upstream switched protocols without being asked to"))
            else:
                receiver.on_upstream_head(self._response, self._length, data, self._ended)

    def _switch(self, receiver: Receiver, data: bytes) -> None:
        response = self._response
        if response is None or response.status != 101 or not self._upgrade:
            self._fail(InvalidUpstreamResponse("the upstream switched protocols without being asked to"))
            return
        self._tunnel = True
        receiver.on_upstream_switched(response, data)

    def _fail(self, rejection: Rejection) -> None:
        receiver, self._receiver = self._receiver, None
        self.pool.on_discarded(self)
        self.transport.abort()
        if receiver is not None:
            receiver.on_upstream_lost(rejection)
