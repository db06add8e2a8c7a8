"""Log-in, rotation, revocation, lock-out, over HTTP on real servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.upstream_app.conftest import Client, Role, log_in
from upstream_app import seed
from upstream_app.app import REDIS
from upstream_app.settings import DEVELOPMENT_SECRET

pytestmark = pytest.mark.asyncio(loop_scope="session")
Json = dict[str, Any]


async def enter(client: Client, username: str, password: str = seed.PASSWORD) -> tuple[int, Json]:
    answer = await client.post("/api/auth/login", json={"username": username, "password": password})
    return answer.status, await answer.json()


async def refreshed(client: Client, token: str) -> tuple[int, Json]:
    answer = await client.post("/api/auth/refresh", json={"refresh_token": token})
    return answer.status, await answer.json()


async def profile(client: Client, token: str) -> int:
    return (await client.get("/api/auth/profile", headers={"Authorization": f"Bearer {token}"})).status


async def test_a_log_in_is_of_the_reports_shape(opened: Client, users: dict[str, str]) -> None:
    status, body = await enter(opened, "Manager")
    assert (status, body["success"], body["data"]["expiresIn"]) == (200, True, 3600)
    assert not {"password", "usernameKey", "emailKey"} & body["data"]["user"].keys()
    key = OctKey.import_key(DEVELOPMENT_SECRET.get_secret_value())
    claims = jwt.decode(body["data"]["access_token"], key, algorithms=["HS256"]).claims
    assert claims["iss"] == "simplepro"
    assert claims["role"] == "manager"
    assert "jobs:assign" in claims["permissions"]
    assert {"sub", "username", "email", "jti", "sessionId"} <= claims.keys()
    assert (await enter(opened, "manager@simplepro.example"))[0] == 200


async def test_a_token_of_another_kind_is_none(opened: Client, users: dict[str, str]) -> None:
    _, body = await enter(opened, "manager")
    pair = body["data"]
    assert await profile(opened, pair["access_token"]) == 200
    assert await profile(opened, pair["refresh_token"]) == 401
    assert (await refreshed(opened, pair["access_token"]))[0] == 401
    for wrong in ("", "x", "a.b.c", pair["access_token"][:-2] + "xx"):
        assert await profile(opened, wrong) == 401


async def test_a_refresh_token_is_good_once_and_its_reuse_ends_all_sessions(
    opened: Client, users: dict[str, str]
) -> None:
    _, first = await enter(opened, "sales")
    _, other = await enter(opened, "sales")
    status, second = await refreshed(opened, first["data"]["refresh_token"])
    assert status == 200
    assert (await refreshed(opened, second["data"]["refresh_token"]))[0] == 200
    assert (await refreshed(opened, first["data"]["refresh_token"]))[0] == 401
    for token in (second["data"]["access_token"], other["data"]["access_token"]):
        assert await profile(opened, token) == 401
    assert (await refreshed(opened, other["data"]["refresh_token"]))[0] == 401


async def test_of_two_at_once_one_rotates(opened: Client, users: dict[str, str]) -> None:
    _, body = await enter(opened, "sales")
    token = body["data"]["refresh_token"]
    statuses = sorted([status for status, _ in await asyncio.gather(*(refreshed(opened, token) for _ in range(5)))])
    assert statuses == [200, 401, 401, 401, 401]


async def test_a_log_out_is_seen_by_the_next_request_and_told_to_the_sidecars(
    opened: Client, users: dict[str, str]
) -> None:
    redis = opened.app[REDIS]
    _, body = await enter(opened, "dispatcher")
    token = body["data"]["access_token"]
    async with redis.pubsub() as channel:
        await channel.subscribe("simplepro:revoked")
        headers = {"Authorization": f"Bearer {token}"}
        assert (await opened.post("/api/auth/logout", headers=headers)).status == 200
        assert await profile(opened, token) == 401
        async with asyncio.timeout(5):
            while (message := await channel.get_message(ignore_subscribe_messages=True, timeout=1)) is None:
                pass
    name, milliseconds, _ = message["data"].split("\n")
    assert name.startswith("session:")
    assert int(milliseconds) == 3_600_000
    assert name in await redis.hgetall("simplepro:revoked")


async def test_five_failures_lock_the_name_out(opened: Client, users: dict[str, str]) -> None:
    statuses = [(await enter(opened, "crew_lead", "wrong"))[0] for _ in range(5)]
    assert statuses == [401] * 5
    answer = await opened.post("/api/auth/login", json={"username": "CREW_LEAD", "password": seed.PASSWORD})
    assert answer.status == 429
    assert 890 <= int(answer.headers["Retry-After"]) <= 900
    statuses = [(await enter(opened, "nobody", "wrong"))[0] for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_guesses_at_once_are_no_more_than_guesses_in_turn(opened: Client, users: dict[str, str]) -> None:
    answers = await asyncio.gather(*(enter(opened, "crew_lead", f"wrong{number}") for number in range(20)))
    assert sorted(status for status, _ in answers) == [401] * 5 + [429] * 15
    (key,) = await opened.app[REDIS].keys("simplepro-app:tries:*")
    assert 0 < await opened.app[REDIS].ttl(key) <= 900


async def test_a_log_in_that_goes_well_forgets_the_failures(opened: Client, users: dict[str, str]) -> None:
    for _ in range(3):
        statuses = [(await enter(opened, "crew_lead", "wrong"))[0] for _ in range(4)]
        assert statuses == [401] * 4
        assert (await enter(opened, "crew_lead"))[0] == 200


async def test_a_session_that_was_refreshed_is_still_among_those_that_a_new_password_ends(
    opened: Client, users: dict[str, str]
) -> None:
    """The set of a user's sessions lives as long as the longest of them."""
    redis = opened.app[REDIS]
    _, body = await enter(opened, "sales")
    for key in await redis.keys("simplepro-app:sessions:*"):
        await redis.delete(key)
    status, body = await refreshed(opened, body["data"]["refresh_token"])
    assert status == 200
    token = body["data"]["access_token"]
    other = Role(opened, await log_in(opened, "sales"))
    change = {"currentPassword": seed.PASSWORD, "newPassword": "Another1!"}
    assert (await other.done("POST", "/api/auth/change-password", change))["endedSessions"] == 1
    assert await profile(opened, token) == 401


