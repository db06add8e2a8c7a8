"""Asks the upstream anew for an answer that was served stale, on no client's behalf (RFC 5861 section 3)."""

from __future__ import annotations

import asyncio
import copy
import logging
from typing import TYPE_CHECKING

from proxy.exchange import Exchange, Response
from proxy.forwarding import request_head
from proxy.http1.framing import NO_BODY, UNTIL_CLOSE
from proxy.proxy_protocol import written
from proxy.rejection import Rejection
from proxy.upstream.cluster import PRIORITIES
from proxy.upstream.connection import Receiver
from proxy.upstream.pool import Waiter

if TYPE_CHECKING:
    from proxy.cache.ticket import Ticket
    from proxy.routing import Route
    from proxy.upstream.attempt import Attempt
    from proxy.upstream.connection import UpstreamConnection

log = logging.getLogger(__name__)


class Refresh(Waiter, Receiver):
    """One attempt, within the route's `per_try` and twice that for its body; the ticket learns what came of it."""

    def __init__(self, ticket: Ticket, route: Route, loop: asyncio.AbstractEventLoop) -> None:
        self._ticket = ticket
        self._route = route
        self._loop = loop
        self._exchange: Exchange = copy.copy(ticket.exchange)
        ticket.exchange = self._exchange
        self._exchange.cached = ""
        self._attempt: Attempt | None = None
        self._connection: UpstreamConnection | None = None
        self._entered = False
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    @staticmethod
    def possible(route: Route) -> bool:
        """Where policies read answers' bodies, only an exchange can bring one."""
        return not route.chain.answers and not route.chain.buffers_response

    def begin(self) -> None:
        cluster = self._route.cluster
        try:
            cluster.enter(PRIORITIES["low"])
            self._entered = True
            self._attempt = attempt = cluster.attempt([])
            connection = attempt.endpoint.pool.acquire(self)
        except Rejection:
            self._end(broken=True)
            return
        self._timer = self._loop.call_later(3 * self._route.limits.per_try, self._late)
        if connection is not None:
            self.on_connection(connection)

    def _late(self) -> None:
        if self._attempt is not None:
            self._attempt.failed("timeout")
        self._end(broken=True)

    def _end(self, *, broken: bool) -> None:
        if self._over:
            return
        self._over = True
        self._ticket.fail()
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        attempt, self._attempt = self._attempt, None
        if connection is not None:
            if broken:
                connection.abandon()
            connection.release(request_ended=True)
        elif attempt is not None:
            attempt.endpoint.pool.forget(self)
        if attempt is not None:
            attempt.end()
        if self._entered:
            self._route.cluster.running -= 1

    # Waiter

    def on_connection(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        attempt = self._attempt
        pool = connection.pool
        if pool.preamble:
            connection.write(written(pool.preamble, self._exchange.client, pool.host))
        address = attempt.endpoint.address if attempt is not None else ""
        connection.start(self, request_head(self._exchange, NO_BODY, address), bodyless=False, upgrade=False)

    def on_no_connection(self, rejection: Rejection) -> None:
        if self._attempt is not None:
            self._attempt.failed("connect")
        self._end(broken=True)

    # Receiver

    def on_informational(self, response: Response) -> None:
        """Nobody is there to hear it."""

    def on_upstream_head(self, response: Response, length: int, data: bytes, ended: bool) -> None:
        if self._attempt is not None:
            self._attempt.answered(response.status)
        try:
            served = self._ticket.on_head(response, self._loop.time(), measured=length != UNTIL_CLOSE)
            if served is not None or self._ticket.asks_anew:
                self._end(broken=not ended)
            else:
                self.on_upstream_data(data, ended)
        except Exception:
            log.exception("an answer could not be kept")
            self._end(broken=True)

    def on_upstream_data(self, data: bytes, ended: bool) -> None:
        self._ticket.feed(data, ended)
        if ended or self._ticket.gave_up:
            self._end(broken=not ended)

    def on_upstream_switched(self, response: Response, data: bytes) -> None:
        raise AssertionError("no upgrade was asked for")

    def on_tunnel_data(self, data: bytes) -> None:
        raise AssertionError("no upgrade was asked for")

    def on_tunnel_eof(self) -> None:
        raise AssertionError("no upgrade was asked for")

    def on_upstream_lost(self, rejection: Rejection) -> None:
        if self._attempt is not None:
            self._attempt.failed("reset")
        self._connection = None
        self._end(broken=True)

    def on_upstream_writable(self, writable: bool) -> None:
        """The request is a head alone."""
