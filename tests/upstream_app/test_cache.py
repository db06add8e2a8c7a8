"""The two-level cache on a real server: shared, invalidated everywhere at once, filled once, and safe without it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from breaker import Breaker, Consecutive, Settings
from stack import servers
from stack.process import ServerProcess
from upstream_app import cache as caches
from upstream_app import redis, settings
from upstream_app.cache import Cache

pytestmark = pytest.mark.asyncio(loop_scope="session")
Make = Callable[..., Awaitable[Cache]]


class Source:
    """What the database would say; counts how often it is asked."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.asked = 0
        self.slow = asyncio.Event()
        self.slow.set()

    async def __call__(self) -> Any:
        self.asked += 1
        value = self.value
        await self.slow.wait()
        return value


@pytest_asyncio.fixture(loop_scope="session")
async def valkey(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(servers.valkey(servers.free_port(), tmp_path / "valkey"))
    await process.start()
    yield process
    await process.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def make(valkey: ServerProcess) -> AsyncIterator[Make]:
    port = valkey.spec.command[list(valkey.spec.command).index("--port") + 1]
    chosen = settings.read({"REDIS_URL": f"redis://127.0.0.1:{port}"})
    made: list[tuple[Cache, Any]] = []

    async def one() -> Cache:
        client = redis.connect(chosen)
        cache = Cache(client, redis.listener(chosen), Breaker("redis", Settings(Consecutive(3))))
        cache.start()
        made.append((cache, client))
        await asyncio.sleep(0.1)
        return cache

    yield one
    for cache, client in made:
        await cache.close()
        await client.aclose()


async def settle(cache: Cache) -> None:
    """Until what is written behind the answer is written."""
    await asyncio.gather(*cache._tasks)


async def test_a_value_is_read_once_for_all_instances(make: Make) -> None:
    one, other, source = await make(), await make(), Source({"a": [1, "ü"]})
    assert await one.get("k", ["t"], 60, source) == {"a": [1, "ü"]}
    assert await one.get("k", ["t"], 60, source) == {"a": [1, "ü"]}
    await settle(one)
    assert await other.get("k", ["t"], 60, source) == {"a": [1, "ü"]}
    assert source.asked == 1
    assert (one.stats.first_hits, one.stats.misses, other.stats.second_hits) == (1, 1, 1)


async def test_a_write_is_seen_by_its_writer_at_once_and_by_the_others_soon(make: Make) -> None:
    one, other, source = await make(), await make(), Source(1)
    for cache in (one, other):
        await cache.get("k", ["t", "u"], 60, source)
        await settle(cache)
    source.value = 2
    await one.changed("u")
    assert await one.get("k", ["t", "u"], 60, source) == 2
    async with asyncio.timeout(2):
        while await other.get("k", ["t", "u"], 60, source) != 2:
            await asyncio.sleep(0.01)


async def test_a_value_that_was_read_before_a_write_is_not_kept_after_it(make: Make) -> None:
    cache, source = await make(), Source("old")
    source.slow.clear()
    reading = asyncio.create_task(cache.get("k", ["t"], 60, source))
    async with asyncio.timeout(2):
        while not source.asked:
            await asyncio.sleep(0)
    source.value = "new"
    await cache.changed("t")
    source.slow.set()
    assert await reading == "old"
    await settle(cache)
    assert await cache.get("k", ["t"], 60, source) == "new"


async def test_one_asks_and_the_others_wait(make: Make) -> None:
    cache, source = await make(), Source(7)
    source.slow.clear()
    waiting = [asyncio.create_task(cache.get("k", ["t"], 60, source)) for _ in range(50)]
    async with asyncio.timeout(2):
        while not source.asked:
            await asyncio.sleep(0)
    waiting[0].cancel()
    source.slow.set()
    assert await asyncio.gather(*waiting[1:]) == [7] * 49
    assert source.asked == 1


async def test_a_failure_is_told_to_all_who_wait_and_not_kept(make: Make) -> None:
    cache = await make()

    async def fail() -> None:
        raise ValueError("no database")

    told = await asyncio.gather(*(cache.get("k", ["t"], 60, fail) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in told] == [ValueError] * 3
    assert await cache.get("k", ["t"], 60, Source(1)) == 1


async def test_what_is_not_there_is_kept_for_a_short_while(make: Make) -> None:
    one, other, source = await make(), await make(), Source(None)
    assert await one.get("k", ["t"], 3600, source) is None
    await settle(one)
    assert await other.get("k", ["t"], 3600, source) is None
    assert source.asked == 1
    assert 0 < await one._redis.pttl("simplepro-app:entry:k") <= caches.NEGATIVE_SECONDS * 1000


async def test_large_values_are_compressed(make: Make) -> None:
    one, other, source = await make(), await make(), Source(["the same words"] * 5000)
    await one.get("k", ["t"], 60, source)
    await settle(one)
    assert await one._redis.strlen("simplepro-app:entry:k") < 5_000
    assert await other.get("k", ["t"], 60, source) == source.value
    assert source.asked == 1


async def test_near_its_end_an_entry_is_served_while_one_reads_it_anew(make: Make) -> None:
    one, other, source = await make(), await make(), Source("old")
    await one.get("k", ["t"], 0.5, source)
    await settle(one)
    source.value = "new"
    await asyncio.sleep(0.46)
    assert await other.get("k", ["t"], 60, source) in ("old", "new")
    async with asyncio.timeout(2):
        while await other.get("k", ["t"], 60, source) != "new":
            await asyncio.sleep(0.01)


async def test_without_redis_the_database_is_asked(make: Make, valkey: ServerProcess) -> None:
    cache, source = await make(), Source(1)
    await valkey.stop()
    for number in range(10):
        source.value = number
        await cache.changed("t")
        assert await cache.get("k", ["t"], 60, source) == number
    assert source.asked == 10
    assert cache.stats.errors > 0


async def test_what_redis_could_not_be_told_is_never_read_from_it_and_is_told_later(
    make: Make, valkey: ServerProcess
) -> None:
    one, other, source = await make(), await make(), Source("old")
    for cache in (one, other):
        await cache.get("k", ["t"], 60, source)
        await settle(cache)
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        source.value = "new"
        await one.changed("t")
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    assert await one.get("k", ["t"], 60, source) == "new"
    async with asyncio.timeout(10):
        while await other.get("k", ["t"], 60, source) != "new" or one._owed:
            await asyncio.sleep(0.02)
    await settle(one)
    assert await one.get("k", ["t"], 60, source) == "new"


async def test_health_has_the_reports_bounds() -> None:
    stats = caches.Stats()
    assert stats.health()["status"] == "up"
    stats.first_hits, stats.misses = 60, 40
    assert stats.health()["status"] == "degraded"
    stats.first_hits, stats.misses = 40, 60
    assert stats.health()["status"] == "down"
    stats.first_hits, stats.misses = 95, 5
    assert stats.health()["status"] == "up"
