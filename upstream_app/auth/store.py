"""Users in MongoDB."""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.documents import Collection
from upstream_app.mongo import MAX_TIME_MS, Database, Document

INDEXES = [
    IndexModel([("usernameKey", ASCENDING)], name="username", unique=True),
    IndexModel([("emailKey", ASCENDING)], name="email", unique=True),
    IndexModel([("role", ASCENDING), ("_id", DESCENDING)], name="role"),
]


def _derived(document: Document) -> Document:
    return {"usernameKey": document["username"].casefold(), "emailKey": document["email"].casefold()}


class UserStore(Collection):
    def __init__(self, database: Database) -> None:
        super().__init__(
            database, "users", "user", INDEXES,
            unique={"usernameKey": "username", "emailKey": "email"},
            hidden=("password", "usernameKey", "emailKey"),
            derive=_derived,
        )  # fmt: skip

    async def named(self, name: str) -> Document | None:
        """By user name or e-mail address, in whatever case; with the password's hash."""
        key = {"emailKey" if "@" in name else "usernameKey": name.casefold()}
        return await self.raw.find_one(key, max_time_ms=MAX_TIME_MS)

    async def crew(self, ids: list[ObjectId] | None = None) -> list[Document]:
        which: dict[str, Any] = {"role": {"$in": ["crew_lead", "crew_member"]}, "active": True}
        if ids is not None:
            which["_id"] = {"$in": ids}
        return await self.raw.find(which, max_time_ms=MAX_TIME_MS).limit(500).to_list(500)
