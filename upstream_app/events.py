"""What happened, told to all instances through streams in Redis: in one order, kept for a while, each event once.

An event that lasts goes to LASTING, from which WebSockets that come back are told what they missed; one that means
nothing a moment later (typing, a position) goes to PASSING. Rooms are named as the real-time part knows them (`job:ID`,
`user:ID`, `role:NAME`). Publishing never fails a request: while Redis is away lasting events wait, up to MAX_QUEUED of
them and PATIENCE seconds; what could not be told is counted and dropped.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, cast

import orjson
import structlog
from redis.exceptions import RedisError

from breaker import Breaker, BreakerOpen
from upstream_app.background import ended
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.events")
LASTING, PASSING = "{simplepro-app:events}:lasting", "{simplepro-app:events}:passing"
SEEN = "{simplepro-app:events}:seen:"
MAX_KEPT, MAX_PASSING = 20_000, 1_000
KEPT_SECONDS = 600
MAX_QUEUED = 1_000
MAX_BATCH = 64
PATIENCE = 30.0
DEADLINE = 2.0
OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC

PUBLISH = """
local told = 0
for at = 2, #KEYS do
  if redis.call('SET', KEYS[at], '1', 'NX', 'PX', ARGV[2]) then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'rooms', ARGV[2 * at - 1], 'event', ARGV[2 * at])
    told = told + 1
  end
end
local now = redis.call('TIME')
redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%d', now[1] * 1000 - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
return told
"""
"""An event that was added, though the answer was lost, is not added again."""


@dataclass(slots=True)
class Event:
    stream: str
    rooms: str
    text: str
    until: float
    """Seconds of the monotonic clock, to when it is worth telling."""
    identity: str = field(default_factory=lambda: secrets.token_hex(8))


class Events:
    def __init__(self, redis: Client, breaker: Breaker) -> None:
        self._redis = redis
        self._breaker = breaker
        self._queue: asyncio.Queue[Event] = asyncio.Queue(MAX_QUEUED)
        self._task: asyncio.Task[None] | None = None
        self.published = 0
        self.dropped = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="events")

    async def close(self) -> None:
        """What is queued has a second."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(1):
                await self._queue.join()
        except TimeoutError:
            log.warning("events dropped at shutdown", count=self._queue.qsize())
        await ended(self._task)

    def publish(self, kind: str, rooms: list[str], data: dict[str, Any], *, passing: bool = False) -> None:
        """To the members of any of these rooms, each once."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = orjson.dumps({"type": kind, "at": at, "data": data}, default=str, option=OPTIONS).decode()
        patience = 1.0 if passing else PATIENCE
        event = Event(PASSING if passing else LASTING, " ".join(rooms), text, monotonic() + patience)
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped += 1

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for stream, most in ((LASTING, MAX_KEPT), (PASSING, MAX_PASSING)):
                told = [one for one in batch if one.stream == stream]
                try:
                    await self._tell(stream, most, told)
                except Exception:
                    self.dropped += len(told)
                    log.exception("events dropped", count=len(told))
            for _ in batch:
                self._queue.task_done()

    async def _tell(self, stream: str, most: int, events: list[Event]) -> None:
        """Until it is told, or no more worth telling."""
        pause = 0.05
        while events:
            keys = [stream, *(SEEN + one.identity for one in events)]
            arguments = [str(most), str(KEPT_SECONDS * 1000)]
            for one in events:
                arguments += [one.rooms, one.text]
            try:
                async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                    await cast("Any", self._redis.eval(PUBLISH, len(keys), *keys, *arguments))
                self.published += len(events)
                return
            except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
                left = [one for one in events if monotonic() < one.until]
                if len(left) < len(events):
                    self.dropped += len(events) - len(left)
                    log.warning("events dropped", count=len(events) - len(left), error=type(error).__name__)
                events = left
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)
