"""Whose time a job takes, and who would be in two places at once.

The plans of one day change one after the other: each writes the day's own document, whose version was read before the
day's jobs were. So of two that would give the same person away at the same time, one is made anew and sees the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from upstream_app.documents import MAX_TRIES, Conflict, Edit, Session, Versions, pause
from upstream_app.jobs.store import JobStore
from upstream_app.mongo import MAX_TIME_MS, Client, Database, Document
from upstream_app.web.errors import ApiError

DEFAULT_HOURS = 4.0
IDLE = ("draft", "cancelled", "completed")
"""States in which a job takes nobody's time."""
Away = Callable[[date], Awaitable[set[ObjectId]]]
"""Who is on time off that day."""


class Slot(NamedTuple):
    """Minutes of the day."""

    start: int
    end: int
    number: str = ""

    @property
    def shown(self) -> str:
        return f"{_clock(self.start)}-{_clock(min(self.end, 24 * 60 - 1))}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def slot_of(job: Document) -> Slot:
    hours, minutes = (int(part) for part in job.get("startTime", "08:00").split(":"))
    start = 60 * hours + minutes
    return Slot(start, start + round(60 * float(job.get("hours") or DEFAULT_HOURS)), job.get("number", ""))


class Planning:
    def __init__(self, client: Client, database: Database, jobs: JobStore, away: Away) -> None:
        self._client = client
        self._jobs = jobs
        self._days = database["crew_days"]
        self._away = away

    async def booked(self, day: date, but: ObjectId | None = None) -> dict[ObjectId, list[Slot]]:
        """By member of any crew; one job may be left out."""
        found: dict[ObjectId, list[Slot]] = {}
        for job in await self._jobs.on(day):
            if job["status"] not in IDLE and job["_id"] != but:
                for entry in job["crew"]:
                    found.setdefault(entry["member"], []).append(slot_of(job))
        return found

    async def free(self, job: Document, members: Sequence[ObjectId]) -> dict[ObjectId, str]:
        """Of these members those who are not free for the job, and why."""
        day, slot = date.fromisoformat(job["scheduledDate"]), slot_of(job)
        away, booked = await self._away(day), await self.booked(day, job["_id"])
        found: dict[ObjectId, str] = {}
        for member in members:
            other = next((one for one in booked.get(member, ()) if one.start < slot.end and slot.start < one.end), None)
            if member in away:
                found[member] = "is on time off"
            elif other is not None:
                found[member] = f"is at {other.number}, {other.shown}"
        return found

    async def change(
        self, job: ObjectId, edit: Edit, expected: Versions, which: Document, *, force: bool = False
    ) -> Document:
        """Change a job's crew or time, and its day's plan with it. Raises ApiError 409 where somebody of the crew is
        not free then, unless it is to be so; NotFound, Conflict, and what `edit` raises."""
        for left in reversed(range(MAX_TRIES)):
            try:
                return await self._change(job, edit, expected, which, force=force)
            except Conflict as error:
                if error.expected or not left:
                    raise
                await pause(MAX_TRIES - left)
        raise AssertionError("the last try returns or raises")

    async def _change(self, job: ObjectId, edit: Edit, expected: Versions, which: Document, *, force: bool) -> Document:
        found = await self._jobs.get(job, which)
        after = edit(found)
        day = after["scheduledDate"]
        plan = await self._days.find_one({"_id": day}, max_time_ms=MAX_TIME_MS)
        if not force and after["status"] not in IDLE:
            busy = await self.free(after, [entry["member"] for entry in after["crew"]])
            if busy:
                told = [{"member": str(member), "why": why} for member, why in busy.items()]
                raise ApiError(409, "Not all of the crew are free then; send force: true if so be it",
                               details={"notFree": told})  # fmt: skip

        def same(document: Document) -> Document:
            if document["version"] != found["version"]:
                raise Conflict("job", expected=False)
            return edit(document)

        async def work(session: Any) -> Document:
            await self._take(day, plan, session)
            return await self._jobs.change(job, same, expected, which=which, session=session)

        async with self._client.start_session() as session:
            return await session.with_transaction(work)

    async def _take(self, day: str, plan: Document | None, session: Session) -> None:
        """Raises Conflict where the day's plan has changed since it was read."""
        if plan is None:
            try:
                await self._days.insert_one({"_id": day, "version": 1}, session=session)
            except DuplicateKeyError:
                raise Conflict("day's plan", expected=False) from None
            return
        seen = {"_id": day, "version": plan["version"]}
        taken = await self._days.update_one(seen, {"$set": {"version": plan["version"] + 1}}, session=session)
        if not taken.matched_count:
            raise Conflict("day's plan", expected=False)
