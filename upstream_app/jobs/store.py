"""Jobs in MongoDB. Numbers come from a counter a year: no two jobs have the same, whoever makes them at once."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument

from upstream_app.documents import Collection, Session, now
from upstream_app.estimates.model import Conversion
from upstream_app.mongo import Database, Document

INDEXES = [
    IndexModel([("number", ASCENDING)], name="number", unique=True),
    IndexModel([("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    IndexModel([("service", ASCENDING), ("_id", DESCENDING)], name="service"),
    IndexModel([("customerId", ASCENDING), ("_id", DESCENDING)], name="customer"),
    IndexModel([("scheduledDate", ASCENDING), ("_id", DESCENDING)], name="date"),
    IndexModel([("crew.member", ASCENDING), ("scheduledDate", ASCENDING)], name="crew"),
    IndexModel([("createdBy", ASCENDING), ("_id", DESCENDING)], name="creator"),
]


class JobStore(Collection):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "jobs", "job", INDEXES, unique={"number": "number"})
        self._counters = database["counters"]

    async def next_number(self) -> str:
        """`JOB-YYYY-NNNN`; one that is then not used leaves a gap, and is never given out again."""
        year = datetime.now(UTC).year
        found = await self._counters.find_one_and_update(
            {"_id": f"jobs-{year}"}, {"$inc": {"last": 1}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        if found is None:
            raise RuntimeError("an upsert gave no counter")
        return f"JOB-{year}-{found['last']:04d}"

    async def create(self, fields: Document, user: ObjectId, number: str = "", session: Session = None) -> Document:
        whole = {
            "number": number or await self.next_number(), "priority": "normal", "status": "scheduled", **fields,
            "crew": [], "milestones": [], "notes": [], "history": [], "createdBy": user,
        }  # fmt: skip
        return await self.insert(whole, session)

    async def from_estimate(
        self, estimate: Document, given: Conversion, number: str, user: ObjectId, session: Session
    ) -> Document:
        details = estimate["details"]
        when = given.scheduledDate.isoformat() if given.scheduledDate else details["moveDate"]
        fields: Document = {
            "customerId": estimate["customerId"], "estimateId": estimate["_id"], "service": details["service"],
            "scheduledDate": when, "startTime": given.startTime, "crewSize": estimate["crew"],
            "requiredSkills": ["piano"] if details["piano"] else [], "description": estimate["notes"],
            "price": estimate["totalPrice"], "pickup": details["pickup"]["address"],
            "delivery": details["delivery"]["address"],
        }  # fmt: skip
        if estimate.get("opportunityId"):
            fields["opportunityId"] = estimate["opportunityId"]
        return await self.create(fields, user, number, session)

    async def busy_on(self, day: date, members: list[ObjectId]) -> dict[ObjectId, int]:
        """How many jobs each of them has that day."""
        which: dict[str, Any] = {
            "crew.member": {"$in": members}, "scheduledDate": day.isoformat(),
            "status": {"$nin": ["cancelled", "completed"]},
        }  # fmt: skip
        found: dict[ObjectId, int] = {}
        for job in await self.raw.find(which, {"crew.member": 1}).limit(500).to_list(500):
            for entry in job["crew"]:
                found[entry["member"]] = found.get(entry["member"], 0) + 1
        return found


def stamped(document: Document, state: str) -> Document:
    """When work really began and ended."""
    if state == "in_progress" and "actualStart" not in document:
        return document | {"actualStart": now()}
    return document | {"actualEnd": now()} if state == "completed" else document
