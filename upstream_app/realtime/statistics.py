"""Live statistics for those who watch them: made by one instance at a time, told to all."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any, cast

import structlog
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from upstream_app.background import Background
from upstream_app.events import Events
from upstream_app.jobs.store import JobStore
from upstream_app.realtime.hub import Hub
from upstream_app.realtime.presence import Presence
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.realtime")
ROOM = "analytics:dashboard"
LEASE = "{simplepro-app:events}:statistics"
EVERY = 5.0


class Statistics(Background):
    def __init__(
        self, redis: Client, events: Events, jobs: JobStore, presence: Presence, hub: Hub, every: float = EVERY
    ) -> None:
        super().__init__("statistics")
        self._redis = redis
        self._events = events
        self._jobs = jobs
        self._presence = presence
        self._hub = hub
        self._every = every

    async def now(self) -> dict[str, Any]:
        """Jobs of today by state, and who is online."""
        jobs = await self._jobs.on(datetime.now(UTC).date())
        states = Counter(job["status"] for job in jobs)
        return {"jobsToday": dict(states), "online": len(await self._presence.online())}

    async def _run(self) -> None:
        while not self._closing:
            await asyncio.sleep(self._every)
            if not self._hub.members(ROOM):
                continue
            try:
                async with asyncio.timeout(5):
                    milliseconds = max(1, int(self._every * 900))
                    mine = await cast("Any", self._redis.set(LEASE, "1", nx=True, px=milliseconds))
                    if mine:
                        self._events.publish("analyticsUpdate", [ROOM], await self.now(), passing=True)
            except (RedisError, PyMongoError, OSError, TimeoutError) as error:
                log.warning("statistics were not made", error=type(error).__name__)