async def test_one_sees_and_ends_ones_own_sessions_alone(opened: Client, users: dict[str, str]) -> None:
    mine, theirs = await log_in(opened, "sales"), await log_in(opened, "manager")
    own = Role(opened, mine)
    sessions = (await own.done("GET", "/api/auth/sessions"))["sessions"]
    assert len(sessions) >= 1
    foreign = (await Role(opened, theirs).done("GET", "/api/auth/sessions"))["current"]
    assert (await own.ask("DELETE", f"/api/auth/sessions/{foreign}"))[0] == 404
    assert await profile(opened, theirs) == 200
    current = (await own.done("GET", "/api/auth/sessions"))["current"]
    assert (await own.ask("DELETE", f"/api/auth/sessions/{current}"))[0] == 200
    assert await profile(opened, mine) == 401


async def test_a_new_password_ends_the_other_sessions(opened: Client, users: dict[str, str]) -> None:
    here, there = await log_in(opened, "customer_service"), await log_in(opened, "customer_service")
    own = Role(opened, here)
    change = {"currentPassword": seed.PASSWORD, "newPassword": "Another1!"}
    assert (await own.ask("POST", "/api/auth/change-password", change | {"currentPassword": "no"}))[0] == 401
    for weak in ("short1!", "alllower1!", "ALLUPPER1!", "NoDigits!!", "NoSymbol11"):
        assert (await own.ask("POST", "/api/auth/change-password", change | {"newPassword": weak}))[0] == 400
    await own.done("POST", "/api/auth/change-password", change)
    assert (await profile(opened, here), await profile(opened, there)) == (200, 401)
    assert (await enter(opened, "customer_service"))[0] == 401
    assert (await enter(opened, "customer_service", "Another1!"))[0] == 200


async def test_nobody_makes_oneself_more_than_one_is(roles: dict[str, Role]) -> None:
    for field in ("role", "roleId", "permissions", "active"):
        status, told = await roles["sales"].ask("PATCH", "/api/auth/profile", {"firstName": "X", field: "super_admin"})
        assert (status, told["validation"][0]["field"]) == (400, field)
    new = {
        "username": "boss", "email": "boss@simplepro.example", "password": "Strong1!", "role": "super_admin",
        "firstName": "B", "lastName": "B",
    }  # fmt: skip
    assert (await roles["admin"].ask("POST", "/api/auth/users", new))[0] == 403
    made = await roles["admin"].done("POST", "/api/auth/users", new | {"role": "sales"})
    assert (await roles["admin"].ask("PATCH", f"/api/auth/users/{made['id']}", {"role": "super_admin"}))[0] == 403


async def test_an_admin_removes_no_super_admin(opened: Client, roles: dict[str, Role]) -> None:
    boss = (await roles["super_admin"].done("GET", "/api/auth/profile"))["id"]
    assert (await roles["admin"].ask("DELETE", f"/api/auth/users/{boss}"))[0] == 403
    assert (await roles["super_admin"].ask("GET", "/api/auth/profile"))[0] == 200
    sales = (await roles["sales"].done("GET", "/api/auth/profile"))["id"]
    assert (await roles["admin"].ask("DELETE", f"/api/auth/users/{sales}"))[0] == 200
    assert (await roles["sales"].ask("GET", "/api/auth/profile"))[0] == 401


async def test_a_refusal_is_in_the_audit_log(opened: Client, roles: dict[str, Role]) -> None:
    assert (await roles["sales"].ask("POST", "/api/auth/users", {}))[0] == 403
    assert (await roles["admin"].ask("POST", "/api/auth/users", {}))[0] == 400
    assert (await roles["sales"].ask("POST", "/api/auth/login", {"username": "sales", "password": "wrong"}))[0] == 401
    entries = (await roles["super_admin"].done("GET", "/api/audit?resource=auth"))["entries"]
    assert [(one["path"], one["status"]) for one in entries[:3]] == [
        ("/api/auth/login", 401), ("/api/auth/users", 400), ("/api/auth/users", 403)
    ]  # fmt: skip


async def test_a_user_who_is_switched_off_is_out_at_once(opened: Client, roles: dict[str, Role]) -> None:
    new = {
        "username": "temp", "email": "temp@simplepro.example", "password": "Strong1!", "role": "sales",
        "firstName": "T", "lastName": "T",
    }  # fmt: skip
    made = await roles["admin"].done("POST", "/api/auth/users", new)
    token = await log_in(opened, "temp", "Strong1!")
    await roles["admin"].done("PATCH", f"/api/auth/users/{made['id']}", {"active": False})
    assert await profile(opened, token) == 401
    assert (await enter(opened, "temp", "Strong1!"))[0] == 401


@pytest.mark.parametrize("username", [{"$ne": None}, ["a"], 1, None])
async def test_an_operator_is_no_name(opened: Client, username: object) -> None:
    answer = await opened.post("/api/auth/login", json={"username": username, "password": {"$ne": None}})
    assert answer.status == 400
