"""A second attempt beside a slow one; whichever answers first is the answer (Dean and Barroso, The Tail at Scale)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.exchange import Response
from proxy.rejection import Rejection

if TYPE_CHECKING:
    from proxy.listener.attempts import Attempts
    from proxy.upstream.attempt import Attempt
    from proxy.upstream.connection import UpstreamConnection


class Hedge:
    """Waiter and Receiver until its answer's head is there; then the Forwarder takes its place."""

    def __init__(self, forwarder: Attempts, attempt: Attempt) -> None:
        self._forwarder = forwarder
        self.attempt = attempt
        self.connection: UpstreamConnection | None = None
        self._over = False

    def begin(self) -> None:
        try:
            connection = self.attempt.endpoint.pool.acquire(self)
        except Rejection:
            self._lose()
            return
        if connection is not None:
            self.on_connection(connection)

    def cancel(self) -> None:
        """Another was faster, or nobody waits any more."""
        if self._over:
            return
        self._over = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()
            connection.release(request_ended=False)
        else:
            self.attempt.endpoint.pool.forget(self)
        self.attempt.end()

    def _lose(self) -> None:
        if not self._over:
            self._over = True
            self.attempt.end()
            self._forwarder.on_hedge_lost()

    # Waiter

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self._forwarder.send_copy(connection, self)

    def on_no_connection(self, rejection: Rejection) -> None:
        self.attempt.failed("connect")
        self._lose()

    # Receiver

    def on_informational(self, response: Response) -> None:
        """Of no use before it is known whose answer counts."""

    def on_upstream_head(self, response: Response, length: int, data: bytes, ended: bool) -> None:
        connection = self.connection
        if connection is not None and not self._over:
            self._over = True
            connection.hand_over(self._forwarder)
            self._forwarder.on_hedge_won(self.attempt, connection)
            self._forwarder.on_upstream_head(response, length, data, ended)

    def on_upstream_data(self, data: bytes, ended: bool) -> None:
        raise AssertionError("a body before its head")

    def on_upstream_switched(self, response: Response, data: bytes) -> None:
        raise AssertionError("handshakes are not hedged")

    def on_tunnel_data(self, data: bytes) -> None:
        raise AssertionError("handshakes are not hedged")

    def on_tunnel_eof(self) -> None:
        raise AssertionError("handshakes are not hedged")

    def on_upstream_lost(self, rejection: Rejection) -> None:
        connection, self.connection = self.connection, None
        if connection is None or not connection.reused or connection.answered:
            self.attempt.failed("reset")
        self._lose()

    def on_upstream_writable(self, writable: bool) -> None:
        """Its whole request is written at once, and bounded."""
