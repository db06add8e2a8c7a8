"""An exchange that became a WebSocket: what the client's and the upstream's connection tell, told to its session."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.exchange import Response
from proxy.listener.attempts import Attempts
from proxy.listener.handshake import agreed
from proxy.listener.websocket import Session
from proxy.rejection import InvalidUpstreamResponse, Rejection

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream


class Sockets(Attempts):
    """`session` is the WebSocket that runs."""

    __slots__ = ("session",)

    def __init__(self, client: Downstream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(client, loop)
        self.session: Session | None = None

    @abstractmethod
    def _finish(self, *, clean: bool) -> None:
        """Give everything back; the Forwarder's."""

    def _end_session(self, session: Session) -> None:
        session.over = True
        self._client.parted = session.from_client.closed
        self.session = None
        if session.failed:
            self._attempt_failed("reset")
        elif self._attempt is not None:
            self._attempt.ended_well()

    def on_upstream_switched(self, response: Response, data: bytes) -> None:
        exchange = self._current()
        connection, route = self._upstream, self._route
        try:
            if connection is None:
                raise InvalidUpstreamResponse("the upstream switched protocols for nobody")
            deflate = agreed(exchange, response, route.sockets)
        except InvalidUpstreamResponse as rejection:
            self._attempt_failed("reset")
            self._conclude(rejection)
            return
        if self._attempt is not None:
            self._attempt.switched()
        route.chain.on_response(exchange, response)
        self._answer.switching(response, b"")
        stats = route.stats.sockets
        stats.handshakes.observe(perf_counter() - exchange.began)
        self.session = Session(exchange, self._client, connection, route.sockets, stats, deflate=deflate)
        self._leave_running()
        if data:
            self.on_tunnel_data(data)
        if self.session is not None:
            self._client.on_tunnel()

    def on_tunnel_data(self, data: bytes) -> None:
        session = self.session
        if session is not None:
            session.exchange.bytes_out += len(data)
            session.on_upstream_data(data)
            if session.over:
                self._finish(clean=False)

    def on_tunnel_eof(self) -> None:
        self._end_of_upstream()

    def _end_of_upstream(self) -> None:
        session = self.session
        if session is not None:
            if session.upstream_ended():
                self._attempt_failed("reset")
            if session.over:
                self._finish(clean=False)

    def on_tunnel_client_data(self, data: bytes) -> None:
        session = self.session
        if session is not None:
            session.exchange.bytes_in += len(data)
            session.on_client_data(data)
            if session.over:
                self._finish(clean=False)

    def on_tunnel_client_eof(self) -> None:
        """After its close frame it may hear the rest; the wait for that has its bound."""
        session = self.session
        if session is not None and not (session.from_client.closed and not session.over):
            session.client_ended()
            self._finish(clean=False)

    def drain(self, seconds: float) -> None:
        if self.session is not None:
            self.session.drain(seconds)

    def _check_session(self, session: Session, now: float) -> None:
        exchange, client = self._current(), self._client
        if client.blocked_for(now) > client.timeouts.write_stall:
            exchange.failure = "slow-reader"
            session.client_ended()
        elif not session.ending:
            try:
                for hook in self._route.chain.still_open:
                    hook(exchange)
            except Rejection as rejection:
                client.listener.on_rejected(exchange, rejection)
                session.close(rejection.close_code, rejection.detail)
        session.check(now, self._route.limits.websocket_idle)
        if session.over:
            self._finish(clean=False)
