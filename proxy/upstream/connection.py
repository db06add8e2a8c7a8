"""One connection to an endpoint: requests go out as bytes, answers come back as heads and pieces of bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from proxy.batch import Outbox
from proxy.exchange import Response
from proxy.headers import Headers, Pair
from proxy.http1.framing import NO_BODY, UNTIL_CLOSE
from proxy.http1.response import Body, Head, HeadReader
from proxy.rejection import InvalidUpstreamResponse, Rejection, UpstreamReset

if TYPE_CHECKING:
    from proxy.upstream.pool import Pool

LAST_WORDS = 2.0
"""Seconds that a WebSocket's last frame has to leave in."""
MAX_INFORMATIONAL = 8


class Receiver(Protocol):
    """Who gets an answer, piece by piece; all calls come from the event loop, in this order."""

    __slots__ = ()

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
        "_abandoned", "_body", "_bodyless", "_heads", "_informational", "_keep_alive", "_length", "_outbox",
        "_paused", "_receiver", "_tunnel", "_upgrade", "answered", "idle_since", "pool", "remote", "transport", "used",
        "writable", "write",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.used = 0
        self.idle_since = 0.0
        self.remote = ""
        """The address, where the endpoint is a name."""
        self.writable = True
        self.answered = False
        self._heads = HeadReader(pool.heads, pool.statuses, pool.fields)
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._length = 0
        self._keep_alive = False
        self._abandoned = False
        self._bodyless = False
        self._upgrade = False
        self._tunnel = False
        self._informational = 0
        self._paused = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, as create_connection gives it
        self._outbox = outbox = Outbox(self.pool.writer, self.transport)
        self.write: Callable[[bytes], None] = outbox.write

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
        body = self._body
        try:
            if body is None:
                head = self._heads.feed(data)
                if head is not None and head.status < 200:
                    head = self._after_interim(receiver, head)
                if head is None or self._receiver is None:
                    return
                self._on_head(receiver, head)
            else:
                data = body.feed(data)
                if data or body.ended:
                    receiver.on_upstream_data(data, body.ended)
        except InvalidUpstreamResponse as rejection:
            self._fail(rejection)

    def _on_head(self, receiver: Receiver, head: Head) -> None:
        status = head.status
        self._length = length = NO_BODY if self._bodyless else head.length
        self._keep_alive = length != UNTIL_CLOSE and head.keeps
        self._body = body = Body(length)
        response = Response(status, head.reason, Headers.like(head.headers))
        if status == 101:
            self._switch(receiver, response)
        else:
            data = body.feed(self._heads.rest)
            receiver.on_upstream_head(response, length, data, body.ended)

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
        if exc is None and self._body is not None and self._length == UNTIL_CLOSE and not self._tunnel:
            receiver.on_upstream_data(b"", True)
        else:
            receiver.on_upstream_lost(UpstreamReset("the upstream closed the connection before its answer had ended"))

    # what the pool and the exchange call

    def start(self, receiver: Receiver, head: bytes, *, bodyless: bool, upgrade: bool) -> None:
        """Send a request's head; `bodyless` for HEAD, whose answer has none, `upgrade` where a 101 may come."""
        self.used += 1
        self._receiver = receiver
        self._body = None
        self._bodyless = bodyless
        self._upgrade = upgrade
        self._abandoned = False
        self.answered = False
        self._informational = 0
        self.write(head)

    def finish_tunnel(self) -> None:
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self._outbox.flush()
            self.transport.write_eof()

    def pause_reading(self) -> None:
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self.transport.resume_reading()

    def release(self, *, request_ended: bool) -> None:
        """The exchange is over: back to the pool where both messages ended cleanly, else closed."""
        self._receiver = None
        body = self._body
        answered = body is not None and body.ended and body.clean
        kept = self._keep_alive and not (self._abandoned or self._tunnel or self.pool.preamble)
        if answered and request_ended and kept and not self.transport.is_closing():
            if self._paused:
                self.resume_reading()
            self.pool.on_released(self)
        else:
            self.pool.on_discarded(self)
            if self._tunnel and not self.transport.is_closing():
                self._outbox.flush()
                self.transport.close()
                asyncio.get_running_loop().call_later(LAST_WORDS, self.transport.abort)
            else:
                self.transport.abort()

    def hand_over(self, receiver: Receiver) -> None:
        """From now on somebody else gets the answer."""
        self._receiver = receiver

    def abandon(self) -> None:
        """Whatever comes of the answer, the connection can't be used again."""
        self._abandoned = True

    @property
    def reused(self) -> bool:
        return self.used > 1

    @property
    def trailers(self) -> list[Pair]:
        return self._body.trailers if self._body else []

    # the answer

    def _after_interim(self, receiver: Receiver, head: Head | None) -> Head | None:
        """Pass interim heads on; the next that is none, or None while it is not all there."""
        while head is not None and head.status < 200 and head.status != 101:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise InvalidUpstreamResponse(f"the upstream sent more than {MAX_INFORMATIONAL} interim answers")
            if head.status != 100:
                receiver.on_informational(Response(head.status, head.reason, Headers.like(head.headers)))
            rest = self._heads.rest
            head = self._heads.feed(rest) if rest else None
        return head

    def _switch(self, receiver: Receiver, response: Response) -> None:
        if not self._upgrade:
            raise InvalidUpstreamResponse("the upstream switched protocols without being asked to")
        self._tunnel = True
        receiver.on_upstream_switched(response, self._heads.rest)

    def _fail(self, rejection: Rejection) -> None:
        receiver, self._receiver = self._receiver, None
        self.pool.on_discarded(self)
        self.transport.abort()
        if receiver is not None:
            receiver.on_upstream_lost(rejection)
