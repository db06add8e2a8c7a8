"""Customers in MongoDB. Every list query runs over one of INDEXES and sorts by `_id`, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.customers.model import LONGEST_PREFIX, CustomerQuery, prefixes, words
from upstream_app.documents import Collection
from upstream_app.mongo import MAX_TIME_MS, Database, Document

INDEXES = [
    IndexModel([("emailKey", ASCENDING)], name="email", unique=True),
    IndexModel([("status", ASCENDING), ("_id", DESCENDING)], name="status"),
    IndexModel([("type", ASCENDING), ("_id", DESCENDING)], name="type"),
    IndexModel([("source", ASCENDING), ("_id", DESCENDING)], name="source"),
    IndexModel([("words", ASCENDING), ("_id", DESCENDING)], name="words"),
]


class CustomerStore(Collection):
    def __init__(self, database: Database) -> None:
        super().__init__(
            database, "customers", "customer", INDEXES,
            unique={"emailKey": "email"}, hidden=("words", "emailKey"), derive=_derived,
        )  # fmt: skip

    async def stats(self) -> Document:
        """How many there are by status, type and source."""
        told: Document = {"total": await self.lagging.count_documents({}, maxTimeMS=MAX_TIME_MS)}
        for field in ("status", "type", "source"):
            stages = [{"$group": {"_id": f"${field}", "count": {"$sum": 1}}}]
            cursor = await self.lagging.aggregate(stages, maxTimeMS=MAX_TIME_MS)
            told[f"by{field.capitalize()}"] = {row["_id"]: row["count"] for row in await cursor.to_list(50)}
        return told


def condition(query: CustomerQuery) -> Document:
    """The filter of a list query; each word of a search has to be the beginning of one of the customer's."""
    which: Document = {name: value for name in ("type", "status", "source") if (value := getattr(query, name))}
    if query.search is not None:
        asked = [word[:LONGEST_PREFIX] for word in words(query.search)]
        which["words"] = {"$all": asked} if len(asked) > 1 else asked[0] if asked else ""
    return which


def _derived(document: Mapping[str, Any]) -> Document:
    address = document.get("address") or {}
    texts = (document["firstName"], document["lastName"], document["email"], document["phone"], address.get("city", ""))
    digits = "".join(char for char in document["phone"] if char.isdigit())
    return {"emailKey": document["email"].casefold(), "words": prefixes(digits, *texts)}
