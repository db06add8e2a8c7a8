"""/api/crews: who is there, who is free, who is off, and who suits a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Annotated, Literal

from aiohttp import web
from bson import ObjectId
from pydantic import Field, StringConstraints, model_validator

from upstream_app.auth.permissions import Actor, within
from upstream_app.auth.store import UserStore
from upstream_app.crews.scoring import Candidate, Score, choose
from upstream_app.crews.store import TimeOffStore
from upstream_app.customers.model import Written
from upstream_app.documents import NotFound
from upstream_app.events import Events
from upstream_app.jobs.planning import Planning
from upstream_app.jobs.store import JobStore
from upstream_app.mongo import Document
from upstream_app.notifications.api import Notifier
from upstream_app.states import move
from upstream_app.web.answers import success
from upstream_app.web.days import Day
from upstream_app.web.endpoint import ANY_USER, Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import Identity, Page, listed

MAX_TOLD = 50
CHOICES = 5
"""How often a crew is chosen anew where others were quicker."""
TRANSITIONS: dict[str, frozenset[str]] = {
    "pending": frozenset({"approved", "denied"}),
    "approved": frozenset({"denied"}),
    "denied": frozenset(),
}


class NewTimeOff(Written):
    first: Day
    last: Day
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""

    @model_validator(mode="after")
    def _order(self) -> NewTimeOff:
        if self.last < self.first or (self.last - self.first).days > 365:
            raise ValueError("last is before first, or more than a year after it")
        if self.first < datetime.now(UTC).date():
            raise ValueError("first is over already")
        return self


class Decision(Written):
    status: Literal["approved", "denied"]


class AvailabilityQuery(Page):
    day: Day


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


class CrewApi:
    def __init__(
        self,
        requests: TimeOffStore,
        users: UserStore,
        jobs: JobStore,
        planning: Planning,
        notifier: Notifier,
        events: Events,
        assign: Assign,
    ) -> None:
        self._planning = planning
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
            Endpoint("GET", f"{path}/time-off", self.requests, ANY_USER, "Time-off requests; one's own", query=Page),
            Endpoint("POST", f"{path}/time-off", self.ask, ANY_USER, "Ask for time off", NewTimeOff, status=201),
            Endpoint("PATCH", f"{path}/time-off/{{id}}", self.decide, "crews:assign", "Decide", Decision),
            Endpoint("DELETE", f"{path}/time-off/{{id}}", self.withdraw, ANY_USER, "Take one's request back"),
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

    async def availability(self, call: Call) -> web.Response:
        """Who is not on time off, and when each of them is at a job."""
        day = call.query(AvailabilityQuery).day
        away, booked = await self.time_off.away_on(day), await self._planning.booked(day)
        rows = [
            {
                "member": str(one["_id"]),
                "name": f"{one['firstName']} {one['lastName']}",
                "available": one["_id"] not in away,
                "jobs": len(booked.get(one["_id"], ())),
                "busy": [slot.shown for slot in sorted(booked.get(one["_id"], ()))],
            }
            for one in await self._users.crew()
        ]
        return success({"day": day.isoformat(), "members": rows})

    async def requests(self, call: Call) -> web.Response:
        """Everybody's, for whoever plans crews; else one's own."""
        asked, me = call.query(Page), call.actor
        which = {} if me.scope("crews:read") else {"user": me.user}
        found, total = await self.time_off.find(which, asked)
        return listed("requests", found, total, asked)

    async def withdraw(self, call: Call) -> web.Response:
        me, today = call.actor.user, datetime.now(UTC).date().isoformat()

        def mine(found: Document) -> None:
            if found["user"] != me:
                raise NotFound("time-off request")
            if found["from"] < today:
                raise ApiError(409, "This time off has begun")

        await self.time_off.remove(call.id(noun="time-off request"), call.expected, mine)
        return success({}, "Taken back")

    async def ask(self, call: Call) -> web.Response:
        given = call.body(NewTimeOff)
        if await self.time_off.overlaps(call.actor.user, given.first, given.last):
            raise ApiError(409, "You have asked for some of these days already")
        fields = {"from": given.first.isoformat(), "to": given.last.isoformat(), "reason": given.reason}
        made = await self.time_off.insert(fields | {"user": call.actor.user, "status": "pending"})
        return shown(made, "Asked for", 201)

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
        planned = await self._jobs.of_member(ObjectId(changed["user"]), changed["from"], changed["to"])
        return success(changed | {"jobs": planned[:MAX_TOLD]}, "Decided", etag=str(changed["version"]))

    async def suggest(self, call: Call) -> web.Response:
        """The best crew by its score."""
        job = await self._jobs.get(call.id("job", "job"))
        return success(self._scores(job, *await self._chosen(call, job)))

    async def auto_assign(self, call: Call) -> web.Response:
        """The best crew by its score, assigned; 409 where too few are free. The best of them leads."""
        for left in reversed(range(CHOICES)):
            job = await self._jobs.get(call.id("job", "job"))
            chosen, wanted = await self._chosen(call, job)
            if len(chosen) < wanted:
                raise ApiError(409, f"Only {len(chosen)} of {wanted} are free that day", details={"free": len(chosen)})
            members = [ObjectId(one.member) for one in chosen]
            try:
                changed = await self._assign(call, job["_id"], members, members[0])
            except ApiError as error:
                if not left or "notFree" not in (error.details or {}):
                    raise
                continue
            return success(self._scores(job, chosen, wanted) | {"job": changed}, "Crew assigned")
        raise AssertionError("the last choice returns or raises")

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
            scope = me.scope("jobs:read")
            if scope is None:
                raise NotFound("job")
            job = await self._jobs.get(ObjectId(given.jobId), within(me, scope))
            told |= {entry["member"] for entry in job["crew"]}
            data["jobId"] = given.jobId
        rooms = ["role:dispatcher", "role:manager", *(f"user:{one}" for one in told)]
        self._events.publish("emergencyAlert", rooms, data)
        await self._notifier.tell(sorted(told - {me.user}), "emergency", f"{me.username}: {given.text}", data)
        return len(told - {me.user})

    async def _chosen(self, call: Call, job: Document) -> tuple[list[Score], int]:
        given = call.body(AutoAssign)
        members = await self._users.crew()
        busy = await self._planning.not_free(job, [one["_id"] for one in members])
        booked = await self._planning.booked(date.fromisoformat(job["scheduledDate"]), job["_id"])
        candidates = [
            Candidate(
                str(one["_id"]), frozenset(skill.casefold() for skill in one.get("skills", [])),
                one["_id"] not in busy, len(booked.get(one["_id"], ())), given.miles.get(str(one["_id"])),
                float(one.get("rating", 3.0)), str(one["_id"]) in given.preferred,
            )
            for one in members
        ]  # fmt: skip
        wanted = given.size or job["crewSize"]
        return choose(candidates, job["requiredSkills"], wanted), wanted

    def _scores(self, job: Document, chosen: list[Score], wanted: int) -> Document:
        crew = [{"member": one.member, "score": one.total, "parts": one.parts} for one in chosen]
        return {"jobId": str(job["_id"]), "crew": crew, "complete": len(crew) == wanted}
