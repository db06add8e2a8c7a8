"""/api/customers over HTTP, on a real MongoDB-protocol server."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from tests.upstream_app.conftest import Client, Open
from upstream_app.customers.store import INDEXES

pytestmark = pytest.mark.asyncio(loop_scope="session")
Json = dict[str, Any]


async def create(client: Client, customer: Json, **changes: object) -> Json:
    answer = await client.post("/api/customers", json={**customer, **changes})
    assert answer.status == 201, await answer.text()
    created: Json = (await answer.json())["data"]
    return created


async def test_life_of_a_customer(client: Client, ada: Json) -> None:
    answer = await client.post("/api/customers", json=ada)
    assert answer.status == 201
    created = (await answer.json())["data"]
    where = answer.headers["Location"]
    assert where == f"/api/customers/{created['id']}"
    assert created["status"] == "lead"
    assert created["version"] == 1
    assert not {"_id", "words", "emailKey"} & created.keys()

    answer = await client.get(where)
    assert answer.headers["ETag"] == '"1"'
    assert (await answer.json())["data"] == created

    answer = await client.patch(where, json={"status": "active", "address": None})
    changed = (await answer.json())["data"]
    assert (changed["status"], changed["version"], "address" in changed) == ("active", 2, False)
    assert changed["createdAt"] == created["createdAt"]
    assert (await (await client.get(where)).json())["data"] == changed

    assert (await client.delete(where)).status == 200
    assert (await client.get(where)).status == 404
    assert (await client.delete(where)).status == 404
    assert (await client.patch(where, json={"status": "lead"})).status == 404


async def test_an_email_is_taken_whatever_its_case(client: Client, ada: Json) -> None:
    await create(client, ada)
    other = await create(client, ada, email="other@example.com")
    answer = await client.post("/api/customers", json={**ada, "email": "ADA@example.COM"})
    assert answer.status == 409
    assert (await answer.json())["validation"] == [{"field": "email", "message": "taken"}]
    answer = await client.patch(f"/api/customers/{other['id']}", json={"email": "ada@EXAMPLE.com"})
    assert answer.status == 409


async def test_all_that_is_wrong_is_told_at_once(client: Client, ada: Json) -> None:
    wrong = {**ada, "email": "nobody", "leadScore": 101, "admin": True, "address": {"street": ""}}
    answer = await client.post("/api/customers", json=wrong, headers={"X-Request-ID": "r1", "X-Correlation-ID": "c1"})
    body = await answer.json()
    assert answer.status == body["statusCode"] == 400
    assert (body["error"], body["path"]) == ("Bad Request", "/api/customers")
    assert (body["requestId"], body["correlationId"]) == ("r1", "c1")
    told = {one["field"]: one["message"] for one in body["validation"]}
    assert told["admin"] == "unknown field"
    assert {"email", "leadScore", "address.street", "address.city"} <= told.keys()


@pytest.mark.parametrize("email", ["", "a@b", "a b@example.com", "a@exa_mple.com", '{"$ne":null}', "a@-x.com", 5, None])
async def test_what_is_no_email(client: Client, ada: Json, email: object) -> None:
    answer = await client.post("/api/customers", json={**ada, "email": email})
    assert answer.status == 400


async def test_bodies_that_are_none(client: Client) -> None:
    assert (await client.post("/api/customers", data="x", headers={"Content-Type": "text/plain"})).status == 415
    answer = await client.post("/api/customers", data='{"a":', headers={"Content-Type": "application/json"})
    assert answer.status == 400
    assert (await answer.json())["details"] == {"line": 1, "column": 6}
    large = io.BytesIO(b'{"a":"' + b"x" * 1_100_000 + b'"}')
    assert (await client.post("/api/customers", data=large, headers={"Content-Type": "application/json"})).status == 413


async def test_no_route_and_wrong_method_have_the_shape_too(client: Client) -> None:
    answer = await client.get("/api/nothing")
    assert (await answer.json())["statusCode"] == 404
    answer = await client.put("/api/customers")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    for identity in ("1", "x" * 24, "../../etc"):
        assert (await client.get(f"/api/customers/{identity}")).status == 404


async def test_pages_and_filters(client: Client, ada: Json) -> None:
    made = [
        await create(client, ada, email=f"c{n}@example.com", status="active" if n % 2 else "lead") for n in range(7)
    ]
    newest_first = [one["id"] for one in reversed(made)]
    body = await (await client.get("/api/customers?limit=3")).json()
    assert [one["id"] for one in body["customers"]] == newest_first[:3]
    assert body["pagination"] == {"page": 1, "limit": 3, "total": 7, "totalPages": 3, "next": newest_first[2]}
    body = await (await client.get(f"/api/customers?limit=3&after={newest_first[2]}")).json()
    assert [one["id"] for one in body["customers"]] == newest_first[3:6]
    body = await (await client.get("/api/customers?limit=3&page=3")).json()
    assert [one["id"] for one in body["customers"]] == newest_first[6:]
    assert body["pagination"]["next"] is None
    body = await (await client.get("/api/customers?status=active")).json()
    assert (body["count"], body["filters"]) == (3, {"status": "active"})
    for bad in ("limit=0", "limit=101", "page=0", "after=1", "status=x", "unknown=1", "limit=1&limit=2", "page=9999"):
        answer = await client.get(f"/api/customers?{bad}")
        assert answer.status == 400, bad


@pytest.mark.parametrize(("asked", "found"), [
    ("ada", True), ("LOVE", True), ("orebro", True), ("ada love", True), ("555", True), ("15550100000", True),
    ("example", True), ("velace", False), ("ada babbage", False), (".*", False), ("$ne", False),
])  # fmt: skip
async def test_search_by_beginnings_of_words(client: Client, ada: Json, asked: str, found: bool) -> None:
    await create(client, ada)
    body = await (await client.get("/api/customers", params={"search": asked})).json()
    assert body["count"] == found


async def test_one_of_two_edits_wins(client: Client, ada: Json) -> None:
    where = f"/api/customers/{(await create(client, ada))['id']}"
    edits = [client.patch(where, json={"leadScore": n}, headers={"If-Match": '"1"'}) for n in range(8)]
    statuses = sorted([answer.status for answer in await asyncio.gather(*edits)])
    assert statuses == [200] + [412] * 7
    assert (await (await client.get(where)).json())["data"]["version"] == 2
    assert (await client.delete(where, headers={"If-Match": '"1"'})).status == 412
    assert (await client.patch(where, json={"leadScore": 1}, headers={"If-Match": "abc"})).status == 412
    assert (await client.delete(where, headers={"If-Match": '"2"'})).status == 200


async def test_lists_walk_over_an_index() -> None:
    """Every filter has an index of its own whose second field is the sort."""
    keys = {index.document["name"]: list(index.document["key"].items()) for index in INDEXES}
    for name in ("status", "type", "source", "words"):
        assert keys[name] == [(name, 1), ("_id", -1)]


async def test_database_away_is_503(open_app: Open, ada: Json) -> None:
    client = await open_app(
        MONGODB_URI="mongodb://127.0.0.1:1/x?serverSelectionTimeoutMS=200", REDIS_URL="redis://127.0.0.1:1"
    )
    answer = await client.get("/api/customers")
    body = await answer.json()
    assert (answer.status, body["statusCode"], answer.headers["Retry-After"]) == (503, 503, "2")
    assert "127.0.0.1" not in body["message"]
