"""One exchange at a time for one client connection: chain, cluster, attempts, and the way back.

Driven by callbacks: no task exists unless a filter has to wait. The Forwarder is the Waiter of a pool and the Receiver
of an upstream connection; `client` is the connection that it works for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from proxy.exchange import Answered, Exchange, Payload, Response
from proxy.filter import Deferred
from proxy.headers import Headers
from proxy.http1.framing import CHUNKED, NO_BODY
from proxy.listener.judged import Judged
from proxy.listener.rescue import refusal
from proxy.rejection import (
    BodyTooLarge,
    InternalError,
    Rejection,
    SlowClient,
    UpstreamTimeout,
)

if TYPE_CHECKING:
    from proxy.headers import Pair
    from proxy.routing import Route

log = logging.getLogger(__name__)


class Forwarder(Judged):
    __slots__ = ()

    # the request

    def begin(self, exchange: Exchange, route: Route, length: int, *, expects: bool) -> None:
        self._begin_attempts(exchange, route)
        self.session = None
        self._response_head: Response | None = None
        self._buffered = 0
        exchange.deadline = exchange.started + route.limits.request
        asked = exchange.headers.index.get(route.limits.asked_in)
        if asked is not None and asked.isdigit() and len(asked) < 10:
            exchange.deadline = min(exchange.deadline, exchange.started + int(asked) / 1000)
            exchange.deadline_told = True
        if route.limits.asserted:
            exchange.headers = Headers(
                [pair for pair in exchange.headers.pairs if pair[0] not in route.limits.asserted]
            )
        self.upload.begin(
            length,
            route.cluster.retry.replay if route.cluster.retry.attempts > 1 else 0,
            exchange.started,
            expects=expects,
            collecting=route.chain.buffers_request and length != NO_BODY,
        )
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
            elif isinstance(waiting, Deferred):
                self._task = waiting
                waiting.then(self._on_ended)
            else:
                self._task = future = asyncio.ensure_future(waiting)
                future.add_done_callback(self._on_waited)

    def _on_waited(self, future: asyncio.Future[None]) -> None:
        """What a request hook waited for is there."""
        if not future.cancelled():
            self._on_ended(future, future.exception())

    def _on_ended(self, waited: object, error: BaseException | None) -> None:
        """The other hooks come after the one that waited; whoever calls is not to suffer from what they do."""
        if self._task is not waited:
            return
        self._task = None
        exchange = self._current()
        try:
            if error is None:
                self._run_policies(exchange, exchange.begun)
            elif isinstance(error, Rejection | Answered):
                self._conclude(error)
            else:
                self._defect(error)
        except Exception:
            self._defect()

    def _spawn(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        self._task = self._loop.create_task(self._wait(waiting, then), name="policies")

    async def _wait(self, waiting: Awaitable[None], then: Callable[[], None]) -> None:
        try:
            await waiting
            self._forget_own_task()
            then()
        except (Rejection, Answered) as outcome:
            self._forget_own_task()
            self._conclude(outcome)
        except Exception:
            self._forget_own_task()
            self._defect()

    def _forget_own_task(self) -> None:
        """Not another's: the client's next exchange may have begun in this one's task."""
        if self._task is asyncio.current_task(self._loop):
            self._task = None

    def _admitted(self) -> None:
        """The policies let the request's head pass."""
        if self.upload.collecting:
            self.upload.say_continue()
            if self.upload.ended:
                self._collected()
        else:
            self._onward()

    def _onward(self) -> None:
        """Nothing is to be judged any more before the upstream is asked."""
        edge = self._route.edge
        if edge is None or self._current().websocket:
            self._enter()
        else:
            self._ask_cache(edge)

    def _collected(self) -> None:
        """Judge the whole body. The fields change on a copy: the client's next request may mean the same ones again."""
        exchange, upload = self._current(), self.upload
        upload.collecting = False
        whole = upload.whole()
        payload = Payload(whole)

        def judged() -> None:
            as_it_came = payload.data is whole and upload.length == len(whole)
            upload.replace(payload.data)
            if not as_it_came:
                exchange.headers = Headers(list(exchange.headers.pairs))
                exchange.headers.set(b"content-length", b"%d" % upload.length)
            self._onward()

        try:
            waiting = self._route.chain.on_client_payload(exchange, payload)
        except (Rejection, Answered) as outcome:
            self._conclude(outcome)
        except Exception:
            self._defect()
        else:
            if waiting is not None:
                self._spawn(waiting, judged)
            else:
                judged()

    def on_client_data(self, data: bytes) -> None:
        exchange, upload = self._current(), self.upload
        exchange.bytes_in += len(data)
        limit = self._route.limits.max_buffered if upload.collecting else self._route.limits.max_body
        if exchange.bytes_in > limit:
            self._conclude(BodyTooLarge(f"the body exceeds {limit} bytes", rule="limits.max_body"))
            return
        upload.feed(data)

    def on_client_end(self, trailers: list[Pair]) -> None:
        self.upload.finish(trailers)
        self._tried_at = self._loop.time()
        if self.upload.collecting and self._task is None:
            self._collected()

    # attempts

    def on_upstream_lost(self, rejection: Rejection) -> None:
        connection, self._upstream = self._upstream, None
        if self.session is not None:
            self._end_of_upstream()
            return
        if connection is not None and connection.reused and not connection.answered and self._take_stale():
            return
        self._attempt_failed("reset")
        if not self._left_to_hedge(rejection) and not self._again("reset"):
            self._conclude(rejection)

    def on_upstream_writable(self, writable: bool) -> None:
        self._upstream_at = self.upload.progress_at = self._loop.time()
        self.upload.progress = 0
        if self.session is not None:
            self.session.flow(self.session.from_client)
        elif writable:
            self._client.read_on()
        else:
            self._client.hold()

    # the answer

    def on_informational(self, response: Response) -> None:
        if self._current().minor:
            self._answer.informational(response)

    def on_upstream_head(self, response: Response, length: int, data: bytes, ended: bool) -> None:
        exchange = self._current()
        status = response.status
        attempt = self._attempt
        if attempt is not None:
            exchange.upstream_time = attempt.answered(status)
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None
        route = self._route
        if status >= 400 and self._retried(status, response):
            return
        if route.edge is not None and self._from_cache(response, length):
            return
        if status >= 400 and self._instead(status):
            return
        if route.fallback is not None:
            self._keeper = route.fallback.keeper(exchange, response)
        try:
            if route.chain.answers and length != NO_BODY:
                self._watch = route.chain.on_answer(exchange, response)
            holds = route.chain.buffers_response or (self._watch is not None and self._watch.holds)
            if holds and length != NO_BODY:
                self._response_head = response
                self._response_body = []
                self._length = length
                self.on_upstream_data(data, ended)
                return
            route.chain.on_response(exchange, response)
        except Exception:
            self._defect()
            return
        if self._watch is not None:
            self._see(self._watch, data, ended)
        self._keep(data, ended)
        if ended:
            trailers = self._trailers_of(ended) if length == CHUNKED else []
            self._answer.head(response, length, data, True, trailers)
            self._finish(clean=True)
        else:
            self._upstream_at = self._loop.time()
            self._answer.head(response, length, data, False, [])
            if self._client.blocked_for(self._upstream_at):
                self.on_client_writable(False)

    def on_upstream_data(self, data: bytes, ended: bool) -> None:
        self._upstream_at = self._loop.time()
        if self._response_head is not None:
            self._collect_response(self._response_head, data, ended)
            return
        self._keep(data, ended)
        if self._watch is not None:
            self._see(self._watch, data, ended)
        self._answer.data(data, ended, self._trailers_of(ended))
        if ended:
            self._finish(clean=True)

    # the client

    def on_client_writable(self, writable: bool) -> None:
        if self.session is not None:
            self.session.flow(self.session.from_upstream)
        elif self._upstream is not None and not self._upstream.transport.is_closing():
            if writable:
                self._upstream.resume_reading()
                self._upstream_at = self._loop.time()
            else:
                self._upstream.pause_reading()

    def on_client_gone(self) -> None:
        """The client is no more: whatever runs for it ends, and everything is given back."""
        exchange = self.exchange
        if exchange is None:
            return
        if not exchange.status:
            exchange.status = 499
        exchange.failure = exchange.failure or "client-gone"
        if self.session is not None:
            self.session.client_ended()
        self._finish(clean=False)

    # the end

    def check(self, now: float) -> None:
        """Called by the listener's sweep while an exchange runs: is any of its time limits over?"""
        exchange, limits, client = self._current(), self._route.limits, self._client
        if self.session is not None:
            self._check_session(self.session, now)
        elif client.blocked_for(now) > client.timeouts.write_stall:
            exchange.failure = "slow-reader"
            self._finish(clean=False)
        elif now >= exchange.deadline:
            if self.upload.ended and not self._answer.begun and exchange.deadline >= exchange.started + limits.request:
                self._attempt_failed("timeout")
            seconds = exchange.deadline - exchange.started
            self._conclude(UpstreamTimeout(f"the exchange took longer than {seconds:g} s", rule="timeouts.request"))
        elif self._answer.begun:
            if not client.blocked_for(now) and now - self._upstream_at > limits.stream_idle:
                exchange.failure = "stream-idle"
                self._finish(clean=False)
        elif not self.upload.ended:
            self._check_upload(now)
        elif now - self._tried_at >= limits.per_try and (self._attempt is not None or self._hedge is not None):
            self._attempt_failed("timeout")
            if self._upstream is not None:
                self._upstream.abandon()
            slow = UpstreamTimeout(f"no answer within {limits.per_try:g} s", rule="timeouts.per_try")
            if not self._left_to_hedge(slow) and not self._again("timeout"):
                self._conclude(slow)

    def _check_upload(self, now: float) -> None:
        timeouts, upload = self._client.timeouts, self.upload
        if self._client.held:
            if now - self._upstream_at > self._route.limits.stream_idle:
                self._attempt_failed("timeout")
                self._conclude(UpstreamTimeout("the upstream stopped reading the body", rule="timeouts.stream_idle"))
        elif now - upload.progress_at > timeouts.body_progress:
            if upload.progress < timeouts.min_body_rate * timeouts.body_progress:
                self._conclude(SlowClient("the body came too slowly", rule="timeouts.body_progress"))
            upload.progress, upload.progress_at = 0, now

    def _conclude(self, outcome: Rejection | Answered) -> None:
        """End with an answer of our own, or cut the message where one has begun."""
        exchange = self._current()
        if isinstance(outcome, Rejection):
            if self._ticket is not None and self._stale_instead(outcome):
                return
            fallback = self._route.fallback
            if fallback is not None and outcome.reason in fallback.kinds and self._fall_back(outcome.reason):
                return
            exchange.rejection = outcome.reason
            self._client.listener.on_rejected(exchange, outcome)
        if self._answer.begun:
            exchange.failure = exchange.rejection
            self._finish(clean=False)
            return
        response = outcome.response if isinstance(outcome, Answered) else refusal(exchange, outcome)
        self._own_answer(response, closing=isinstance(outcome, Rejection) and outcome.ends_connection)

    def _own_answer(self, response: Response, *, closing: bool) -> None:
        exchange = self._current()
        try:
            self._route.chain.on_response(exchange, response)
        except Exception:
            log.exception("a response hook failed", extra={"request_id": exchange.request_id.decode()})
        self._answer.own(response, closing=closing or not self._client.can_drain(self.upload.expects))
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

    def _finish(self, *, clean: bool) -> None:
        """Give everything back; `clean` where the client's message ended as it should."""
        exchange = self._current()
        self.exchange = None
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task(self._loop):
            task.cancel()
        if not clean and self._upstream is not None:
            self._upstream.abandon()
        if self.session is not None:
            self._end_session(self.session)
        cluster, attempt = self._cluster, self._attempt
        if cluster is None or attempt is None or self._retrying or self._timers or self._hedge is not None:
            self._leave_cluster()
        else:
            self._cluster = self._attempt = None
            connection, self._upstream = self._upstream, None
            upload = self.upload
            if upload.length != NO_BODY:
                upload.detach()
            if connection is not None:
                connection.release(request_ended=upload.ended)
            else:
                attempt.endpoint.pool.forget(self)
            attempt.end()
            cluster.running -= 1
        route = self._route
        route.stats.in_flight -= 1
        if route.chain.completes:
            route.chain.on_complete(exchange)
        if self._failed:
            self._failed = []
        if self._buffered:
            self._response_body = []
        self._keeper = self._watch = None
        ticket, self._ticket, self._waits_until = self._ticket, None, 0.0
        if ticket is not None:
            ticket.fail()
        self._client.on_exchange_end(exchange, clean=clean, keep_alive=self._answer.keep_alive)
