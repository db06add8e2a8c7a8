"""One connection's life to a Redis-protocol server: commands out, answers back in order, each told to who asked."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import hiredis

from proxy.batch import Outbox, TickWriter

log = logging.getLogger(__name__)

Reply = Any
"""What hiredis makes of an answer: bytes, int, list or None."""
OnReply = Callable[[Reply], None]


def pack(*parts: bytes | str | int) -> bytes:
    """A command as it travels (RESP)."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub says one-tuple
    return packed


class StoreError(Exception):
    """The store is away, too slow, or refused the command."""


def tell(then: OnReply, reply: Reply) -> None:
    """Whoever can't use an answer costs the others nothing."""
    try:
        then(reply)
    except Exception:
        log.exception("an answer of the store could not be used")


class Owner(Protocol):
    """The store that a link belongs to."""

    def on_answer(self, seconds: float) -> None: ...

    def on_demoted(self, link: Link) -> None: ...

    def on_lost(self, link: Link) -> None: ...


class Link(asyncio.Protocol):
    """Bytes to answers for one connection's life."""

    def __init__(self, store: Owner, writer: TickWriter) -> None:
        self._store = store
        self._writer = writer
        self._reader = hiredis.Reader()
        self.pending: deque[list[Any]] = deque()
        """[OnReply or None once it was told, when it was asked]"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # create_connection gives a stream's
        self._outbox = Outbox(self._writer, self.transport)

    def ask(self, command: bytes, then: OnReply) -> None:
        self.pending.append([then, perf_counter()])
        self._outbox.write(command)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                then, asked = self.pending.popleft()
                if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY"):
                    self._store.on_demoted(self)
                if then is not None:
                    self._store.on_answer(perf_counter() - asked)
                    tell(then, reply)
        except (hiredis.ProtocolError, IndexError):
            log.error("the store's answers make no sense; the connection is given up")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._store.on_lost(self)
