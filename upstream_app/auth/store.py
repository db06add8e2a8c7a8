"""Users in MongoDB."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.auth.permissions import CREW
from upstream_app.documents import Collection
from upstream_app.mongo import MAX_TIME_MS, Database, Document

INDEXES = [
    IndexModel([("usernameKey", ASCENDING)], name="username", unique=True),
    IndexModel([("emailKey", ASCENDING)], name="email", unique=True),
    IndexModel([("role", ASCENDING), ("_id", DESCENDING)], name="role"),
    IndexModel([("role", ASCENDING), ("active", ASCENDING)], name="active"),
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

    async def of_roles(self, roles: Sequence[str], which: Mapping[str, Any] | None = None) -> list[Document]:
        """Active ones; each role by its own query, since `$in` has no index on every server."""
        more = which or {}
        found = [
            self.raw.find({"role": role, "active": True, **more}, max_time_ms=MAX_TIME_MS).limit(500).to_list(500)
            for role in roles
        ]
        return [one for some in await asyncio.gather(*found) for one in some]

    async def by_names(self, names: list[str]) -> list[Document]:
        which = {"usernameKey": {"$in": [name.casefold() for name in names]}, "active": True}
        return await self.raw.find(which, {"username": 1}, max_time_ms=MAX_TIME_MS).limit(100).to_list(100)

    async def crew(self, ids: list[ObjectId] | None = None) -> list[Document]:
        return await self.of_roles(CREW, None if ids is None else {"_id": {"$in": ids}})
