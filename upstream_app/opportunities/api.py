"""/api/opportunities."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aiohttp import web
from bson import ObjectId
from pymongo import DESCENDING, IndexModel

from upstream_app.documents import Collection, now
from upstream_app.events import Events
from upstream_app.mongo import MAX_TIME_MS, Database, Document
from upstream_app.notifications.api import Notifier
from upstream_app.opportunities.model import (
    TRANSITIONS,
    NewOpportunity,
    OpportunityChanges,
    OpportunityQuery,
    StateChange,
)
from upstream_app.states import move
from upstream_app.web.answers import success
from upstream_app.web.endpoint import Call, Endpoint, shown
from upstream_app.web.lists import filters, listed

CENT = Decimal("0.01")
INDEXES = [
    IndexModel([("status", 1), ("_id", DESCENDING)], name="status"),
    IndexModel([("customerId", 1), ("_id", DESCENDING)], name="customer"),
]


def opportunities(database: Database) -> Collection:
    return Collection(database, "opportunities", "opportunity", INDEXES)


class OpportunityApi:
    def __init__(self, store: Collection, customers: Collection, events: Events, notifier: Notifier) -> None:
        self._notifier = notifier
        self._store = store
        self._customers = customers
        self._events = events

    def endpoints(self) -> list[Endpoint]:
        path, read, update = "/api/opportunities", "opportunities:read", "opportunities:update"
        return [
            Endpoint("GET", path, self.find, read, "Opportunities", query=OpportunityQuery),
            Endpoint("POST", path, self.create, "opportunities:create", "Make one", NewOpportunity, status=201),
            Endpoint("GET", f"{path}/statistics", self.statistics, read, "How many there are, and what they are worth"),
            Endpoint("GET", f"{path}/{{id}}", self.get, read, "One opportunity"),
            Endpoint("PATCH", f"{path}/{{id}}", self.change, update, "Change one", OpportunityChanges),
            Endpoint("DELETE", f"{path}/{{id}}", self.remove, "opportunities:delete", "Remove one"),
            Endpoint("PATCH", f"{path}/{{id}}/status", self.change_state, update, "Change its state", StateChange),
        ]

    async def find(self, call: Call) -> web.Response:
        asked = call.query(OpportunityQuery)
        which: dict[str, Any] = {"status": asked.status} if asked.status else {}
        which |= {"customerId": ObjectId(asked.customerId)} if asked.customerId else {}
        found, total = await self._store.find(which, asked)
        return listed("opportunities", found, total, asked, filters(asked))

    async def statistics(self, call: Call) -> web.Response:
        stages = [{"$group": {"_id": "$status", "count": {"$sum": 1}, "value": {"$sum": "$expectedCents"}}}]
        cursor = await self._store.lagging.aggregate(stages, maxTimeMS=MAX_TIME_MS)
        rows = await cursor.to_list(20)
        by = {row["_id"]: {"count": row["count"], "expectedValue": row["value"] / 100} for row in rows}
        won, lost = (by.get(state, {"count": 0})["count"] for state in ("won", "lost"))
        rate = won / (won + lost) if won + lost else None
        return success({"byStatus": by, "winRate": rate})

    async def get(self, call: Call) -> web.Response:
        return shown(self._store.shown(await self._store.get(call.id(noun="opportunity"))))

    async def create(self, call: Call) -> web.Response:
        given = call.body(NewOpportunity)
        customer = ObjectId(given.customerId)
        await self._customers.get(customer)
        fields = _fields(given.model_dump(mode="json", exclude_none=True)) | {"customerId": customer}
        made = await self._store.insert(fields | {"status": "open", "createdBy": call.actor.user, "history": []})
        self._events.publish("opportunityCreated", ["role:sales", "role:manager"], {"opportunityId": made["id"]})
        return shown(made, "Opportunity created", 201, "/api/opportunities")

    async def change(self, call: Call) -> web.Response:
        changes = _fields(call.body(OpportunityChanges).model_dump(mode="json", exclude_unset=True))
        identity = call.id(noun="opportunity")
        return shown(await self._store.change(identity, lambda document: document | changes, call.expected), "Updated")

    async def remove(self, call: Call) -> web.Response:
        await self._store.remove(call.id(noun="opportunity"), call.expected)
        return success({}, "Opportunity deleted")

    async def change_state(self, call: Call) -> web.Response:
        given, actor = call.body(StateChange), call.actor

        def edit(document: Document) -> Document:
            move(TRANSITIONS, document["status"], given.status)
            return moved(document, given.status, actor.user, given.reason)

        changed = await self._store.change(call.id(noun="opportunity"), edit, call.expected)
        self._events.publish(
            "opportunityChanged", ["role:sales"], {"opportunityId": changed["id"], "status": given.status}
        )
        author = ObjectId(changed["createdBy"])
        if given.status == "won" and author != actor.user:
            text = f"\u201c{changed['title']}\u201d is won"
            await self._notifier.tell([author], "opportunity_won", text, {"opportunityId": changed["id"]})
        return shown(changed, "Status changed")


def moved(document: Document, state: str, user: ObjectId | None, reason: str = "") -> Document:
    """The document in another state, with the change at its history's end (the last 100 are kept)."""
    entry = {"from": document["status"], "to": state, "at": now(), "by": user, "reason": reason}
    return document | {"status": state, "history": [*document.get("history", []), entry][-100:]}


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """Money as cents beside its text, since it is added up."""
    if "expectedValue" in given:
        value = Decimal(given["expectedValue"]).quantize(CENT) + 0
        given |= {"expectedValue": str(value), "expectedCents": int(value * 100)}
    return given
