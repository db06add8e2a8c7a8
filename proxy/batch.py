"""Writes of one loop tick, sent together at its end.

Sent one by one, each wakes the other side's sleeping core, which costs more than all of this proxy's own work;
sent together, only the first does.
"""

from __future__ import annotations

import asyncio


class TickWriter:
    """Shared by all connections of a loop."""

    __slots__ = ("_loop", "_outboxes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outboxes: list[Outbox] = []

    def enlist(self, outbox: Outbox) -> None:
        if not self._outboxes:
            self._loop.call_soon(self._flush)
        self._outboxes.append(outbox)

    def _flush(self) -> None:
        outboxes, self._outboxes = self._outboxes, []
        for outbox in outboxes:
            outbox.flush()


class Outbox:
    """What one transport is to send; `flush` before anything else is done to the transport.

    What is meant for a transport that has closed meanwhile is dropped: a write to it would raise and cost the tick's
    other connections theirs.
    """

    __slots__ = ("_pieces", "_transport", "_writer")

    def __init__(self, writer: TickWriter, transport: asyncio.Transport) -> None:
        self._writer = writer
        self._transport = transport
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._writer.enlist(self)
        self._pieces.append(data)

    def flush(self) -> None:
        pieces = self._pieces
        if pieces:
            self._pieces = []
            if self._transport.is_closing():
                return
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
