"""Writes of one loop tick, sent together at its end.

Sent one by one, each wakes the other side's sleeping core, which costs more than all of this proxy's own work;
sent together, only the first does.
"""

from __future__ import annotations

import asyncio

FLUSH_AT = 64 * 1024
"""Bytes that do not wait for the tick's end: the transport has to see them, so that it can ask for a pause."""


class TickWriter:
    """Shared by all connections of a loop."""

    __slots__ = ("_loop", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: list[Outbox] = []

    def schedule(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        outboxes, self.waiting = self.waiting, []
        for outbox in outboxes:
            outbox.flush()


class Outbox:
    """What one transport is to send; `flush` before anything else is done to the transport.

    What is meant for a transport that has closed meanwhile is dropped: a write to it would raise and cost the tick's
    other connections theirs.
    """

    __slots__ = ("_pieces", "_size", "_transport", "_writer")

    def __init__(self, writer: TickWriter, transport: asyncio.Transport) -> None:
        self._writer = writer
        self._transport = transport
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        pieces = self._pieces
        if not pieces:
            writer = self._writer
            self._size = 0
            if not writer.waiting:
                writer.schedule()
            writer.waiting.append(self)
        pieces.append(data)
        self._size += len(data)
        if self._size > FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        pieces = self._pieces
        if pieces:
            self._pieces = []
            transport = self._transport
            if not transport.is_closing():
                transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
