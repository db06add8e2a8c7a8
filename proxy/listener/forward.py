"""One exchange at a time for one client connection: chain, cluster, endpoint, and the way back.

Driven by callbacks: no task exists unless a filter has to wait. The Forwarder is the Waiter of a pool and the Receiver
of an upstream connection; `client` is the connection that it works for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.exchange import Answered, Exchange, Payload, Response
from proxy.forwarding import request_head
from proxy.headers import Headers
from proxy.http1.chunked import encode_chunk, encode_last_chunk
from proxy.http1.framing import CHUNKED, NO_BODY
from proxy.listener.answer import AnswerWriter
from proxy.listener.rescue import refusal
from proxy.listener.tunnel import Tunnel, accepts
from proxy.rejection import (
    BodyTooLarge,
    InternalError,
    InvalidUpstreamResponse,
    Rejection,
    SlowClient,
    UpstreamTimeout,
)
from proxy.upstream.cluster import Endpoint
from proxy.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from proxy.headers import Pair
    from proxy.listener.http1 import Downstream
    from proxy.routing import Route

log = logging.getLogger(__name__)

PENDING_LIMIT = 64 * 1024
"""Bytes of a request body held while no upstream connection is there yet; then the client is not read from."""
SAFE_TO_REPEAT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2; TRACE is refused anyway."""
MAX_STALE_RETRIES = 3


