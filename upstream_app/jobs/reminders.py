"""The day before a job its crew is reminded of it, once, whichever instance comes first."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import structlog
from pymongo.errors import PyMongoError

from upstream_app.jobs.store import JobStore
from upstream_app.notifications.api import Notifier

log = structlog.get_logger("simplepro.reminders")
EVERY_SECONDS = 600.0


class Reminders:
    def __init__(self, jobs: JobStore, notifier: Notifier) -> None:
        self._jobs = jobs
        self._notifier = notifier
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reminders")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS * random.uniform(0.5, 1))  # noqa: S311  # jitter
            try:
                await self.remind()
            except PyMongoError as error:
                log.warning("nobody reminded", error=type(error).__name__)

    async def remind(self) -> int:
        """Of tomorrow's jobs; how many there were."""
        jobs = await self._jobs.due_on(datetime.now(UTC).date() + timedelta(days=1))
        for job in jobs:
            text = f"{job['number']} is tomorrow at {job.get('startTime', '08:00')}"
            await self._notifier.tell(
                [entry["member"] for entry in job["crew"]], "job_reminder", text, {"jobId": str(job["_id"])}
            )
        return len(jobs)
