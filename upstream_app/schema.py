"""Collections, validators and indexes exist before a request may count on them: versioned steps, each taken once.

A step may be taken again without harm, so that two instances that start together do no damage; `done` is written after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pymongo
import structlog
from aiohttp import web
from pymongo.errors import OperationFailure, PyMongoError

from upstream_app.documents import Collection, now
from upstream_app.mongo import Database, Document
from upstream_app.web.errors import ApiError, Handler

log = structlog.get_logger("simplepro.schema")
RETRY_SECONDS = 2.0
STEP_SECONDS = 600.0
VALID_DAYS = 30
"""Of an estimate's price, as estimates.model has it; a step is not to change with that."""
UNSUPPORTED = frozenset({59, 72, 115, 238})
"""CommandNotFound, InvalidOptions, CommandNotSupported, NotImplemented."""
_ID = {"bsonType": "objectId"}
_WHEN = {"bsonType": "date"}
VALIDATORS: dict[str, Document] = {
    "customers": {
        "required": ["firstName", "lastName", "emailKey", "version"],
        "properties": {"version": {"bsonType": "int"}},
    },
    "users": {"required": ["usernameKey", "emailKey", "password", "role", "active"]},
    "jobs": {"required": ["number", "customerId", "status", "scheduledDate"], "properties": {"customerId": _ID}},
    "estimates": {"required": ["customerId", "status", "totalPrice", "hash"], "properties": {"customerId": _ID}},
    "opportunities": {"required": ["customerId", "status", "title"], "properties": {"customerId": _ID}},
    "audit": {"required": ["at", "action", "resource", "status"], "properties": {"at": _WHEN}},
    "notifications": {"required": ["user", "kind", "text", "read", "at"], "properties": {"user": _ID, "at": _WHEN}},
    "time_off": {"required": ["user", "from", "to", "status"], "properties": {"user": _ID}},
    "threads": {"required": ["kind", "members"], "properties": {"members": {"bsonType": "array"}}},
    "messages": {
        "required": ["thread", "author", "content"],
        "properties": {"thread": _ID, "author": _ID, "content": {"bsonType": "string"}},
    },
}
"""What the database itself insists on, whoever writes."""


class Schema:
    def __init__(self, database: Database, collections: Sequence[Collection]) -> None:
        self._database = database
        self._collections = collections
        self.prepared = False

    @property
    def steps(self) -> dict[int, tuple[str, Callable[[], Awaitable[None]]]]:
        """By version; new ones are added at the end, and none is changed once it was released."""
        return {
            1: ("indexes", self._indexes),
            2: ("validators", self._validators),
            3: ("indexes of every collection", self._indexes),
            4: ("validators of every collection", self._validators),
            5: ("jobs of a member of their crew", self._indexes),
            6: ("how long estimates are good", self._valid_until),
        }

    async def prepare(self) -> None:
        """Try until it succeeds: the database may come up after the application does."""
        while not self.prepared:
            try:
                with pymongo.timeout(STEP_SECONDS):
                    await self.migrate()
            except PyMongoError as error:
                log.warning("not prepared yet", error=type(error).__name__, retry_in=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.prepared = True
                log.info("prepared")

    async def migrate(self) -> list[str]:
        """Take the steps that were not taken; which they were."""
        done = {row["_id"] async for row in self._database["migrations"].find({}, {"_id": 1})}
        taken = []
        for version, (name, step) in self.steps.items():
            if version not in done:
                await step()
                mark = {"$set": {"name": name, "at": now()}}
                await self._database["migrations"].update_one({"_id": version}, mark, upsert=True)
                taken.append(f"{version} {name}")
        return taken

    async def _indexes(self) -> None:
        for collection in self._collections:
            await collection.prepare()

    async def _valid_until(self) -> None:
        estimates = self._database["estimates"]
        async for one in estimates.find({"validUntil": {"$exists": False}}, {"createdAt": 1}):
            until = (one["createdAt"].date() + timedelta(days=VALID_DAYS)).isoformat()
            await estimates.update_one({"_id": one["_id"]}, {"$set": {"validUntil": until}})

    async def _validators(self) -> None:
        """A server that speaks the protocol and has none says so, and is no worse off than before."""
        for name, schema in VALIDATORS.items():
            try:
                await self._database.command(
                    "collMod", name, validator={"$jsonSchema": schema}, validationLevel="moderate"
                )
            except OperationFailure as error:
                if error.code not in UNSUPPORTED:
                    raise
                log.warning("validator not set", collection=name, error=str(error).split(",", 1)[0][:120])

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """503 for everything but health until the schema is there."""
        if not self.prepared and not request.path.startswith("/api/health/"):
            raise ApiError(503, "The database can't be reached or is being prepared", headers={"Retry-After": "2"})
        return await handler(request)
