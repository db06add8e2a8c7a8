"""/api/crews: who is there, who is free, who is off, and who suits a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from typing import Annotated, Literal

from aiohttp import web
from bson import ObjectId
from pydantic import Field, StringConstraints, model_validator
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.auth.permissions import Actor
from upstream_app.auth.store import UserStore
from upstream_app.crews.scoring import Candidate, Score, choose
from upstream_app.customers.model import Written
from upstream_app.documents import Collection
from upstream_app.events import Events
from upstream_app.jobs.store import JobStore
from upstream_app.mongo import Database, Document
from upstream_app.notifications.api import Notifier
from upstream_app.states import move
from upstream_app.web.answers import success
from upstream_app.web.endpoint import ANY_USER, Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import Identity, Page, listed

INDEXES = [
    IndexModel([("user", ASCENDING), ("_id", DESCENDING)], name="user"),
    IndexModel([("status", ASCENDING), ("to", ASCENDING)], name="until"),
]
MAX_AWAY = 2_000
TRANSITIONS: dict[str, frozenset[str]] = {
    "pending": frozenset({"approved", "denied"}),
    "approved": frozenset({"denied"}),
    "denied": frozenset(),
}


class NewTimeOff(Written):
    first: date
    last: date
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""

    @model_validator(mode="after")
    def _order(self) -> NewTimeOff:
        if self.last < self.first or (self.last - self.first).days > 365:
            raise ValueError("last is before first, or more than a year after it")
        return self


class Decision(Written):
    status: Literal["approved", "denied"]


class AvailabilityQuery(Page):
    day: date


class AutoAssign(Written):
    """`miles` says how far each member is from the job, where that is known."""

    size: Annotated[int, Field(ge=1, le=20)] | None = None
    miles: Annotated[dict[Identity, Annotated[float, Field(ge=0, le=5000)]], Field(default_factory=dict)]
    preferred: Annotated[list[Identity], Field(max_length=20, default_factory=list)]


class Emergency(Written):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    jobId: Identity | None = None


Assign = Callable[[Call, ObjectId, list[ObjectId], ObjectId], Awaitable[Document]]
"""Who asks, job, members, and which of them leads; the job with that crew."""


def time_off(database: Database) -> Collection:
    return Collection(database, "time_off", "time-off request", INDEXES)


class CrewApi:
    def __init__(
        self, requests: Collection, users: UserStore, jobs: JobStore, notifier: Notifier, events: Events, assign: Assign
    ) -> None:
        self._events = events
        self._assign = assign
        self.time_off = requests
        self._users = users
        self._jobs = jobs
        self._notifier = notifier

    def endpoints(self) -> list[Endpoint]:
        path, read = "/api/crews", "crews:read"
        return [
            Endpoint("GET", path, self.members, read, "Crew members"),
            Endpoint(
                "GET", f"{path}/availability", self.availability, read, "Who is free", query=AvailabilityQuery,
                plain=True,
            ),
            Endpoint("GET", f"{path}/time-off", self.requests, read, "Time-off requests", query=Page),
            Endpoint("POST", f"{path}/time-off", self.ask, ANY_USER, "Ask for time off", NewTimeOff, status=201),
            Endpoint("PATCH", f"{path}/time-off/{{id}}", self.decide, "crews:assign", "Decide", Decision),
            Endpoint(
                "POST", f"{path}/suggest/{{job}}", self.suggest, "crews:assign", "Who suits a job, and why", AutoAssign,
                body_optional=True,
            ),
            Endpoint(
                "POST", f"{path}/auto-assign/{{job}}", self.auto_assign, "crews:assign", "Assign who suits it best",
                AutoAssign, body_optional=True,
            ),
            Endpoint("POST", f"{path}/emergency", self.emergency, ANY_USER, "Call for help", Emergency, status=201),
        ]  # fmt: skip

    async def members(self, call: Call) -> web.Response:
        return success({"members": [self._users.shown(one) for one in await self._users.crew()]})

    async def _free(self, day: date) -> list[tuple[Document, bool, int]]:
        """Each member, whether not on time off, and how many jobs that day has for them."""
        members = await self._users.crew()
        ids = [one["_id"] for one in members]
        text = day.isoformat()
        not_over = {"status": "approved", "to": {"$gte": text}}
        away = await self.time_off.raw.find(not_over, {"user": 1, "from": 1}).limit(MAX_AWAY).to_list(MAX_AWAY)
        off = {one["user"] for one in away if one["from"] <= text}
        busy = await self._jobs.busy_on(day, ids)
        return [(one, one["_id"] not in off, busy.get(one["_id"], 0)) for one in members]

    async def availability(self, call: Call) -> web.Response:
        day = call.query(AvailabilityQuery).day
        rows = [
            {
                "member": str(one["_id"]),
                "name": f"{one['firstName']} {one['lastName']}",
                "available": there,
                "jobs": jobs,
            }
            for one, there, jobs in await self._free(day)
        ]
        return success({"day": day.isoformat(), "members": rows})

    async def requests(self, call: Call) -> web.Response:
        asked = call.query(Page)
        found, total = await self.time_off.find({}, asked)
        return listed("requests", found, total, asked)

    async def ask(self, call: Call) -> web.Response:
        given = call.body(NewTimeOff)
        fields = {"from": given.first.isoformat(), "to": given.last.isoformat(), "reason": given.reason}
        made = await self.time_off.insert(fields | {"user": call.actor.user, "status": "pending"})
        return shown(made, "Asked for", 201, "/api/crews/time-off")

    async def decide(self, call: Call) -> web.Response:
        given, actor = call.body(Decision), call.actor

        def edit(document: Document) -> Document:
            move(TRANSITIONS, document["status"], given.status)
            if document["user"] == actor.user:
                raise ApiError(403, "Nobody decides on the own time off")
            return document | {"status": given.status, "decidedBy": actor.user}

        changed = await self.time_off.change(call.id(noun="time-off request"), edit, call.expected)
        text = f"Your time off from {changed['from']} was {given.status}"
        await self._notifier.tell([ObjectId(changed["user"])], "time_off_decided", text, {"requestId": changed["id"]})
        return shown(changed, "Decided")

    async def suggest(self, call: Call) -> web.Response:
        """The best crew by its score."""
        job = await self._jobs.get(call.id("job", "job"))
        return success(self._scores(job, *await self._chosen(call, job)))

    async def auto_assign(self, call: Call) -> web.Response:
        """The best crew by its score, assigned; 409 where too few are free. The best of them leads."""
        job = await self._jobs.get(call.id("job", "job"))
        chosen, wanted = await self._chosen(call, job)
        if len(chosen) < wanted:
            raise ApiError(409, f"Only {len(chosen)} of {wanted} are free that day", details={"free": len(chosen)})
        members = [ObjectId(one.member) for one in chosen]
        changed = await self._assign(call, job["_id"], members, members[0])
        return success(self._scores(job, chosen, wanted) | {"job": changed}, "Crew assigned")

    async def emergency(self, call: Call) -> web.Response:
        told = await self.call_for_help(call.actor, call.body(Emergency))
        return success({"told": told}, "Help was called", status=201)

    async def call_for_help(self, me: Actor, given: Emergency) -> int:
        """Dispatchers, managers and the job's crew hear of it at once, whatever they have muted; how many these are.

        Raises NotFound.
        """
        told = {one["_id"] for one in await self._users.of_roles(["dispatcher", "manager"])}
        data: Document = {"from": str(me.user), "text": given.text}
        if given.jobId is not None:
            job = await self._jobs.get(ObjectId(given.jobId))
            told |= {entry["member"] for entry in job["crew"]}
            data["jobId"] = given.jobId
        rooms = ["role:dispatcher", "role:manager", *(f"user:{one}" for one in told)]
        self._events.publish("emergencyAlert", rooms, data)
        await self._notifier.tell(sorted(told - {me.user}), "emergency", f"{me.username}: {given.text}", data)
        return len(told - {me.user})

    async def _chosen(self, call: Call, job: Document) -> tuple[list[Score], int]:
        given = call.body(AutoAssign)
        candidates = [
            Candidate(
                str(one["_id"]), frozenset(skill.casefold() for skill in one.get("skills", [])), there, jobs,
                given.miles.get(str(one["_id"])), float(one.get("rating", 3.0)), str(one["_id"]) in given.preferred,
            )
            for one, there, jobs in await self._free(date.fromisoformat(job["scheduledDate"]))
        ]  # fmt: skip
        wanted = given.size or job["crewSize"]
        return choose(candidates, job["requiredSkills"], wanted), wanted

    def _scores(self, job: Document, chosen: list[Score], wanted: int) -> Document:
        crew = [{"member": one.member, "score": one.total, "parts": one.parts} for one in chosen]
        return {"jobId": str(job["_id"]), "crew": crew, "complete": len(crew) == wanted}
