"""What happened, told on Redis: to other instances now, and to WebSockets once they are there. Lossy by nature.

An event is JSON: `{"type", "rooms", "data", "at"}`; rooms are named as the real-time part knows them (`job:ID`,
`user:ID`, `role:NAME`). Publishing never fails a request: what can't be told in time is counted and dropped.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError

from breaker import Breaker, BreakerOpen
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.events")
CHANNEL = "simplepro-app:events"
MAX_QUEUED = 1_000
DEADLINE = 2.0


class Events:
    def __init__(self, redis: Client, breaker: Breaker) -> None:
        self._redis = redis
        self._breaker = breaker
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUEUED)
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
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def publish(self, kind: str, rooms: list[str], data: dict[str, Any]) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = {"type": kind, "rooms": rooms, "data": data, "at": at}
        try:
            self._queue.put_nowait(orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z))
        except asyncio.QueueFull:
            self.dropped += 1

    async def _run(self) -> None:
        while True:
            event = await self._queue.get()
            try:
                async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                    await self._redis.publish(CHANNEL, event.decode())
                self.published += 1
            except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
                self.dropped += 1
                log.warning("event dropped", error=type(error).__name__)
            finally:
                self._queue.task_done()
