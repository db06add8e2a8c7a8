"""Customers in MongoDB. Every list query runs over one of INDEXES and sorts by `_id`, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from upstream_app.customers.model import CustomerChanges, CustomerQuery, NewCustomer, words
from upstream_app.mongo import MAX_TIME_MS, Database, Document

INDEXES = [
    IndexModel([("emailKey", ASCENDING)], name="email", unique=True),
    IndexModel([("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    IndexModel([("type", ASCENDING), ("_id", DESCENDING)], name="type"),
    IndexModel([("source", ASCENDING), ("_id", DESCENDING)], name="source"),
    IndexModel([("words", ASCENDING), ("_id", DESCENDING)], name="words"),
]
MAX_COUNT = 10_000
"""Counting stops here: a total beyond it is of no use to a reader and costs the database a walk."""


class EmailTaken(Exception):
    """Another customer has this e-mail address, in whatever case."""


class Conflict(Exception):
    """The customer has changed since the version that was read."""


class CustomerStore:
    def __init__(self, database: Database) -> None:
        self._customers = database["customers"]

    async def prepare(self) -> None:
        """Create what is missing of collection and indexes."""
        await self._customers.create_indexes(INDEXES)

    async def create(self, new: NewCustomer) -> Document:
        """Raises EmailTaken."""
        now = _now()
        document: Document = {
            "_id": ObjectId(),
            **new.model_dump(exclude_none=True),
            "version": 1,
            "createdAt": now,
            "updatedAt": now,
        }
        document |= _derived(document)
        try:
            await self._customers.insert_one(document)
        except DuplicateKeyError:
            raise EmailTaken from None
        return shown(document)

    async def get(self, identity: ObjectId) -> Document | None:
        found = await self._customers.find_one({"_id": identity}, max_time_ms=MAX_TIME_MS)
        return shown(found) if found else None

    async def change(self, identity: ObjectId, changes: CustomerChanges, expected: int | None) -> Document | None:
        """The customer after the change, None where there is none. Raises Conflict or EmailTaken.

        `expected` is the version that the caller saw; without it the change applies to whatever is there now.
        """
        found = await self._customers.find_one({"_id": identity}, max_time_ms=MAX_TIME_MS)
        if found is None:
            return None
        if expected is not None and found["version"] != expected:
            raise Conflict
        given = changes.model_dump(exclude_unset=True)
        after = {**found, **given, "version": found["version"] + 1, "updatedAt": _now()}
        if after.get("address") is None:
            after.pop("address", None)
        after |= _derived(after)
        update: dict[str, Any] = {"$set": {name: value for name, value in after.items() if name != "_id"}}
        if "address" in found and "address" not in after:
            update["$unset"] = {"address": ""}
        try:
            result = await self._customers.update_one({"_id": identity, "version": found["version"]}, update)
        except DuplicateKeyError:
            raise EmailTaken from None
        if not result.matched_count:
            raise Conflict
        return shown(after)

    async def remove(self, identity: ObjectId, expected: int | None) -> bool:
        """False where there is none. Raises Conflict where `expected` is not its version."""
        which: Document = {"_id": identity}
        if expected is not None:
            which["version"] = expected
        if (await self._customers.delete_one(which)).deleted_count:
            return True
        if expected is not None and await self._customers.find_one({"_id": identity}, {"_id": 1}):
            raise Conflict
        return False

    async def find(self, query: CustomerQuery) -> tuple[list[Document], int]:
        """One page, and how many there are in all (up to MAX_COUNT)."""
        which = condition(query)
        total = await self._customers.count_documents(which, limit=MAX_COUNT, maxTimeMS=MAX_TIME_MS)
        paged = {**which, "_id": {"$lt": ObjectId(query.after)}} if query.after else which
        cursor = self._customers.find(paged, {"words": 0, "emailKey": 0}, max_time_ms=MAX_TIME_MS)
        found = await cursor.sort("_id", DESCENDING).skip(query.skip).limit(query.limit).to_list(query.limit)
        return [shown(one) for one in found], total


def condition(query: CustomerQuery) -> Document:
    """The filter of a list query; each word of a search is a range over the token array, so no expression is run."""
    which: Document = {name: value for name in ("type", "status", "source") if (value := getattr(query, name))}
    ranges = [_begins_with(word) for word in words(query.search or "")]
    if query.search is not None and not ranges:
        ranges = [{"words": ""}]
    if ranges:
        which["$and"] = ranges
    return which


def _begins_with(word: str) -> Document:
    """$elemMatch, since a range over an array may else be met by one element from below and another from above."""
    return {"words": {"$elemMatch": {"$gte": word, "$lt": word + "\U0010ffff"}}}


def shown(document: Mapping[str, Any]) -> Document:
    """As clients see it: `id` first, nothing that is derived."""
    hidden = ("_id", "words", "emailKey")
    return {"id": str(document["_id"]), **{key: value for key, value in document.items() if key not in hidden}}


def _derived(document: Mapping[str, Any]) -> Document:
    address = document.get("address") or {}
    texts = (document["firstName"], document["lastName"], document["email"], document["phone"], address.get("city", ""))
    digits = "".join(char for char in document["phone"] if char.isdigit())
    return {"emailKey": document["email"].casefold(), "words": words(digits, *texts)}


def _now() -> datetime:
    """MongoDB keeps milliseconds; what is answered must be what is kept."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
