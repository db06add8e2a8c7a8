"""One run of a worker, the place that it has among the others, and how many places there are."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Process:
    """One run of a worker. `number` is its own, `slot` the place that it has."""

    slot: int
    number: int
    column: int
    admin: str
    running: asyncio.subprocess.Process
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    text: bytes = b""
    """The policy by which it serves."""
    asked: bytes = b""
    """The one that it was last told to take over."""
    heard: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.time)
    ended: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        """Its status, once it has ended and all that it said was heard."""
        if self.ended is None:
            self.ended = asyncio.create_task(self._end())
        return await asyncio.shield(self.ended)

    async def _end(self) -> int:
        status = await self.running.wait()
        await self.gone.wait()
        return status


@dataclass(slots=True)
class Slot:
    """A worker's place: its sockets stay, its process changes."""

    index: int
    sockets: dict[str, list[socket.socket]]
    current: Process | None = None
    served: bool = False
    deaths: int = 0
    replace: asyncio.Future[str] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, what: str) -> None:
        """Tell who asked for a replacement what became of it: nothing where it went well."""
        if self.replace is not None and not self.replace.done():
            self.replace.set_result(what)
        self.replace = None


def tell(process: Process, number: signal.Signals) -> None:
    if process.running.returncode is None:
        process.running.send_signal(number)


def processors() -> int:
    """What `workers: auto` comes to: the processors that this process may use, by its affinity and its control group
    (cgroup v2 cpu.max, a quota over a period), at least one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return allowed
