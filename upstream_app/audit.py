"""Who did what, for 90 days; written after the answer was made, and never what was in it."""

from __future__ import annotations

from typing import Annotated, Any

import pymongo
import structlog
from aiohttp import web
from bson import ObjectId
from pydantic import Field
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import PyMongoError

from upstream_app.auth.permissions import Actor
from upstream_app.documents import Collection, fresh, now
from upstream_app.mongo import Database
from upstream_app.web.endpoint import Call, Endpoint
from upstream_app.web.errors import header
from upstream_app.web.lists import Identity, Page, filters, listed

log = structlog.get_logger("simplepro.audit")
KEPT_SECONDS = 90 * 86_400
WRITE_SECONDS = 1.0
"""What an answer waits for its entry."""
INDEXES = [
    IndexModel([("at", ASCENDING)], name="kept", expireAfterSeconds=KEPT_SECONDS),
    IndexModel([("user", ASCENDING), ("_id", DESCENDING)], name="user"),
    IndexModel([("resource", ASCENDING), ("_id", DESCENDING)], name="resource"),
]


class AuditQuery(Page):
    user: Identity | None = None
    resource: Annotated[str, Field(pattern=r"^[a-z-]{2,40}$")] | None = None


def audit_entries(database: Database) -> Collection:
    return Collection(database, "audit", "audit entry", INDEXES)


class AuditLog:
    def __init__(self, entries: Collection) -> None:
        self.entries = entries

    def endpoints(self) -> list[Endpoint]:
        return [Endpoint("GET", "/api/audit", self.find, "reports:read", "Who did what", query=AuditQuery)]

    async def write(self, request: web.Request, actor: Actor | None, endpoint: Endpoint, status: int) -> None:
        """What was refused is told too."""
        await self.note(request, actor, endpoint.method, endpoint.tag, endpoint.path, status)

    async def note(
        self, request: web.Request, actor: Actor | None, action: str, resource: str, path: str, status: int
    ) -> None:
        """The request does not fail where this can't be written; it is logged."""
        entry: dict[str, Any] = {
            "at": now(), "user": actor.user if actor else None, "action": action, "resource": resource,
            "path": path, "document": request.match_info.get("id"), "status": status,
            "requestId": header(request, "X-Request-ID"),
        }  # fmt: skip
        try:
            with pymongo.timeout(WRITE_SECONDS):
                await self.entries.raw.insert_one({"_id": fresh(), **entry, "version": 1})
        except PyMongoError as error:
            log.warning("audit entry lost", error=type(error).__name__, **{k: str(v) for k, v in entry.items()})

    async def find(self, call: Call) -> web.Response:
        asked = call.query(AuditQuery)
        which: dict[str, Any] = {"user": ObjectId(asked.user)} if asked.user else {}
        which |= {"resource": asked.resource} if asked.resource else {}
        found, total = await self.entries.find(which, asked)
        return listed("entries", found, total, asked, filters(asked))
