"""What one exchange asks of a cluster: a place among its requests, attempts one after the other, and hedges.

The Forwarder is this and what lies between it and the client; the two share their state, since they are one exchange.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING

from proxy.exchange import Answered, Exchange
from proxy.forwarding import request_head
from proxy.http1.framing import NO_BODY
from proxy.listener.answer import AnswerWriter
from proxy.listener.hedge import Hedge
from proxy.listener.upload import Upload
from proxy.proxy_protocol import written
from proxy.rejection import DeadlineExceeded, Rejection, UpstreamBusy
from proxy.upstream.connection import Receiver
from proxy.upstream.pool import Waiter
from proxy.upstream.retry import IDEMPOTENT, SAFE, repeatable

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream
    from proxy.routing import Route
    from proxy.upstream.attempt import Attempt
    from proxy.upstream.cluster import Cluster, Endpoint
    from proxy.upstream.connection import UpstreamConnection

MAX_STALE_RETRIES = 3
LEAST_SECONDS = 0.005
"""What can't have that long is not begun."""
PRECISE_SECONDS = 2.0
"""Deadlines nearer than this have a timer; the listener's sweep is good enough for others."""
CLOCK_SECONDS = 0.001
"""A timer may fire so much before its time: uvloop's clock counts whole milliseconds."""


