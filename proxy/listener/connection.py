"""A client connection as such: how its flow is held, and how it ends so that the client gets what was said."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from proxy.batch import Outbox

DRAIN_LIMIT = 256 * 1024
"""Bytes of a refused or unwanted body that are read and dropped so that the connection can stay."""
LINGER_SECONDS = 2.0
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, and for `min_body_rate` bytes a second (Kestrel's MinRequestBodyDataRate)."""

    head: float
    idle: float
    body_progress: float
    min_body_rate: float
    write_stall: float


HEAD, BODY, BUSY, TUNNEL, DRAIN, LINGER, CLOSED = range(7)
"""What a connection does: reads a head, a body, waits for an exchange's end, relays, drops a body's rest, ends."""


class ClientConnection(asyncio.Protocol):
    """`deadline` is loop time; who owns the connection says what happens then. `held`: reading stopped, by us."""

    __slots__ = (
        "_backlog", "_blocked_since", "_body_left", "_drained", "_eof", "_loop", "_outbox", "_state", "_transport",
        "deadline", "held", "send", "timeouts",
    )  # fmt: skip

    _transport: asyncio.Transport
    _outbox: Outbox
    send: Callable[[bytes], None]

    def __init__(self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.held = False
        self.deadline = NEVER
        self._loop = loop
        self._state = HEAD
        self._backlog = b""
        self._blocked_since = 0.0
        self._body_left = 0
        self._drained = 0
        self._eof = False

    def hold(self) -> None:
        if not self.held and not self._transport.is_closing():
            self.held = True
            self._transport.pause_reading()

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken."""
        return self._transport.get_write_buffer_size()

    def read_on(self) -> None:
        if self.held:
            self.held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def blocked(self) -> bool:
        """Whether the client takes no more for now."""
        return self._blocked_since > 0

    def blocked_for(self, now: float) -> float:
        """Seconds since the client last took what was sent; 0 where nothing waits."""
        return now - self._blocked_since if self._blocked_since else 0.0

    def end_of_stream(self) -> None:
        if not self._transport.is_closing():
            self._outbox.flush()
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()

    def _linger(self) -> None:
        """Close so that the client can still read the answer: end our side, drop what comes, then go (RFC 9112 9.6)."""
        self._state = LINGER
        self._backlog = b""
        self._body_left = DRAIN_LIMIT
        self._outbox.flush()
        self._wait_for_reader(LINGER_SECONDS)
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()

    def _close(self) -> None:
        self._state = LINGER
        self._backlog = b""
        self._outbox.flush()
        self._wait_for_reader(self.timeouts.write_stall)
        self._transport.close()

    def _wait_for_reader(self, seconds: float) -> None:
        """What is unsent has so long; and again so long, as long as the client takes some of it."""
        self._drained = 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + (seconds if not self._drained else self.timeouts.write_stall)

    def _reset(self) -> None:
        """HTTP/1.0 knows an answer's end by the connection's: only a reset says that it broke off."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._state = LINGER
        self._transport.abort()

    def cut(self) -> None:
        self._transport.abort()
