"""Jobs in MongoDB. Numbers come from a counter a year: no two jobs have the same, whoever makes them at once."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from upstream_app.documents import MAX_TRIES, Collection, Session, now
from upstream_app.estimates.model import Conversion
from upstream_app.jobs.model import OVER
from upstream_app.mongo import MAX_TIME_MS, Database, Document
from upstream_app.web.errors import ApiError

INDEXES = [
    IndexModel([("number", ASCENDING)], name="number", unique=True),
    IndexModel([("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    IndexModel([("service", ASCENDING), ("_id", DESCENDING)], name="service"),
    IndexModel([("customerId", ASCENDING), ("_id", DESCENDING)], name="customer"),
    IndexModel([("scheduledDate", ASCENDING), ("_id", DESCENDING)], name="date"),
    IndexModel([("crew.member", ASCENDING), ("scheduledDate", ASCENDING)], name="crew"),
    IndexModel([("crew.member", ASCENDING), ("_id", DESCENDING)], name="member"),
    IndexModel([("createdBy", ASCENDING), ("_id", DESCENDING)], name="creator"),
]

MAX_A_DAY = 500


class JobStore(Collection):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "jobs", "job", INDEXES, unique={"number": "number"})
        self._counters = database["counters"]

    async def next_number(self) -> str:
        """`JOB-YYYY-NNNN`; one that is then not used leaves a gap, and is never given out again."""
        year = datetime.now(UTC).year
        counter, next_one = {"_id": f"jobs-{year}"}, {"$inc": {"last": 1}}
        for _ in range(MAX_TRIES):
            found = await self._counters.find_one_and_update(counter, next_one, return_document=ReturnDocument.AFTER)
            if found is not None:
                return f"JOB-{year}-{found['last']:04d}"
            with contextlib.suppress(DuplicateKeyError):
                await self._counters.insert_one({**counter, "last": 0})
        raise RuntimeError("there is no counter, and none can be made")

    async def create(self, fields: Document, user: ObjectId, number: str = "", session: Session = None) -> Document:
        whole = {
            "number": number or await self.next_number(), "priority": "normal", "status": "scheduled", **fields,
            "crew": [], "milestones": [], "notes": [], "history": [], "createdBy": user,
        }  # fmt: skip
        return await self.insert(whole, session)

    async def from_estimate(
        self, estimate: Document, given: Conversion, called: tuple[ObjectId, str], user: ObjectId, session: Session
    ) -> Document:
        """It is its estimate's author's own, whoever made a job of it. `called` are its id and number."""
        identity, number = called
        details = estimate["details"]
        when = given.scheduledDate.isoformat() if given.scheduledDate else details["moveDate"]
        fields: Document = {
            "_id": identity, "customerId": estimate["customerId"], "estimateId": estimate["_id"],
            "service": details["service"],
            "scheduledDate": when, "startTime": given.startTime, "crewSize": estimate["crew"],
            "hours": min(24.0, float(estimate["hours"])),
            "requiredSkills": ["piano"] if details["piano"] else [], "description": estimate["notes"],
            "convertedBy": user, "price": estimate["totalPrice"], "pickup": details["pickup"]["address"],
            "delivery": details["delivery"]["address"],
        }  # fmt: skip
        if estimate.get("opportunityId"):
            fields["opportunityId"] = estimate["opportunityId"]
        return await self.create(fields, estimate.get("createdBy", user), number, session)

    async def on(self, day: date) -> list[Document]:
        """Jobs of a day, as far as its crews are concerned: one equality, so that one index serves it."""
        fields = {"number": 1, "status": 1, "crew.member": 1, "startTime": 1, "hours": 1, "remindedFor": 1}
        found = self.raw.find({"scheduledDate": day.isoformat()}, fields, max_time_ms=MAX_TIME_MS)
        return await found.sort("_id", DESCENDING).limit(MAX_A_DAY).to_list(MAX_A_DAY)

    async def of_member(self, member: ObjectId, first: str, last: str) -> list[str]:
        """Numbers of the jobs that a member of their crew has from one day to another."""
        which = {"crew.member": member, "scheduledDate": {"$gte": first, "$lte": last}}
        found = self.raw.find(which, {"number": 1, "status": 1}, max_time_ms=MAX_TIME_MS).limit(MAX_A_DAY)
        return [job["number"] for job in await found.to_list(MAX_A_DAY) if job["status"] not in OVER]

    async def due_on(self, day: date) -> list[Document]:
        """Jobs of that day whose crew was not reminded of it yet; whoever gets one here is the one to do it."""
        found, text = [], day.isoformat()
        for job in await self.on(day):
            if job.get("remindedFor") == text or not job["crew"] or job["status"] not in ("scheduled", "confirmed"):
                continue
            mine = {"_id": job["_id"], "remindedFor": {"$ne": text}}
            if (await self.raw.update_one(mine, {"$set": {"remindedFor": text}})).modified_count:
                found.append(job)
        return found


def with_crew(
    document: Document, members: list[ObjectId], lead: ObjectId, known: dict[ObjectId, Document], by: ObjectId
) -> Document:
    """Who was in the crew before keeps what was noted of them. Raises ApiError 409 where the job is over."""
    if document["status"] in OVER:
        raise ApiError(409, f"A {document['status']} job gets no crew")
    before = {entry["member"]: entry for entry in document["crew"]}
    fresh = {"status": "assigned", "assignedAt": now(), "by": by}
    crew = [
        {**before.get(one, fresh), "member": one, "role": "lead" if one == lead else "member",
         "name": f"{known[one]['firstName']} {known[one]['lastName']}"}
        for one in members
    ]  # fmt: skip
    return document | {"crew": crew}


def stamped(document: Document, state: str) -> Document:
    """When work really began and ended."""
    if state == "in_progress" and "actualStart" not in document:
        return document | {"actualStart": now()}
    return document | {"actualEnd": now()} if state == "completed" else document
