"""/api/customers."""

from __future__ import annotations

from aiohttp import web
from bson import ObjectId

from upstream_app.customers.model import CustomerChanges, CustomerQuery, NewCustomer
from upstream_app.customers.store import Conflict, CustomerStore, EmailTaken
from upstream_app.web.answers import json_response, success
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import listing
from upstream_app.web.requests import body, expected_version, query

NOT_FOUND = ApiError(404, "There is no such customer")
TAKEN = ApiError(409, "Another customer has this e-mail address", validation=[{"field": "email", "message": "taken"}])


class CustomerApi:
    def __init__(self, store: CustomerStore) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/customers", self.find),
            web.post("/api/customers", self.create),
            web.get("/api/customers/{id}", self.get),
            web.patch("/api/customers/{id}", self.change),
            web.delete("/api/customers/{id}", self.remove),
        ]

    async def find(self, request: web.Request) -> web.Response:
        asked = query(request, CustomerQuery)
        customers, total = await self._store.find(asked)
        filters = asked.model_dump(exclude={"page", "limit", "after"}, exclude_none=True)
        following = str(customers[-1]["id"]) if len(customers) == asked.limit else None
        return json_response(listing("customers", customers, total, asked, filters, following))

    async def create(self, request: web.Request) -> web.Response:
        new = await body(request, NewCustomer)
        try:
            customer = await self._store.create(new)
        except EmailTaken:
            raise TAKEN from None
        answer = success(customer, "Customer created", status=201, etag="1")
        answer.headers["Location"] = f"/api/customers/{customer['id']}"
        return answer

    async def get(self, request: web.Request) -> web.Response:
        customer = await self._store.get(_identity(request))
        if customer is None:
            raise NOT_FOUND
        return success(customer, etag=str(customer["version"]))

    async def change(self, request: web.Request) -> web.Response:
        identity, expected = _identity(request), expected_version(request)
        changes = await body(request, CustomerChanges)
        try:
            customer = await self._store.change(identity, changes, expected)
        except EmailTaken:
            raise TAKEN from None
        except Conflict:
            raise _changed(expected) from None
        if customer is None:
            raise NOT_FOUND
        return success(customer, "Customer updated", etag=str(customer["version"]))

    async def remove(self, request: web.Request) -> web.Response:
        expected = expected_version(request)
        try:
            if not await self._store.remove(_identity(request), expected):
                raise NOT_FOUND
        except Conflict:
            raise _changed(expected) from None
        return success({}, "Customer deleted")


def _changed(expected: int | None) -> ApiError:
    """412 where the client named a version that is no more, 409 where two changes met."""
    return ApiError(412 if expected is not None else 409, "The customer has changed meanwhile; read it again")


def _identity(request: web.Request) -> ObjectId:
    text = request.match_info["id"]
    if len(text) != 24 or not ObjectId.is_valid(text):
        raise NOT_FOUND
    return ObjectId(text)
