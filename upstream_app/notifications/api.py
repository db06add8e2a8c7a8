"""/api/notifications: twelve kinds, kept for 90 days, as far as their reader wants them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from aiohttp import web
from bson import ObjectId
from pydantic import Field, StringConstraints, model_validator
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.auth.permissions import ROLES
from upstream_app.auth.store import UserStore
from upstream_app.customers.model import Written
from upstream_app.documents import Collection, now
from upstream_app.events import Events
from upstream_app.mongo import Database, Document
from upstream_app.web.answers import success
from upstream_app.web.endpoint import ANY_USER, Call, Endpoint, shown
from upstream_app.web.lists import Page, listed

Kind = Literal[
    "job_assigned", "job_status_changed", "job_reminder", "job_completed", "crew_changed", "message_received",
    "mention", "estimate_accepted", "opportunity_won", "time_off_decided", "emergency", "system",
]  # fmt: skip
KEPT_SECONDS = 90 * 86_400
ALWAYS = frozenset({"emergency", "system"})
"""What nobody can switch off."""
INDEXES = [
    IndexModel([("at", ASCENDING)], name="kept", expireAfterSeconds=KEPT_SECONDS),
    IndexModel([("user", ASCENDING), ("_id", DESCENDING)], name="user"),
    IndexModel([("user", ASCENDING), ("read", ASCENDING), ("_id", DESCENDING)], name="unread"),
]


class NotificationQuery(Page):
    unread: bool = False


class Preferences(Written):
    """Kinds that one does not want."""

    muted: Annotated[list[Kind], Field(max_length=12)]


class Announcement(Written):
    """To the users of these roles; to all where it names none."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    roles: Annotated[list[str], Field(max_length=8, default_factory=list)]

    @model_validator(mode="after")
    def _known(self) -> Announcement:
        if strangers := set(self.roles) - ROLES.keys():
            raise ValueError(f"there is no role {', '.join(sorted(strangers))}")
        return self


def notifications(database: Database) -> Collection:
    return Collection(database, "notifications", "notification", INDEXES)


class Notifier:
    def __init__(self, database: Database, store: Collection, users: UserStore, events: Events) -> None:
        self._users = users
        self.store = store
        self._preferences = database["preferences"]
        self._events = events

    async def tell(self, users: list[ObjectId], kind: Kind, text: str, data: dict[str, Any]) -> None:
        if not users:
            return
        muted = await self._preferences.find({"_id": {"$in": users}}).to_list(len(users))
        deaf = {one["_id"] for one in muted if kind in one["muted"] and kind not in ALWAYS}
        hearing = [user for user in users if user not in deaf]
        fields = {"kind": kind, "text": text, "data": data, "read": False, "at": now()}
        made = await self.store.insert_all([{"user": user, **fields} for user in hearing])
        for user, one in zip(hearing, made, strict=True):
            self._events.publish("notification.created", [f"user:{user}"], one)

    def endpoints(self) -> list[Endpoint]:
        path = "/api/notifications"
        return [
            Endpoint("GET", path, self.find, ANY_USER, "One's notifications", query=NotificationQuery),
            Endpoint("POST", f"{path}/read-all", self.read_all, ANY_USER, "All read"),
            Endpoint("GET", f"{path}/preferences", self.preferences, ANY_USER, "What one does not want"),
            Endpoint("PATCH", f"{path}/preferences", self.change_preferences, ANY_USER, "Change that", Preferences),
            Endpoint("POST", f"{path}/{{id}}/read", self.read, ANY_USER, "One read"),
            Endpoint(
                "POST", f"{path}/announce", self.announce, "system_settings:update", "Tell roles, or everybody",
                Announcement, status=201,
            ),
        ]  # fmt: skip

    async def announce(self, call: Call) -> web.Response:
        given = call.body(Announcement)
        users = await self._users.of_roles(list(given.roles or ROLES))
        told = [one["_id"] for one in users if one["_id"] != call.actor.user]
        await self.tell(told, "system", given.text, {})
        return success({"told": len(told)}, "Announced", status=201)

    async def find(self, call: Call) -> web.Response:
        asked = call.query(NotificationQuery)
        which: Document = {"user": call.actor.user} | ({"read": False} if asked.unread else {})
        found, total = await self.store.find(which, asked)
        return listed("notifications", found, total, asked)

    async def read(self, call: Call) -> web.Response:
        own = {"user": call.actor.user}
        return shown(await self.store.change(call.id(noun="notification"), _seen, which=own))

    async def read_all(self, call: Call) -> web.Response:
        result = await self.store.raw.update_many({"user": call.actor.user, "read": False}, {"$set": {"read": True}})
        return success({"changed": result.modified_count})

    async def preferences(self, call: Call) -> web.Response:
        found = await self._preferences.find_one({"_id": call.actor.user}) or {"muted": []}
        return success({"muted": found["muted"], "kinds": list(get_args(Kind))})

    async def change_preferences(self, call: Call) -> web.Response:
        muted = sorted(set(call.body(Preferences).muted))
        await self._preferences.replace_one({"_id": call.actor.user}, {"muted": muted}, upsert=True)
        return success({"muted": muted})


def _seen(document: Document) -> Document:
    return document | {"read": True}
