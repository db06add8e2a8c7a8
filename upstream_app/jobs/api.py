"""/api/jobs."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from typing import Any

from aiohttp import web
from bson import ObjectId

from upstream_app.auth.permissions import within
from upstream_app.auth.store import UserStore
from upstream_app.cache import Cache
from upstream_app.documents import Collection, NotFound, again, now
from upstream_app.events import Events
from upstream_app.jobs.model import (
    CREW_TRANSITIONS,
    OVER,
    TRANSITIONS,
    CrewAssignment,
    CrewStateChange,
    JobChanges,
    JobQuery,
    MilestoneChange,
    NewJob,
    NewNote,
    StateChange,
)
from upstream_app.jobs.planning import Planning
from upstream_app.jobs.store import JobStore, stamped, with_crew
from upstream_app.metrics import Business
from upstream_app.mongo import MAX_TIME_MS, Client, Document
from upstream_app.notifications.api import Kind, Notifier
from upstream_app.opportunities.api import moved
from upstream_app.states import move
from upstream_app.web.answers import json_response, success
from upstream_app.web.days import day_of
from upstream_app.web.endpoint import Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import Page, filters, listing

LIST_SECONDS, ONE_SECONDS, STATS_SECONDS = 120, 300, 120
MAX_NOTES = 200
MILESTONES = ("crew_en_route", "arrived", "loading", "in_transit", "unloading", "finished")


class JobApi:
    def __init__(
        self,
        store: JobStore,
        client: Client,
        planning: Planning,
        customers: Collection,
        estimates: Collection,
        opportunities: Collection,
        users: UserStore,
        cache: Cache,
        events: Events,
        notifier: Notifier,
        business: Business,
    ) -> None:
        self._store = store
        self._client = client
        self._planning = planning
        self._customers = customers
        self._estimates = estimates
        self._opportunities = opportunities
        self._users = users
        self._cache = cache
        self._events = events
        self._notifier = notifier
        self._business = business

    def endpoints(self) -> list[Endpoint]:
        path, read, update, assign = "/api/jobs", "jobs:read", "jobs:update", "jobs:assign"
        one = f"{path}/{{id}}"
        return [
            Endpoint("GET", path, self.find, read, "Jobs", query=JobQuery),
            Endpoint("POST", path, self.create, "jobs:create", "Make a job", NewJob, status=201),
            Endpoint("GET", f"{path}/stats", self.stats, "reports:read", "How many there are, by state"),
            Endpoint("GET", f"{path}/by-date/{{date}}", self.by_date, read, "Jobs of a day", query=Page),
            Endpoint("GET", f"{path}/job-number/{{number}}", self.by_number, read, "The job of that number"),
            Endpoint("GET", f"{path}/customer/{{customer}}", self.by_customer, read, "A customer's", query=Page),
            Endpoint("GET", f"{path}/crew/{{member}}", self.by_crew, read, "A crew member's", query=Page),
            Endpoint("GET", f"{path}/calendar/week/{{date}}", self.week, read, "A week, by day"),
            Endpoint("GET", one, self.get, read, "One job"),
            Endpoint("PATCH", one, self.change, update, "Change a job", JobChanges),
            Endpoint("DELETE", one, self.remove, "jobs:delete", "Remove a job"),
            Endpoint("PATCH", f"{one}/status", self.change_state, update, "Change its state", StateChange),
            Endpoint("POST", f"{one}/crew", self.assign, assign, "Assign a crew", CrewAssignment),
            Endpoint("PATCH", f"{one}/crew/{{member}}/status", self.crew_state, read, "A member's", CrewStateChange),
            Endpoint("PATCH", f"{one}/milestones/{{milestone}}", self.milestone, update, "Reach one", MilestoneChange),
            Endpoint("POST", f"{one}/notes", self.note, update, "Add a note", NewNote, status=201),
        ]

    async def find(self, call: Call) -> web.Response:
        asked = call.query(JobQuery)
        which = within(call.actor, call.scope)
        which |= {name: value for name in ("status", "service") if (value := getattr(asked, name))}
        which |= {"customerId": ObjectId(asked.customerId)} if asked.customerId else {}
        which |= {"scheduledDate": asked.date.isoformat()} if asked.date else {}
        return await self._page(call, which, asked, filters(asked))

    async def _page(self, call: Call, which: Document, asked: Page, chosen: Document | None = None) -> web.Response:
        """Kept for all who reach as far: everybody's for those who may see all, else one's own."""

        async def load() -> Any:
            found, total = await self._store.find(which, asked)
            following = str(found[-1]["id"]) if len(found) == asked.limit else None
            return listing("jobs", found, total, asked, chosen or {}, following)

        key = hashlib.sha256(f"{which!r} {asked.model_dump_json()}".encode()).hexdigest()[:24]
        body = await self._cache.get(f"jobs:{call.reach}:{key}", ["jobs"], LIST_SECONDS, load)
        return json_response(body, headers={"Surrogate-Key": "jobs"})

    async def stats(self, call: Call) -> web.Response:
        async def load() -> Document:
            told: Document = {"total": await self._store.lagging.count_documents({}, maxTimeMS=MAX_TIME_MS)}
            for field in ("status", "service", "priority"):
                stages = [{"$group": {"_id": f"${field}", "count": {"$sum": 1}}}]
                rows = await (await self._store.lagging.aggregate(stages, maxTimeMS=MAX_TIME_MS)).to_list(20)
                told[f"by{field.capitalize()}"] = {row["_id"]: row["count"] for row in rows}
            return told

        return success(await self._cache.get("jobs:stats", ["jobs"], STATS_SECONDS, load))

    async def by_date(self, call: Call) -> web.Response:
        return await self._listed(call, {"scheduledDate": _day(call).isoformat()})

    async def by_customer(self, call: Call) -> web.Response:
        return await self._listed(call, {"customerId": call.id("customer", "customer")})

    async def by_crew(self, call: Call) -> web.Response:
        return await self._listed(call, {"crew.member": call.id("member", "crew member")})

    async def _listed(self, call: Call, which: Document) -> web.Response:
        asked = call.query(Page)
        scope = within(call.actor, call.scope)
        return await self._page(call, {"$and": [which, scope]} if scope else which, asked)

    async def by_number(self, call: Call) -> web.Response:
        which = {"number": call.request.match_info["number"], **within(call.actor, call.scope)}
        found = await self._store.raw.find_one(which, max_time_ms=MAX_TIME_MS)
        if found is None:
            raise NotFound("job")
        return shown(self._store.shown(found))

    async def week(self, call: Call) -> web.Response:
        """Seven days from the Monday of that date's week."""
        asked = _day(call)
        days = [(asked + timedelta(days=number - asked.weekday())).isoformat() for number in range(7)]
        which = {"scheduledDate": {"$gte": days[0], "$lte": days[-1]}, **within(call.actor, call.scope)}
        jobs = await self._store.all(which)
        return success(
            {"days": [{"date": day, "jobs": [j for j in jobs if j["scheduledDate"] == day]} for day in days]}
        )

    async def get(self, call: Call) -> web.Response:
        job, which = call.id(noun="job"), within(call.actor, call.scope)

        async def load() -> Document | None:
            try:
                return self._store.shown(await self._store.get(job, which))
            except NotFound:
                return None

        found = await self._cache.get(f"job:{job}:{call.reach}", [f"job:{job}"], ONE_SECONDS, load)
        if found is None:
            raise NotFound("job")
        answer = shown(found)
        answer.headers["Surrogate-Key"] = f"job:{job}"
        return answer

    async def create(self, call: Call) -> web.Response:
        given = call.body(NewJob)
        customer = ObjectId(given.customerId)
        await self._customers.get(customer)
        fields = given.model_dump(mode="json", exclude_none=True) | {"customerId": customer}
        async with self._cache.writing("jobs"):
            made = await self._store.create(fields, call.actor.user)
        self._business.jobs += 1
        self._told(made, "jobCreated")
        return shown(made, "Job created", 201, "/api/jobs")

    async def change(self, call: Call) -> web.Response:
        given = call.body(JobChanges)
        changes = given.model_dump(mode="json", exclude_unset=True, exclude={"force"})

        def edit(document: Document) -> Document:
            _not_over(document)
            return document | changes

        if not changes.keys() & {"scheduledDate", "startTime", "hours"}:
            return await self._edit(call, edit, "jobUpdate", "Job updated")
        return await self._plan(call, edit, "jobUpdate", "Job updated", force=given.force)

    async def _plan(self, call: Call, edit: Any, event: str, message: str, *, force: bool) -> web.Response:
        """A change that may take its crew's time."""
        job, which = call.id(noun="job"), within(call.actor, call.scope)
        async with self._cache.writing("jobs", f"job:{job}"):
            changed = await self._planning.change(job, edit, call.expected, which, force=force)
        self._told(changed, event)
        return shown(changed, message)

    async def _edit(self, call: Call, edit: Any, event: str, message: str) -> web.Response:
        which = within(call.actor, call.scope)
        job = call.id(noun="job")
        async with self._cache.writing("jobs", f"job:{job}"):
            changed = await self._store.change(job, edit, call.expected, which=which)
        self._told(changed, event)
        return shown(changed, message)

    async def remove(self, call: Call) -> web.Response:
        job = call.id(noun="job")

        def idle(found: Document) -> None:
            if found["status"] == "in_progress":
                raise ApiError(400, "A job in progress is not deleted")

        async def work(session: Any) -> Document:
            """Its estimate and opportunity are free for another, or nothing has changed."""
            found = await self._store.remove(job, call.expected, idle, session)
            unlink = {"$unset": {"jobId": ""}, "$inc": {"version": 1}, "$set": {"updatedAt": now()}}
            for collection, name in ((self._estimates, "estimateId"), (self._opportunities, "opportunityId")):
                if linked := found.get(name):
                    await collection.raw.update_one({"_id": linked, "jobId": job}, unlink, session=session)
            return found

        async def once() -> Document:
            async with self._client.start_session() as session:
                return await session.with_transaction(work)

        async with self._cache.writing("jobs", f"job:{job}"):
            removed = await again(once)
        self._told(self._store.shown(removed), "jobDeleted")
        return success({}, "Job deleted")

    async def change_state(self, call: Call) -> web.Response:
        given, actor = call.body(StateChange), call.actor

        def edit(document: Document) -> Document:
            move(TRANSITIONS, document["status"], given.status)
            return stamped(moved(document, given.status, actor.user, given.reason), given.status)

        completed = given.status == "completed"
        event = "jobCompleted" if completed else "jobStatusChanged"
        answer = await self._plan(call, edit, event, "Status changed", force=given.force)
        found = await self._store.get(call.id(noun="job"))
        told = {entry["member"] for entry in found["crew"]} | ({found["createdBy"]} if completed else set())
        kind: Kind = "job_completed" if completed else "job_status_changed"
        text = f"{found['number']} is now {given.status}"
        await self._notifier.tell(sorted(told - {actor.user}), kind, text, {"jobId": str(found["_id"])})
        return answer

    async def assign(self, call: Call) -> web.Response:
        given = call.body(CrewAssignment)
        members = [ObjectId(one) for one in given.members]
        lead = ObjectId(given.lead) if given.lead else members[0]
        changed = await self.assigned(call, call.id(noun="job"), members, lead, force=given.force)
        return shown(changed, "Crew assigned")

    async def assigned(
        self, call: Call, job: ObjectId, members: list[ObjectId], lead: ObjectId, *, force: bool = False
    ) -> Document:
        """The job with that crew; who is new in it is told, and who is in it no more. Raises ApiError."""
        known = {user["_id"]: user for user in await self._users.crew(members)}
        strangers = [str(one) for one in members if one not in known]
        if strangers:
            wrong = [{"field": "members", "message": f"{one} is no active crew member"} for one in strangers]
            raise ApiError(400, "Validation failed", validation=wrong)
        before: list[ObjectId] = []

        def edit(document: Document) -> Document:
            before[:] = [entry["member"] for entry in document["crew"]]
            return with_crew(document, members, lead, known, call.actor.user)

        which = within(call.actor, call.scope)
        async with self._cache.writing("jobs", f"job:{job}"):
            changed = await self._planning.change(job, edit, call.expected, which, force=force)
        self._told(changed, "jobAssigned")
        data = {"jobId": changed["id"]}
        new, gone = [one for one in members if one not in before], [one for one in before if one not in members]
        stays = [one for one in members if one in before]
        me = call.actor.user
        kinds: tuple[tuple[list[ObjectId], Kind, str], ...] = (
            (new, "job_assigned", "is yours"),
            (gone, "crew_changed", "is another crew's now"),
            (stays if new or gone else [], "crew_changed", "has another crew"),
        )
        for who, kind, what in kinds:
            await self._notifier.tell([one for one in who if one != me], kind, f"{changed['number']} {what}", data)
        return changed

    async def crew_state(self, call: Call) -> web.Response:
        """Crew members change their own state, whoever may update the job everybody's."""
        member, given = call.id("member", "crew member"), call.body(CrewStateChange)
        if member != call.actor.user and call.actor.scope("jobs:update") is None:
            raise ApiError(403, "Only your own state is yours to change")

        def edit(document: Document) -> Document:
            leaving = given.status == "checked_out" and document["status"] in ("completed", "on_hold")
            if document["status"] not in ("scheduled", "confirmed", "in_progress") and not leaving:
                raise ApiError(409, f"A job that is {document['status']} has nobody at work")
            entry = next((one for one in document["crew"] if one["member"] == member), None)
            if entry is None:
                raise NotFound("crew member on this job")
            move(CREW_TRANSITIONS, entry["status"], given.status)
            changed = entry | {"status": given.status, f"{given.status}At": now()}
            return document | {"crew": [changed if one is entry else one for one in document["crew"]]}

        return await self._edit(call, edit, "crewStatusUpdate", "Crew status changed")

    async def milestone(self, call: Call) -> web.Response:
        name, given, actor = call.request.match_info["milestone"], call.body(MilestoneChange), call.actor
        if name not in MILESTONES:
            raise NotFound(f"milestone; there are {', '.join(MILESTONES)}")

        def edit(document: Document) -> Document:
            if document["status"] != "in_progress":
                raise ApiError(409, "Milestones are reached while a job is in progress")
            others = [one for one in document["milestones"] if one["name"] != name]
            reached = [{"name": name, "at": now(), "by": actor.user}] if given.done else []
            return document | {"milestones": others + reached}

        return await self._edit(call, edit, "jobUpdate", "Milestone changed")

    async def note(self, call: Call) -> web.Response:
        entry = {"text": call.body(NewNote).text, "at": now(), "by": call.actor.user, "author": call.actor.username}
        answer = await self._edit(
            call, lambda document: document | {"notes": [*document["notes"], entry][-MAX_NOTES:]}, "jobUpdate", "Noted"
        )
        answer.set_status(201)
        return answer

    def _told(self, job: Document, event: str) -> None:
        rooms = ["role:dispatcher", f"job:{job['id']}", *(f"user:{one['member']}" for one in job["crew"])]
        self._events.publish(event, rooms, {"jobId": job["id"], "number": job["number"], "status": job["status"]})


def _not_over(job: Document) -> None:
    if job["status"] in OVER:
        raise ApiError(409, f"A {job['status']} job is changed no more")


def _day(call: Call) -> date:
    try:
        return day_of(call.request.match_info["date"])
    except ValueError as error:
        raise ApiError(400, f"The date {error}") from None
