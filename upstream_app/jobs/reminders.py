"""What the calendar brings: crews are reminded the day before a job, once, whichever instance comes first; estimates
that nobody accepted in time expire."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pymongo
import structlog
from pymongo.errors import PyMongoError

from upstream_app.background import ended
from upstream_app.documents import Collection, now
from upstream_app.jobs.store import JobStore
from upstream_app.notifications.api import Notifier

log = structlog.get_logger("simplepro.reminders")
EVERY_SECONDS = 600.0
WORK_SECONDS = 60.0


class Reminders:
    def __init__(self, jobs: JobStore, estimates: Collection, notifier: Notifier) -> None:
        self._jobs = jobs
        self._estimates = estimates
        self._notifier = notifier
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reminders")

    async def close(self) -> None:
        await ended(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS * random.uniform(0.5, 1))  # noqa: S311  # jitter
            try:
                with pymongo.timeout(WORK_SECONDS):
                    await self.remind()
                    await self.expire()
            except PyMongoError as error:
                log.warning("nobody reminded", error=type(error).__name__)

    async def expire(self) -> int:
        """Estimates that were sent and are no longer good; how many there were."""
        today, expired = datetime.now(UTC).date().isoformat(), 0
        for state in ("sent", "viewed"):
            which = {"status": state, "validUntil": {"$lt": today}}
            entry = {"from": state, "to": "expired", "at": now(), "by": None, "reason": "nobody accepted it in time"}
            change = {
                "$set": {"status": "expired", "updatedAt": now()},
                "$inc": {"version": 1},
                "$push": {"history": entry},
            }
            expired += (await self._estimates.raw.update_many(which, change)).modified_count
        return expired

    async def remind(self) -> int:
        """Of tomorrow's jobs; how many there were."""
        jobs = await self._jobs.due_on(datetime.now(UTC).date() + timedelta(days=1))
        for job in jobs:
            text = f"{job['number']} is tomorrow at {job.get('startTime', '08:00')}"
            await self._notifier.tell(
                [entry["member"] for entry in job["crew"]], "job_reminder", text, {"jobId": str(job["_id"])}
            )
        return len(jobs)