class Forwarder:
    __slots__ = (
        "_answer", "_buffered", "_client", "_collecting", "_endpoint", "_expects", "_length", "_loop", "_pending",
        "_pending_size", "_progress", "_progress_at", "_request_ended", "_response_body", "_response_head", "_retries",
        "_route", "_task", "_trailers", "_tried_at", "_tunnel", "_upstream", "_upstream_at", "exchange",
    )  # fmt: skip

    def __init__(self, client: Downstream, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._answer = AnswerWriter(client)
        self._task: asyncio.Future[None] | None = None
        self.exchange: Exchange | None = None

    # the request

    def begin(self, exchange: Exchange, route: Route, length: int, *, expects: bool) -> None:
        self.exchange = exchange
        self._route = route
        self._length = length
        self._expects = expects
        self._request_ended = length == NO_BODY
        self._upstream: UpstreamConnection | None = None
        self._endpoint: Endpoint | None = None
        self._tunnel: Tunnel | None = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._retries = 0
        self._progress = 0
        self._progress_at = self._tried_at = self._upstream_at = exchange.started
        self._trailers: list[Pair] = []
        self._collecting = route.chain.buffers_request and length != NO_BODY
        self._response_head: Response | None = None
        self._response_body: list[bytes] = []
        self._buffered = 0
        route.stats.in_flight += 1
        self._answer.begin(exchange)
        self._run_policies(exchange, -1)

    def _run_policies(self, exchange: Exchange, after: int) -> None:
        try:
            waiting = self._route.chain.on_request(exchange, after)
        except (Rejection, Answered) as outcome:
            self._conclude(outcome)
        except Exception:
            self._defect()
        else:
            if waiting is None:
                self._admitted()
            else:
                self._task = future = asyncio.ensure_future(waiting)
                future.add_done_callback(self._on_waited)

    def _on_waited(self, future: asyncio.Future[None]) -> None:
        """What a request hook waited for is there; the others come after it."""
        if future.cancelled() or self._task is not future:
            return
        self._task = None
        outcome = future.exception()
        exchange = self._current()
        if outcome is None:
            self._run_policies(exchange, exchange.begun)
        elif isinstance(outcome, Rejection | Answered):
            self._conclude(outcome)
        else:
            self._defect(outcome)

    def _spawn(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        self._task = self._loop.create_task(self._wait(waiting, then), name="policies")

    async def _wait(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        try:
            await waiting
            self._task = None
            then()
        except (Rejection, Answered) as outcome:
            self._task = None
            self._conclude(outcome)
        except Exception:
            self._task = None
            self._defect()

    def _admitted(self) -> None:
        """The policies let the request's head pass."""
        if self._collecting:
            self._continue()
            if self._request_ended:
                self._collected()
        else:
            self._connect()

    def _continue(self) -> None:
        if self._expects and self.exchange is not None and not self.exchange.bytes_in and self.exchange.minor:
            self._expects = False
            self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _collected(self) -> None:
        """Judge the whole body. The fields change on a copy: the client's next request may mean the same ones again."""
        exchange = self._current()
        self._collecting = False
        payload = Payload(b"".join(self._pending))

        async def judge() -> None:
            await self._route.chain.on_client_payload(exchange, payload)
            self._pending = [payload.data] if payload.data else []
            self._length = len(payload.data)
            exchange.headers = Headers(list(exchange.headers.pairs))
            exchange.headers.set(b"content-length", b"%d" % self._length)

        self._spawn(judge(), self._connect)

    def _connect(self, *, fresh: bool = False) -> None:
        exchange = self._current()
        cluster = self._route.cluster
        endpoint = cluster.pick()
        endpoint.active += 1
        self._endpoint = endpoint
        exchange.cluster = cluster.name
        exchange.endpoint = endpoint.address
        try:
            connection = endpoint.pool.acquire(self, fresh=fresh)
        except Rejection as rejection:
            self._conclude(rejection)
            return
        if connection is not None:
            self.on_connection(connection)
        else:
            self._tried_at = self._loop.time()

    def on_connection(self, connection: UpstreamConnection) -> None:
        exchange = self._current()
        self._upstream = connection
        self._tried_at = self._upstream_at = self._loop.time()
        exchange.upstream_started = perf_counter()
        head = request_head(exchange, self._length, exchange.endpoint)
        connection.start(self, head, bodyless=exchange.method == b"HEAD", upgrade=exchange.websocket)
        if self._length == NO_BODY:
            return
        self._continue()
        for piece in self._pending:
            self._write_body(connection, piece)
        if self._retries == 0 and not self._request_ended:
            self._pending = []
        if self._request_ended:
            self._end_body(connection)
        elif connection.writable:
            self._client.read_on()

    def on_no_connection(self, rejection: Rejection) -> None:
        self._conclude(rejection)

    def on_client_data(self, data: bytes) -> None:
        exchange = self._current()
        exchange.bytes_in += len(data)
        self._progress += len(data)
        limit = self._route.limits.max_buffered if self._collecting else self._route.limits.max_body
        if exchange.bytes_in > limit:
            self._conclude(BodyTooLarge(f"the body exceeds {limit} bytes", rule="limits.max_body"))
            return
        connection = self._upstream
        if connection is None or self._collecting:
            self._pending.append(data)
            self._pending_size += len(data)
            if self._pending_size > PENDING_LIMIT and not self._collecting:
                self._client.hold()
        else:
            self._write_body(connection, data)

    def _write_body(self, connection: UpstreamConnection, data: bytes) -> None:
        connection.write(encode_chunk(data) if self._length == CHUNKED else data)

    def on_client_end(self, trailers: list[Pair]) -> None:
        self._request_ended = True
        self._trailers = trailers
        if self._collecting:
            if self._task is None:
                self._collected()
        elif self._upstream is not None:
            self._end_body(self._upstream)

    def _end_body(self, connection: UpstreamConnection) -> None:
        self._tried_at = self._loop.time()
        if self._length == CHUNKED:
            connection.write(encode_last_chunk(self._trailers))

    def on_client_writable(self, writable: bool) -> None:
        if self._upstream is not None and not self._upstream.transport.is_closing():
            if writable:
                self._upstream.resume_reading()
                self._upstream_at = self._loop.time()
            else:
                self._upstream.pause_reading()

    def on_upstream_writable(self, writable: bool) -> None:
        self._upstream_at = self._progress_at = self._loop.time()
        self._progress = 0
        if writable:
            self._client.read_on()
        else:
            self._client.hold()

    def on_client_gone(self) -> None:
        """The client is no more: whatever runs for it ends, and everything is given back."""
        exchange = self.exchange
        if exchange is None:
            return
        if not exchange.status:
            exchange.status = 499
        exchange.failure = "client-gone"
        self._finish(clean=False)

    # the answer

    def on_informational(self, response: Response) -> None:
        if self._current().minor:
            self._answer.informational(response)

    def on_upstream_head(self, response: Response, length: int, data: bytes, ended: bool) -> None:
        exchange = self._current()
        exchange.upstream_time = perf_counter() - exchange.upstream_started
        if self._route.chain.buffers_response and length != NO_BODY:
            self._response_head = response
            self.on_upstream_data(data, ended)
            return
        try:
            self._route.chain.on_response(exchange, response)
        except Exception:
            self._defect()
            return
        if ended:
            trailers = self._trailers_of(ended) if length == CHUNKED else []
            self._answer.head(response, length, data, True, trailers)
            self._finish(clean=True)
        else:
            self._upstream_at = self._loop.time()
            self._answer.head(response, length, data, False, [])

    def on_upstream_data(self, data: bytes, ended: bool) -> None:
        self._upstream_at = self._loop.time()
        if self._response_head is not None:
            self._collect_response(data, ended)
            return
        self._answer.data(data, ended, self._trailers_of(ended))
        if ended:
            self._finish(clean=True)

    def _trailers_of(self, ended: bool) -> list[Pair]:
        return self._upstream.trailers if ended and self._upstream is not None else []

    def _collect_response(self, data: bytes, ended: bool) -> None:
        self._response_body.append(data)
        self._buffered += len(data)
        if self._buffered > self._route.limits.max_buffered:
            self._conclude(InvalidUpstreamResponse("the upstream's body exceeds what this route's policies can check"))
        elif ended:
            self._spawn(self._judge_response(), lambda: None)

    async def _judge_response(self) -> None:
        exchange, response = self._current(), self._response_head
        payload = Payload(b"".join(self._response_body))
        await self._route.chain.on_upstream_payload(exchange, payload)
        if response is not None:
            response.headers.set(b"content-length", b"%d" % len(payload.data))
            self._route.chain.on_response(exchange, response)
            self._answer.head(response, len(payload.data), payload.data, True, [])
            self._finish(clean=True)

    def on_upstream_switched(self, response: Response, data: bytes) -> None:
        exchange = self._current()
        connection = self._upstream
        if connection is None or not accepts(exchange, response.headers.get(b"sec-websocket-accept")):
            self._conclude(InvalidUpstreamResponse("the upstream's Sec-WebSocket-Accept does not fit the key"))
            return
        self._route.chain.on_response(exchange, response)
        self._route.stats.websockets += 1
        self._answer.switching(response, data)
        self._tunnel = Tunnel(self._client, connection, self._loop.time())
        self._client.on_tunnel()

    def on_tunnel_data(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._current().bytes_out += len(data)
            self._tunnel.from_upstream(data, self._loop.time())

    def on_tunnel_eof(self) -> None:
        if self._tunnel is not None:
            self._tunnel.upstream_ended()
            if self._tunnel.finished:
                self._finish(clean=False)

    def on_tunnel_client_data(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._current().bytes_in += len(data)
            self._tunnel.from_client(data, self._loop.time())

    def on_tunnel_client_eof(self) -> None:
        if self._tunnel is not None:
            self._tunnel.client_ended()
            if self._tunnel.finished:
                self._finish(clean=False)

    def on_upstream_lost(self, rejection: Rejection) -> None:
        connection, self._upstream = self._upstream, None
        exchange = self._current()
        if self._tunnel is not None:
            self._finish(clean=False)
            return
        stale = connection is not None and connection.reused and not connection.answered
        if (
            stale
            and exchange.method in SAFE_TO_REPEAT
            and self._length == NO_BODY
            and self._retries < MAX_STALE_RETRIES
        ):
            self._retries += 1
            self._route.cluster.stats.retries += 1
            self._give_back_endpoint()
            self._connect(fresh=True)
            return
        self._conclude(rejection)

    # the end

    def check(self, now: float) -> None:
        """Called by the listener's sweep while an exchange runs: is any of its time limits over?"""
        exchange, limits, client = self._current(), self._route.limits, self._client
        if self._tunnel is not None:
            if now - self._tunnel.last_activity > limits.websocket_idle:
                exchange.failure = "websocket-idle"
                self._finish(clean=False)
        elif client.blocked_for(now) > client.timeouts.write_stall:
            exchange.failure = "slow-reader"
            self._finish(clean=False)
        elif now - exchange.started > limits.request:
            self._conclude(
                UpstreamTimeout(f"the exchange took longer than {limits.request:g} s", rule="timeouts.request")
            )
        elif self._answer.begun:
            if not client.blocked_for(now) and now - self._upstream_at > limits.stream_idle:
                exchange.failure = "stream-idle"
                self._finish(clean=False)
        elif not self._request_ended:
            self._check_upload(now)
        elif self._endpoint is not None and now - self._tried_at > limits.per_try:
            self._conclude(UpstreamTimeout(f"no answer within {limits.per_try:g} s", rule="timeouts.per_try"))

    def _check_upload(self, now: float) -> None:
        timeouts = self._client.timeouts
        if self._client.held:
            if now - self._upstream_at > self._route.limits.stream_idle:
                self._conclude(UpstreamTimeout("the upstream stopped reading the body", rule="timeouts.stream_idle"))
        elif now - self._progress_at > timeouts.body_progress:
            if self._progress < timeouts.min_body_rate * timeouts.body_progress:
                self._conclude(SlowClient("the body came too slowly", rule="timeouts.body_progress"))
            self._progress, self._progress_at = 0, now

    def _conclude(self, outcome: Rejection | Answered) -> None:
        """End with an answer of our own, or cut the message where one has begun."""
        exchange = self._current()
        if isinstance(outcome, Rejection):
            exchange.rejection = outcome.reason
            self._client.listener.on_rejected(exchange, outcome)
        if self._answer.begun:
            exchange.failure = exchange.rejection
            self._finish(clean=False)
            return
        response = outcome.response if isinstance(outcome, Answered) else refusal(exchange, outcome)
        try:
            self._route.chain.on_response(exchange, response)
        except Exception:
            log.exception("a response hook failed", extra={"request_id": exchange.request_id.decode()})
        ends = isinstance(outcome, Rejection) and outcome.ends_connection
        self._answer.own(response, closing=ends or not self._client.can_drain(self._expects))
        self._finish(clean=True)

    def refuse(self, rejection: Rejection) -> None:
        """The client's body turned out to be refused."""
        self._conclude(rejection)

    def answer_alone(self, exchange: Exchange, response: Response) -> None:
        """Send an answer for a request that never got as far as a chain."""
        self._answer.begin(exchange)
        self._answer.own(response, closing=False)

    def _defect(self, error: BaseException | None = None) -> None:
        """Called where an exception is being handled, or with the one that a hook ended with."""
        exchange = self._current()
        log.error("the exchange failed", exc_info=error or True, extra={"request_id": exchange.request_id.decode()})
        self._conclude(InternalError("the proxy failed on this request"))

    def _give_back_endpoint(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.active -= 1

    def _finish(self, *, clean: bool) -> None:
        """Give everything back; `clean` where the client's message ended as it should."""
        exchange = self._current()
        self.exchange = None
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task(self._loop):
            task.cancel()
        connection, self._upstream = self._upstream, None
        if connection is not None:
            if not clean:
                connection.abandon()
            connection.release(request_ended=self._request_ended)
        elif self._endpoint is not None:
            self._endpoint.pool.forget(self)
        self._give_back_endpoint()
        route = self._route
        route.stats.in_flight -= 1
        if route.chain.completes:
            route.chain.on_complete(exchange)
        if self._pending_size:
            self._pending = []
        if self._buffered:
            self._response_body = []
        self._client.on_exchange_end(exchange, clean=clean, keep_alive=self._answer.keep_alive)

    def _current(self) -> Exchange:
        exchange = self.exchange
        if exchange is None:
            raise RuntimeError("no exchange runs")
        return exchange