class Attempts(Waiter, Receiver):
    __slots__ = (
        "_answer", "_attempt", "_client", "_cluster", "_failed", "_fell_back", "_first_lost", "_hedge", "_loop",
        "_retrying", "_route", "_stale_retries", "_timers", "_tried_at", "_tries", "_upstream", "_upstream_at",
        "exchange", "upload",
    )  # fmt: skip

    def __init__(self, client: Downstream, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._answer = AnswerWriter(client)
        self._timers: list[asyncio.TimerHandle] = []
        self._failed: list[Endpoint] = []
        self._hedge: Hedge | None = None
        self.exchange: Exchange | None = None
        self.upload = Upload(client)

    def _begin_attempts(self, exchange: Exchange, route: Route) -> None:
        self.exchange = exchange
        self._route = route
        self._cluster: Cluster | None = None
        self._attempt: Attempt | None = None
        self._upstream: UpstreamConnection | None = None
        self._tries = self._stale_retries = 0
        self._retrying = self._fell_back = False
        self._first_lost: Rejection | None = None
        self._tried_at = self._upstream_at = exchange.started

    @abstractmethod
    def _conclude(self, outcome: Rejection | Answered) -> None:
        """End with an answer of our own; the Forwarder's."""

    @abstractmethod
    def check(self, now: float) -> None:
        """Whether any time limit is over; the Forwarder's."""

    def _enter(self, cluster: Cluster | None = None) -> None:
        """Take a place among the cluster's requests, and make the first attempt."""
        exchange, route = self._current(), self._route
        cluster = cluster or route.cluster
        now = self._loop.time()
        left = exchange.deadline - now
        try:
            if left < LEAST_SECONDS or left < cluster.least_seconds:
                raise DeadlineExceeded("no answer can be had in the time that is left", rule="timeouts.request")
            cluster.enter(route.priority)
        except Rejection as rejection:
            self._conclude(rejection)
            return
        self._cluster = cluster
        exchange.cluster = cluster
        if left < PRECISE_SECONDS:
            self._timers.append(self._loop.call_at(exchange.deadline, self._check_now))
        self._try(cluster, now)

    def _try(self, cluster: Cluster, now: float, *, fresh: bool = False) -> None:
        exchange = self._current()
        self._tries += not fresh
        self._tried_at = now
        try:
            self._attempt = attempt = cluster.attempt(self._failed)
            endpoint = attempt.endpoint
            exchange.endpoint = endpoint.address
            connection = endpoint.pool.acquire(self, fresh=fresh)
        except Rejection as rejection:
            self._conclude(rejection)
            return
        if connection is not None:
            self._send(exchange, connection, now)

    def on_connection(self, connection: UpstreamConnection) -> None:
        self._send(self._current(), connection, self._loop.time())

    def _send(self, exchange: Exchange, connection: UpstreamConnection, now: float) -> None:
        limits, cluster, upload = self._route.limits, self._cluster, self.upload
        self._upstream = connection
        self._tried_at = self._upstream_at = now
        self.send_request(exchange, connection, self)
        if upload.length != NO_BODY:
            upload.attach(connection)
        if limits.per_try < PRECISE_SECONDS:
            self._timers.append(self._loop.call_later(limits.per_try, self._check_now))
        if cluster is not None and cluster.hedge_after and self._hedge is None:
            self._timers.append(self._loop.call_later(cluster.hedge_after, self._begin_hedge))

    def send_request(self, exchange: Exchange, connection: UpstreamConnection, receiver: Receiver) -> None:
        """The request's head, as it is for this attempt."""
        extra = b""
        if exchange.deadline_told or self._route.limits.tell_deadline:
            left = max(1, (exchange.deadline - self._loop.time()) * 1000)
            extra = b"%b: %d\r\n" % (self._route.limits.told_in, left)
        head = request_head(exchange, self.upload.length, exchange.endpoint, extra)
        pool = connection.pool
        if pool.preamble:
            connection.write(written(pool.preamble, exchange.client, pool.host))
        exchange.asked = True
        connection.start(receiver, head, bodyless=exchange.method == b"HEAD", upgrade=exchange.websocket)

    def send_copy(self, connection: UpstreamConnection, receiver: Receiver) -> None:
        """The whole request once more, for another to get the answer."""
        self.send_request(self._current(), connection, receiver)
        self.upload.copy_to(connection)

    def on_no_connection(self, rejection: Rejection) -> None:
        if not isinstance(rejection, UpstreamBusy):
            self._attempt_failed("connect")
            if self._again("connect"):
                return
        self._conclude(rejection)

    def _attempt_failed(self, kind: str) -> None:
        if self._attempt is not None:
            self._attempt.failed(kind)

    def _again(self, kind: str, retry_after: bytes | None = None) -> bool:
        """Begin another attempt, where the terms and the budget allow one after `kind`."""
        exchange, cluster, attempt = self._current(), self._cluster, self._attempt
        if cluster is None or attempt is None or self._answer.begun:
            return False
        terms = cluster.retry
        wanted = kind in terms.kinds or (kind.isdigit() and int(kind) in terms.statuses)
        if not wanted or self._tries >= terms.attempts or not self.upload.replayable or self.upload.expects:
            return False
        if kind != "connect" and not repeatable(exchange):
            return False
        pause = terms.pause(self._tries, retry_after)
        if pause is None or self._loop.time() + pause + LEAST_SECONDS > exchange.deadline:
            return False
        if self._retrying:
            cluster.budget.give_back()
            self._retrying = False
        if not cluster.may_retry():
            return False
        self._retrying = True
        cluster.stats.retries[kind] += 1
        self._failed.append(attempt.endpoint)
        self._drop_attempt()
        self._tried_at = self._loop.time() + pause
        self._timers.append(self._loop.call_later(pause, self._retry))
        return True

    def _retry(self) -> None:
        if self.exchange is not None and self._attempt is None and self._cluster is not None:
            self._try(self._cluster, self._loop.time())

    def _drop_attempt(self) -> None:
        """Give the attempt's endpoint and connection back; what it was sent or answered is of no use."""
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None
        self._drop_first()

    def _drop_first(self) -> None:
        upload = self.upload
        if upload.length != NO_BODY:
            upload.detach()
        connection, self._upstream = self._upstream, None
        attempt, self._attempt = self._attempt, None
        if connection is not None:
            connection.release(request_ended=upload.ended)
        elif attempt is not None:
            attempt.endpoint.pool.forget(self)
        if attempt is not None:
            attempt.end()

    def _take_stale(self) -> bool:
        """A kept-alive connection that the upstream had closed already: at once over a new one, and no failure."""
        exchange = self._current()
        if (
            exchange.method not in IDEMPOTENT
            or self.upload.length != NO_BODY
            or self._stale_retries >= MAX_STALE_RETRIES
        ):
            return False
        cluster = self._cluster
        if cluster is None:
            return False
        self._stale_retries += 1
        cluster.stats.retries["stale"] += 1
        self._drop_attempt()
        self._try(cluster, self._loop.time(), fresh=True)
        return True

    def _begin_hedge(self) -> None:
        """The attempt takes long: make another beside it, where that does no harm and the budget has one."""
        exchange, cluster, attempt = self.exchange, self._cluster, self._attempt
        if exchange is None or cluster is None or attempt is None or self._answer.begun or self._hedge is not None:
            return
        upload = self.upload
        usable = exchange.method in SAFE and upload.ended and upload.replayable and not exchange.websocket
        if not usable or self._upstream is None or self._retrying or not cluster.may_retry():
            return
        self._retrying = True
        try:
            second = cluster.attempt([*self._failed, attempt.endpoint])
        except Rejection:
            return
        cluster.stats.hedges += 1
        self._hedge = Hedge(self, second)
        self._hedge.begin()

    def on_hedge_won(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        """The second attempt has the answer: the first ends, saying nothing."""
        self._hedge = None
        if self._upstream is not None:
            self._upstream.abandon()
        self._drop_attempt()
        self._attempt, self._upstream = attempt, connection
        self._current().endpoint = attempt.endpoint.address

    def on_hedge_lost(self) -> None:
        self._hedge = None
        if self._attempt is None and self._first_lost is not None:
            self._conclude(self._first_lost)

    def _left_to_hedge(self, rejection: Rejection) -> bool:
        """The first attempt is over, and the second still runs: whatever that comes to is the answer."""
        if self._hedge is None or self._attempt is None:
            return False
        self._first_lost = rejection
        self._drop_first()
        self._tried_at = self._loop.time()
        return True

    def _leave_cluster(self) -> None:
        """Give back the attempt, the retry and the place among the cluster's requests."""
        self._drop_attempt()
        self._leave_running()
        if self._timers:
            for timer in self._timers:
                timer.cancel()
            self._timers.clear()

    def _leave_running(self) -> None:
        """Nothing of the cluster's requests is this one any more: it ended, or became a WebSocket."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.running -= 1
            if self._retrying:
                self._retrying = False
                cluster.budget.give_back()

    def _check_now(self) -> None:
        if self.exchange is not None:
            self.check(self._loop.time() + CLOCK_SECONDS)

    def _current(self) -> Exchange:
        exchange = self.exchange
        if exchange is None:
            raise RuntimeError("no exchange runs")
        return exchange
