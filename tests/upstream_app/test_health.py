"""Health as Kubernetes and people ask for it."""

from __future__ import annotations

import asyncio

import pytest

from tests.upstream_app.conftest import Client, Open, until_ready
from upstream_app.health import Dependency, Health


async def anybody(_: object) -> bool:
    return True


pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_all_well(client: Client) -> None:
    live = await (await client.get("/api/health/live")).json()
    assert (live["status"], live["service"]) == ("ok", "simplepro")
    answer = await client.get("/api/health/ready")
    ready = await answer.json()
    assert (answer.status, ready["status"], ready["info"].keys()) == (200, "ok", {"mongodb", "schema", "redis"})
    detailed = await (await client.get("/api/health/detailed")).json()
    assert detailed["details"]["memory"]["usedBytes"] > 0
    assert detailed["details"]["disk"]["limitBytes"] > 0
    assert answer.headers["Cache-Control"] == "no-store"


async def test_without_redis_degraded(open_app: Open, mongo_port: int) -> None:
    client = await open_app(MONGODB_URI=f"mongodb://127.0.0.1:{mongo_port}/x", REDIS_URL="redis://127.0.0.1:1")
    await until_ready(client)
    answer = await client.get("/api/health/ready")
    body = await answer.json()
    assert (answer.status, body["status"]) == (200, "degraded")
    assert body["error"]["redis"]["reason"] == "ConnectionError"


async def test_without_mongo_not_ready_but_alive(open_app: Open, redis_port: int) -> None:
    uri = "mongodb://127.0.0.1:1/x?serverSelectionTimeoutMS=200"
    client = await open_app(MONGODB_URI=uri, REDIS_URL=f"redis://127.0.0.1:{redis_port}")
    assert (await client.get("/api/health/live")).status == 200
    answer = await client.get("/api/health/ready")
    body = await answer.json()
    assert (answer.status, body["status"]) == (503, "unhealthy")
    assert body["error"]["mongodb"]["status"] == "down"
    assert "redis" in body["info"]


async def test_many_probes_are_one_look() -> None:
    looks, may_answer, now = 0, asyncio.Event(), 0.0

    async def ping() -> None:
        nonlocal looks
        looks += 1
        await may_answer.wait()

    health = Health(
        [Dependency("mongodb", ping, 3.0, required=True)],
        "test",
        prepared=lambda: True,
        inside=anybody,
        clock=lambda: now,
    )
    asked = [asyncio.create_task(health._look()) for _ in range(50)]
    while not looks:
        await asyncio.sleep(0)
    may_answer.set()
    await asyncio.gather(*asked)
    await health._look()
    assert looks == 1
    now = 1.5
    await health._look()
    assert looks == 2


async def test_a_dependency_that_hangs_is_down() -> None:
    health = Health(
        [Dependency("redis", asyncio.Event().wait, 0.01, required=False)], "test", prepared=lambda: True, inside=anybody
    )
    assert (await health._look())["redis"] == {"status": "down", "reason": "no answer within 0.01 s"}
