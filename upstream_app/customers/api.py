"""/api/customers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from upstream_app.cache import Cache
from upstream_app.customers.model import Contact, CustomerChanges, CustomerQuery, NewCustomer
from upstream_app.customers.store import CustomerStore, condition
from upstream_app.documents import Collection, Edit, NotFound, now
from upstream_app.events import Events
from upstream_app.metrics import Business
from upstream_app.mongo import MAX_TIME_MS, Document
from upstream_app.web.answers import json_response, success
from upstream_app.web.endpoint import Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import filters, listing

LIST_SECONDS, ONE_SECONDS, STATS_SECONDS = 300, 3_600, 300


class CustomerApi:
    def __init__(
        self, store: CustomerStore, referring: Sequence[Collection], cache: Cache, events: Events, business: Business
    ) -> None:
        """`referring` are the collections whose documents name a customer."""
        self._referring = referring
        self._store = store
        self._cache = cache
        self._events = events
        self._business = business

    def endpoints(self) -> list[Endpoint]:
        path, read = "/api/customers", "customers:read"
        return [
            Endpoint("GET", path, self.find, read, "Customers", query=CustomerQuery),
            Endpoint("POST", path, self.create, "customers:create", "Make a customer", NewCustomer, status=201),
            Endpoint("GET", f"{path}/stats", self.stats, read, "How many there are, by kind"),
            Endpoint("GET", f"{path}/search", self.find, read, "The same as the list", query=CustomerQuery),
            Endpoint("GET", f"{path}/{{id}}", self.get, read, "One customer"),
            Endpoint("PATCH", f"{path}/{{id}}", self.change, "customers:update", "Change a customer", CustomerChanges),
            Endpoint("DELETE", f"{path}/{{id}}", self.remove, "customers:delete", "Remove a customer"),
            Endpoint("POST", f"{path}/{{id}}/contact", self.contact, "customers:update", "Note a contact", Contact),
        ]

    async def find(self, call: Call) -> web.Response:
        """The same for all who may read customers, so one entry serves them."""
        asked = call.query(CustomerQuery)

        async def load() -> Any:
            found, total = await self._store.find(condition(asked), asked)
            following = str(found[-1]["id"]) if len(found) == asked.limit else None
            return listing("customers", found, total, asked, filters(asked), following)

        key = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()[:24]
        body = await self._cache.get(f"customers:{key}", ["customers"], LIST_SECONDS, load)
        return json_response(body, headers={"Surrogate-Key": "customers"})

    async def stats(self, call: Call) -> web.Response:
        return success(await self._cache.get("customers:stats", ["customers"], STATS_SECONDS, self._store.stats))

    async def get(self, call: Call) -> web.Response:
        identity = call.id(noun="customer")

        async def load() -> Document | None:
            try:
                return self._store.shown(await self._store.get(identity))
            except NotFound:
                return None

        found = await self._cache.get(f"customer:{identity}", [f"customer:{identity}"], ONE_SECONDS, load)
        if found is None:
            raise NotFound("customer")
        answer = shown(found)
        answer.headers["Surrogate-Key"] = f"customer:{identity}"
        return answer

    async def create(self, call: Call) -> web.Response:
        fields = call.body(NewCustomer).model_dump(exclude_none=True)
        async with self._cache.writing("customers"):
            made = await self._store.insert(fields | {"createdBy": call.actor.user})
        self._business.customers += 1
        self._told(made["id"])
        return shown(made, "Customer created", 201, "/api/customers")

    async def change(self, call: Call) -> web.Response:
        changes = call.body(CustomerChanges).model_dump(exclude_unset=True)

        def edit(document: Document) -> Document:
            after = document | changes
            if after.get("address") is None:
                after.pop("address", None)
            return after

        return shown(await self._edit(call, edit), "Customer updated")

    async def _edit(self, call: Call, edit: Edit) -> Document:
        identity = call.id(noun="customer")
        async with self._cache.writing("customers", f"customer:{identity}"):
            changed = await self._store.change(identity, edit, call.expected)
        self._told(changed["id"])
        return changed

    async def remove(self, call: Call) -> web.Response:
        identity = call.id(noun="customer")
        for collection in self._referring:
            if await collection.raw.find_one({"customerId": identity}, {"_id": 1}, max_time_ms=MAX_TIME_MS):
                what = f"There is something of this customer's ({collection.noun}); make the customer inactive instead"
                raise ApiError(409, what, details={"has": collection.noun})
        async with self._cache.writing("customers", f"customer:{identity}"):
            await self._store.remove(identity, call.expected)
        self._told(str(identity))
        return success({}, "Customer deleted")

    async def contact(self, call: Call) -> web.Response:
        """The last contacts, the newest first; at most 50 are kept."""
        entry = call.body(Contact).model_dump() | {"at": now(), "by": call.actor.user}

        def edit(document: Document) -> Document:
            return document | {"contacts": [entry, *document.get("contacts", [])][:50], "lastContactAt": entry["at"]}

        return shown(await self._edit(call, edit), "Contact noted")

    def _told(self, identity: str) -> None:
        self._events.publish("customerChanged", ["role:manager", "role:sales"], {"customerId": identity})
