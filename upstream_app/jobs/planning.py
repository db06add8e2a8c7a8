"""Whose time a job takes, and who would be in two places at once.

The plans of one day change one after the other: each writes the documents of the days that its job is on, whose
versions were read before the days' jobs were. So of two that would give the same person away at the same time, one is
made anew and sees the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from upstream_app.documents import Conflict, Edit, Session, Versions, again
from upstream_app.jobs.model import DEFAULT_HOURS, IDLE
from upstream_app.jobs.store import JobStore
from upstream_app.mongo import MAX_TIME_MS, Client, Database, Document
from upstream_app.web.errors import ApiError

DAY_MINUTES = 24 * 60
Away = Callable[[date], Awaitable[set[ObjectId]]]
"""Who is on time off that day."""


class Slot(NamedTuple):
    """Minutes of the day."""

    start: int
    end: int
    number: str = ""

    @property
    def shown(self) -> str:
        return f"{_clock(self.start)}-{_clock(self.end)}"

    def meets(self, other: Slot) -> bool:
        return self.start < other.end and other.start < self.end

    def later(self, days: int) -> Slot:
        return Slot(self.start + days * DAY_MINUTES, self.end + days * DAY_MINUTES, self.number)


def _clock(minutes: int) -> str:
    """Of the day itself: what began before it is there from its beginning, what ends after it to its end."""
    within = min(max(minutes, 0), DAY_MINUTES)
    return f"{within // 60:02d}:{within % 60:02d}"


def slot_of(job: Document) -> Slot:
    """On its own day; past midnight where it takes so long."""
    hours, minutes = (int(part) for part in job.get("startTime", "08:00").split(":"))
    start = 60 * hours + minutes
    return Slot(start, start + round(60 * float(job.get("hours") or DEFAULT_HOURS)), job.get("number", ""))


def days_of(job: Document) -> list[date]:
    first = date.fromisoformat(job["scheduledDate"])
    return [first, first + timedelta(days=1)] if slot_of(job).end > DAY_MINUTES else [first]


class Planning:
    def __init__(self, client: Client, database: Database, jobs: JobStore, away: Away) -> None:
        self._client = client
        self._jobs = jobs
        self._days = database["crew_days"]
        self._away = away

    async def booked(self, day: date, but: ObjectId | None = None, *, on: int = 0) -> dict[ObjectId, list[Slot]]:
        """By member of any crew, what that day has for them, of jobs from the evening before too; as minutes of a day
        that is `on` days earlier. One job may be left out."""
        found: dict[ObjectId, list[Slot]] = {}
        for before in (0, 1):
            for job in await self._jobs.on(day - timedelta(days=before)):
                slot = slot_of(job).later(on - before)
                if job["status"] in IDLE or job["_id"] == but or slot.end <= on * DAY_MINUTES:
                    continue
                for entry in job["crew"]:
                    found.setdefault(entry["member"], []).append(slot)
        return found

    async def not_free(self, job: Document, members: Sequence[ObjectId]) -> dict[ObjectId, str]:
        """Of these members those who are not free for the job, and why."""
        slot = slot_of(job)
        found: dict[ObjectId, str] = {}
        for number, day in enumerate(days_of(job) if members else ()):
            away, booked = await self._away(day), await self.booked(day, job["_id"], on=number)
            for member in members:
                other = next((one for one in booked.get(member, ()) if one.meets(slot)), None)
                if member in away:
                    found.setdefault(member, "is on time off")
                elif other is not None:
                    found.setdefault(member, f"is at {other.number}")
        return found

    async def change(
        self, job: ObjectId, edit: Edit, expected: Versions, which: Document, *, force: bool = False
    ) -> Document:
        """Change a job's crew or time, and its day's plan with it. Raises ApiError 409 where somebody of the crew is
        not free then, unless it is to be so; NotFound, Conflict, and what `edit` raises."""
        return await again(lambda: self._change(job, edit, expected, which, force=force))

    async def _change(self, job: ObjectId, edit: Edit, expected: Versions, which: Document, *, force: bool) -> Document:
        found = await self._jobs.get(job, which)
        if expected is not None and found["version"] not in expected:
            raise Conflict("job", expected=True)
        after = edit(found)
        days = sorted({*days_of(found), *days_of(after)})
        plans = [await self._days.find_one({"_id": day.isoformat()}, max_time_ms=MAX_TIME_MS) for day in days]
        busy = {} if force or after["status"] in IDLE else await self.not_free(after, _given_away(found, after))
        if busy:
            told = [{"member": str(member), "why": why} for member, why in busy.items()]
            what = "Not all of the crew are free then; send force: true if so be it"
            raise ApiError(409, what, details={"notFree": told})

        def same(document: Document) -> Document:
            if document["version"] != found["version"]:
                raise Conflict("job", expected=False)
            return edit(document)

        async def work(session: Any) -> Document:
            for day, plan in zip(days, plans, strict=True):
                await self._take(day.isoformat(), plan, session)
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


def _given_away(before: Document, after: Document) -> list[ObjectId]:
    """Whose time is taken that was not before: of who is new, or of all where the job is at another time."""
    members = [entry["member"] for entry in after["crew"]]
    same_day = before["scheduledDate"] == after["scheduledDate"] and before["status"] not in IDLE
    old, new = slot_of(before), slot_of(after)
    if not same_day or new.start < old.start or new.end > old.end:
        return members
    had = {entry["member"] for entry in before["crew"]}
    return [member for member in members if member not in had]
