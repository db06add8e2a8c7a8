"""/api/estimates: calculate, keep, send, accept, and make a job of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from bson import ObjectId
from pymongo import DESCENDING, IndexModel

from upstream_app.cache import Cache
from upstream_app.documents import Collection, Conflict, again, fresh
from upstream_app.estimates.model import (
    TRANSITIONS,
    Conversion,
    EstimateQuery,
    MoveDetails,
    NewEstimate,
    StateChange,
    valid_until,
)
from upstream_app.estimates.pricing import Price, price, trucks
from upstream_app.events import Events
from upstream_app.jobs.store import JobStore
from upstream_app.metrics import Business
from upstream_app.mongo import Client, Database, Document
from upstream_app.notifications.api import Notifier
from upstream_app.opportunities.api import moved
from upstream_app.states import move
from upstream_app.web.answers import success
from upstream_app.web.endpoint import Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import filters, listed

INDEXES = [
    IndexModel([("status", 1), ("_id", DESCENDING)], name="status"),
    IndexModel([("customerId", 1), ("_id", DESCENDING)], name="customer"),
    IndexModel([("opportunityId", 1), ("_id", DESCENDING)], name="opportunity"),
]


def estimates(database: Database) -> Collection:
    return Collection(database, "estimates", "estimate", INDEXES)


class EstimateApi:
    def __init__(
        self,
        client: Client,
        store: Collection,
        customers: Collection,
        opportunities: Collection,
        jobs: JobStore,
        cache: Cache,
        events: Events,
        business: Business,
        notifier: Notifier,
    ) -> None:
        self._notifier = notifier
        self._client = client
        self._store = store
        self._customers = customers
        self._opportunities = opportunities
        self._jobs = jobs
        self._cache = cache
        self._events = events
        self._business = business

    def endpoints(self) -> list[Endpoint]:
        path, read, create = "/api/estimates", "estimates:read", "estimates:create"
        update = "estimates:update"
        return [
            Endpoint("POST", f"{path}/calculate", self.calculate, create, "What a move would cost", MoveDetails),
            Endpoint("GET", path, self.find, read, "Estimates", query=EstimateQuery),
            Endpoint("POST", path, self.create, create, "Calculate and keep", NewEstimate, status=201),
            Endpoint("GET", f"{path}/{{id}}", self.get, read, "One estimate"),
            Endpoint("PATCH", f"{path}/{{id}}", self.revise, update, "Calculate anew", MoveDetails),
            Endpoint("PATCH", f"{path}/{{id}}/status", self.change_state, update, "Change its state", StateChange),
            Endpoint(
                "POST", f"{path}/{{id}}/convert", self.convert, "jobs:create", "The job of an accepted estimate",
                Conversion, status=201, body_optional=True,
            ),
        ]  # fmt: skip

    async def calculate(self, call: Call) -> web.Response:
        return success(priced(call.body(MoveDetails)))

    async def find(self, call: Call) -> web.Response:
        asked = call.query(EstimateQuery)
        which: dict[str, Any] = {"status": asked.status} if asked.status else {}
        for name in ("customerId", "opportunityId"):
            if identity := getattr(asked, name):
                which[name] = ObjectId(identity)
        found, total = await self._store.find(which, asked)
        return listed("estimates", found, total, asked, filters(asked))

    async def get(self, call: Call) -> web.Response:
        return shown(self._store.shown(await self._store.get(call.id(noun="estimate"))))

    async def create(self, call: Call) -> web.Response:
        given = call.body(NewEstimate)
        customer = ObjectId(given.customerId)
        await self._customers.get(customer)
        links: dict[str, Any] = {"customerId": customer}
        if given.opportunityId:
            links["opportunityId"] = ObjectId(given.opportunityId)
            await self._opportunities.get(links["opportunityId"], {"customerId": customer})
        details = MoveDetails.model_validate(given.model_dump(exclude={"customerId", "opportunityId", "notes"}))
        fields = links | {"details": details.model_dump(mode="json"), "notes": given.notes, **priced(details)}
        whole = fields | {"status": "draft", "createdBy": call.actor.user, "history": [], "validUntil": valid_until()}
        if given.opportunityId:
            made = await self._quoted(whole, links["opportunityId"], call.actor.user)
        else:
            made = await self._store.insert(whole)
        self._business.estimates += 1
        self._events.publish("estimateCreated", ["role:sales"], {"estimateId": made["id"]})
        return shown(made, "Estimate created", 201, "/api/estimates")

    async def _quoted(self, fields: Document, opportunity: ObjectId, user: ObjectId) -> Document:
        """An opportunity that has an estimate is quoted, unless it is further already: both are written, or none."""

        def edit(document: Document) -> Document:
            return moved(document, "quoted", user) if document["status"] in ("open", "contacted") else document

        async def work(session: Any) -> Document:
            await self._opportunities.change(opportunity, edit, session=session)
            return await self._store.insert(fields, session)

        async def once() -> Document:
            async with self._client.start_session() as session:
                return await session.with_transaction(work)

        return await again(once)

    async def revise(self, call: Call) -> web.Response:
        details, actor = call.body(MoveDetails), call.actor

        def edit(document: Document) -> Document:
            if document["status"] not in ("draft", "revised"):
                move(TRANSITIONS, document["status"], "revised")
                document = moved(document, "revised", actor.user)
            again = {"details": details.model_dump(mode="json"), "validUntil": valid_until(), **priced(details)}
            return document | again

        return shown(await self._store.change(call.id(noun="estimate"), edit, call.expected), "Estimate revised")

    async def change_state(self, call: Call) -> web.Response:
        """Accepting is for those who may approve; so that no one accepts the own estimate of a larger discount."""
        given, actor = call.body(StateChange), call.actor
        if given.status == "accepted" and actor.scope("estimates:approve") is None:
            raise ApiError(403, "Accepting an estimate takes estimates:approve")

        def edit(document: Document) -> Document:
            move(TRANSITIONS, document["status"], given.status)
            until = document.get("validUntil", "")
            if given.status == "accepted" and until and until < datetime.now(UTC).date().isoformat():
                raise ApiError(409, f"This price was good until {until}; calculate it anew", details={"until": until})
            return moved(document, given.status, actor.user, given.reason)

        changed = await self._store.change(call.id(noun="estimate"), edit, call.expected)
        self._events.publish("estimateChanged", ["role:sales"], {"estimateId": changed["id"], "status": given.status})
        author = ObjectId(changed["createdBy"])
        if given.status == "accepted" and author != actor.user:
            text = f"Your estimate over {changed['totalPrice']} was accepted"
            await self._notifier.tell([author], "estimate_accepted", text, {"estimateId": changed["id"]})
        return shown(changed, "Status changed")

    async def convert(self, call: Call) -> web.Response:
        """Estimate, opportunity, customer and job agree: all four change in one transaction, or none."""
        drawn: list[str] = []
        job, estimate = await again(lambda: self._converted(call, drawn))
        actor, number = call.actor, job["number"]
        if opportunity := estimate.get("opportunityId"):
            found = await self._opportunities.get(opportunity)
            if (author := found.get("createdBy")) and author != actor.user:
                text = f"\u201c{found['title']}\u201d is won: {number}"
                await self._notifier.tell([author], "opportunity_won", text, {"opportunityId": str(opportunity)})
            self._events.publish(
                "opportunityChanged", ["role:sales"], {"opportunityId": str(opportunity), "status": "won"}
            )
        self._business.jobs += 1
        self._events.publish(
            "jobCreated", ["role:dispatcher", f"job:{job['id']}"], {"jobId": job["id"], "number": number}
        )
        return shown(job, "Job created", 201, "/api/jobs")

    async def _converted(self, call: Call, drawn: list[str]) -> tuple[Document, Document]:
        """The job and its estimate; its number is drawn once the estimate is this one's. Raises ApiError 409 where
        there is no job to be made of it, Conflict."""
        given, actor, identity = call.body(Conversion), call.actor, call.id(noun="estimate")
        estimate = await self._store.get(identity)
        if call.expected is not None and estimate["version"] not in call.expected:
            raise Conflict("estimate", expected=True)
        if estimate["status"] != "accepted":
            raise ApiError(409, "Only an accepted estimate becomes a job", details={"status": estimate["status"]})
        if estimate.get("jobId"):
            raise ApiError(409, "This estimate is a job already", details={"jobId": str(estimate["jobId"])})
        opportunity = estimate.get("opportunityId")
        if opportunity:
            _winnable(await self._opportunities.get(opportunity))
        link: Document = {"jobId": fresh()}

        def linked(found: Document) -> Document:
            if found["version"] != estimate["version"]:
                raise Conflict("estimate", expected=False)
            return found | link

        async def work(session: Any) -> Document:
            await self._store.change(identity, linked, session=session)
            if opportunity:
                await self._opportunities.change(
                    opportunity, lambda found: _won(_winnable(found), actor.user) | link, session=session
                )
            await self._customers.change(
                estimate["customerId"], lambda found: found | {"status": "active"}, session=session
            )
            if not drawn:
                drawn.append(await self._jobs.next_number())
            return await self._jobs.from_estimate(estimate, given, (link["jobId"], drawn[0]), actor.user, session)

        async with (
            self._cache.writing("customers", f"customer:{estimate['customerId']}", "jobs"),
            self._client.start_session() as session,
        ):
            return await session.with_transaction(work), estimate


def _winnable(opportunity: Document) -> Document:
    """Raises ApiError 409 where it is lost, or another estimate's."""
    if opportunity["status"] == "won" and opportunity.get("jobId"):
        raise ApiError(409, "Its opportunity is won by another estimate", details={"jobId": str(opportunity["jobId"])})
    if opportunity["status"] in ("lost", "cancelled"):
        raise ApiError(409, f"Its opportunity is {opportunity['status']}", details={"status": opportunity["status"]})
    return opportunity


def _won(document: Document, user: ObjectId) -> Document:
    return document if document["status"] == "won" else moved(document, "won", user, "estimate accepted")


def priced(details: MoveDetails) -> Document:
    """The price as clients see it; money as text, so that no reader rounds it."""
    chosen = details.move()
    found: Price = price(chosen)
    return {
        "basePrice": str(found.base),
        "totalPrice": str(found.total),
        "totalCents": int(found.total * 100),
        "items": [
            {"rule": item.rule, "name": item.name, "impact": str(item.impact), "price": str(item.price)}
            for item in found.items
        ],
        "crew": chosen.crew,
        "hours": str(chosen.hours),
        "trucks": trucks(chosen.volume),
        "hash": found.hash,
    }
