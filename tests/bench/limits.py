"""`make bench-limits`: decisions a second and CPU a decision beside `limits` as it is; memory of a key by strategy.

One Valkey on one core, the client on the other; 100 askers at once, as 100 requests in one loop tick would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import limits.aio.storage
import limits.aio.strategies
import redis.asyncio as redis
import uvloop
from limits import RateLimitItemPerHour

from proxy.throttle.address import StoreAddress
from proxy.throttle.charge import Charge, Quota, Strategy
from proxy.throttle.distributed import RedisLimiter
from stack import servers
from stack.process import ServerProcess

ASKERS, SECONDS, KEYS = 100, 3.0, 50_000
HUGE = 10**9
MEMORY = ((Strategy.FIXED, 1), (Strategy.SLIDING, 1), (Strategy.BUCKET, 1), (Strategy.MOVING, 1), (Strategy.MOVING, 50))


async def rate(ask: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Decisions a second, and microseconds of this process's CPU for one."""
    until = time.perf_counter() + SECONDS
    done = 0

    async def asker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await ask()
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(asker() for _ in range(ASKERS)))
    return done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6


@contextlib.asynccontextmanager
async def valkey() -> AsyncIterator[int]:
    """A server of its own on the other core."""
    port = servers.free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = ServerProcess(servers.valkey(port, Path(folder)))
        await process.start()
        os.sched_setaffinity(process.pid, {0})
        try:
            yield port
        finally:
            await process.stop()


async def main() -> None:
    os.sched_setaffinity(0, {1})
    async with valkey() as port:
        await compare(port)
    for strategy, cost in MEMORY:
        async with valkey() as port:
            await memory(port, strategy, cost)


async def compare(port: int) -> None:
    limiter = RedisLimiter(StoreAddress("127.0.0.1", port), "bench", 1.0)
    await limiter.start()
    loop = asyncio.get_running_loop()
    for count in (1, 2):
        charges = [Charge(Quota(f"q{n}", Strategy.SLIDING, HUGE, 3_600_000), "0" * 24) for n in range(count)]

        def ask(charges: list[Charge] = charges) -> asyncio.Future[object]:
            future: asyncio.Future[object] = loop.create_future()
            limiter.decide(charges, "-", future.set_result)
            return future

        shown(f"ours, {count} limit{'s' * (count > 1)} a decision", *await rate(ask))
    await limiter.close()
    storage = limits.aio.storage.RedisStorage(f"async+redis://127.0.0.1:{port}", implementation="redispy")
    item = RateLimitItemPerHour(HUGE)
    for name, strategy in (
        ("fixed window", limits.aio.strategies.FixedWindowRateLimiter(storage)),
        ("sliding window", limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)),
    ):
        shown(f"limits as it is, {name}", *await rate(functools.partial(strategy.hit, item, "bench")))


def shown(name: str, a_second: float, cpu: float) -> None:
    sys.stdout.write(f"{name:32} {a_second:9,.0f}/s {cpu:7.1f} CPU µs\n")


async def memory(port: int, strategy: Strategy, cost: int) -> None:
    """Bytes of a key that was charged `cost`, of a limit of 100."""
    limiter = RedisLimiter(StoreAddress("127.0.0.1", port), "simplepro", 60.0)
    await limiter.start()
    quota = Quota("api.per-client", strategy, 100, 3_600_000)
    loop = asyncio.get_running_loop()
    async with redis.Redis(port=port, protocol=2) as client:
        before = (await client.info("memory"))["used_memory"]
        for start in range(0, KEYS, 1000):
            waiting: list[asyncio.Future[object]] = [loop.create_future() for _ in range(1000)]
            for number, future in enumerate(waiting, start):
                limiter.decide([Charge(quota, f"{number:024x}", cost)], "-", future.set_result)
            await asyncio.gather(*waiting)
        each = ((await client.info("memory"))["used_memory"] - before) / KEYS
    held = f" holding {cost}" if cost > 1 else ""
    sys.stdout.write(f"{strategy.name.lower() + held:32} {each:6.0f} bytes a key, {each:,.0f} MB a million\n")
    await limiter.close()


if __name__ == "__main__":
    uvloop.run(main())
