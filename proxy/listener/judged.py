"""An answer's body on its way to the client: shown to those who keep it, held where policies judge it first."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from proxy.exchange import Payload, Response
from proxy.http1.framing import NO_BODY
from proxy.listener.fallback import Keeper
from proxy.listener.instead import Instead
from proxy.rejection import InvalidUpstreamResponse, Rejection

if TYPE_CHECKING:
    from proxy.filter import Watch
    from proxy.headers import Pair
    from proxy.listener.http1 import Downstream

log = logging.getLogger(__name__)


class Judged(Instead):
    """`_watch` is who looks at the answer that passes; `_response_head` waits where its body is held."""

    __slots__ = ("_buffered", "_keeper", "_length", "_response_body", "_response_head", "_watch")

    def __init__(self, client: Downstream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(client, loop)
        self._response_head: Response | None = None
        self._response_body: list[bytes] = []
        self._buffered = 0
        self._keeper: Keeper | None = None
        self._watch: Watch | None = None
        self._length = NO_BODY

    @abstractmethod
    def on_client_writable(self, writable: bool) -> None:
        """The client takes what is sent, or no more for now; the Forwarder's."""

    @abstractmethod
    def _spawn(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        """Wait in a task of the exchange's; the Forwarder's."""

    def _keep(self, data: bytes, ended: bool) -> None:
        """Show a piece of the body, as it goes to the client, to those who keep answers."""
        if self._keeper is not None:
            self._keeper.feed(data, ended)
        if self._ticket is not None:
            self._ticket.feed(data, ended)

    def _trailers_of(self, ended: bool) -> list[Pair]:
        return self._upstream.trailers if ended and self._upstream is not None else []

    def _see(self, watch: Watch, data: bytes, ended: bool) -> None:
        """What passes is copied until there is enough to look at; that changes nothing."""
        self._response_body.append(data)
        self._buffered += len(data)
        if not ended and self._buffered < watch.most:
            return
        self._watch = None
        seen, self._response_body = b"".join(self._response_body)[: watch.most], []
        try:
            watch.judge(seen, whole=ended)
        except Exception:
            exchange = self._current()
            log.exception("an answer could not be looked at", extra={"request_id": exchange.request_id.decode()})

    def _collect_response(self, response: Response, data: bytes, ended: bool) -> None:
        self._response_body.append(data)
        self._buffered += len(data)
        watch = self._watch
        if watch is not None and watch.holds and not self._route.chain.buffers_response:
            if ended or self._buffered >= watch.most:
                self._release(watch, response, ended)
        elif self._buffered > self._route.limits.max_buffered:
            self._conclude(InvalidUpstreamResponse("the upstream's body exceeds what this route's policies can check"))
        elif ended:
            self._spawn(self._judge_response(), lambda: None)

    def _release(self, watch: Watch, response: Response, ended: bool) -> None:
        """What was held goes on, if it may."""
        exchange = self._current()
        self._watch = self._response_head = None
        seen, self._response_body = b"".join(self._response_body), []
        trailers, length = self._trailers_of(ended), self._length
        try:
            found = watch.judge(seen, whole=ended)
            if found is not seen:
                trailers, length = [], len(found)
                response.headers.set(b"content-length", b"%d" % length)
            self._route.chain.on_response(exchange, response)
        except Rejection as rejection:
            self._conclude(rejection)
            return
        except Exception:
            self._defect()
            return
        self._keep(found, ended)
        self._answer.head(response, length, found, ended, trailers)
        if ended:
            self._finish(clean=True)
        elif self._client.blocked_for(self._upstream_at):
            self.on_client_writable(False)

    async def _judge_response(self) -> None:
        exchange, response = self._current(), self._response_head
        payload = Payload(b"".join(self._response_body))
        await self._route.chain.on_upstream_payload(exchange, payload)
        if self._watch is not None:
            payload.data = self._watch.judge(payload.data, whole=True)
        self._keep(payload.data, True)
        if response is not None:
            response.headers.set(b"content-length", b"%d" % len(payload.data))
            self._route.chain.on_response(exchange, response)
            self._answer.head(response, len(payload.data), payload.data, True, [])
            self._finish(clean=True)
