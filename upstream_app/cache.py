"""Answers of the database kept on two levels: in this process (small, seconds) and in Redis, shared by all instances.

An entry names tags, and holds the mark that each had when it was read; a write marks its tags anew, so that every entry
with an older mark is stale, whatever its time to live. That is told on a channel, which empties the
first level of the other instances; the writer's own is emptied before its answer. One caller fills an entry, others
wait for it. Redis away: the database is asked.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
import zstandard
from pymongo.errors import PyMongoError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from breaker import Breaker, BreakerOpen
from upstream_app.background import ended
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.cache")
CHANNEL = "simplepro-app:cache"
COMPRESS_FROM = 1024
MAX_VALUE = 4 * 1024 * 1024
FIRST_LEVEL_SECONDS = 5.0
MAX_ENTRIES = 2_000
NEGATIVE_SECONDS = 10
STALE_SHARE = 0.2
"""Of its time to live an entry may be served while one caller reads it anew."""
DEADLINE = 0.2
MAX_OWED = 10_000
"""Tags that Redis could not be told of; past that many, nobody's entries are trusted for LONGEST_SECONDS."""
LONGEST_SECONDS = 4_000.0
"""No entry lives longer."""
TAG_SECONDS = 4 * 3_600
"""A tag's mark outlives every entry that holds the one before it. Marks are random: none is ever there again."""
MAX_CHANGES = 50_000
MAX_BYTES = 64 * 1024 * 1024
"""Of the first level."""
MISSING = b"null"
TIMES = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
Load = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Entry:
    value: bytes
    tags: tuple[str, ...]
    until: float


class Stats:
    """`milliseconds` is a moving average of second-level look-ups."""

    __slots__ = ("errors", "first_hits", "invalidations", "milliseconds", "misses", "second_hits", "stale_hits")

    def __init__(self) -> None:
        self.first_hits = self.second_hits = self.misses = self.stale_hits = self.errors = self.invalidations = 0
        self.milliseconds = 0.0

    @property
    def requests(self) -> int:
        return self.first_hits + self.second_hits + self.stale_hits + self.misses

    @property
    def hit_rate(self) -> float:
        return (self.requests - self.misses) / self.requests if self.requests else 1.0

    def health(self) -> dict[str, Any]:
        """The report's bounds, once a hundred requests tell anything."""
        rate, errors = self.hit_rate, self.errors / self.requests if self.requests else 0.0
        if self.requests < 100:
            status, reason = "up", ""
        elif rate < 0.5 or errors > 0.1:
            status, reason = "down", f"hit rate {rate:.0%}, errors {errors:.0%}"
        elif rate < 0.7 or errors > 0.05 or self.milliseconds > 100:
            status, reason = "degraded", f"hit rate {rate:.0%}, errors {errors:.0%}, {self.milliseconds:.0f} ms"
        else:
            status, reason = "up", ""
        told = {"status": status, "hitRate": round(rate, 4), "requests": self.requests, "errors": self.errors}
        return told | ({"reason": reason} if reason else {})


class Cache:
    def __init__(
        self,
        redis: Client,
        listener: Redis,
        breaker: Breaker,
        clock: Callable[[], float] = time.monotonic,
        purge: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    ) -> None:
        """`purge` tells the level in front of the application of tags that changed."""
        self._purge = purge
        self._redis = redis
        self._listener = listener
        self._breaker = breaker
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._filling: dict[str, asyncio.Task[bytes]] = {}
        self._changes: dict[str, int] = {}
        self._epoch = 0
        """How often `_changes` was emptied."""
        self._bytes = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._closing = False
        self._owed: set[str] = set()
        self._second_level_from = float("-inf")
        self._compressor = zstandard.ZstdCompressor(level=3)
        self.stats = Stats()

    def start(self) -> None:
        self._listening = asyncio.create_task(self._listen(), name="cache: invalidations")

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._filling.values(), *self._tasks, *([self._listening] if self._listening else [])]
        await ended(*tasks)
        await self._listener.aclose()

    async def get(self, key: str, tags: Sequence[str], seconds: float, load: Load) -> Any:
        """The value under `key`, else what `load` gives; None is kept too, for a short while.

        `key` has to name all that the value depends on: what was asked for, and whose eyes it is for.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.until > self._clock():
            self._entries.move_to_end(key)
            self.stats.first_hits += 1
            return orjson.loads(entry.value)
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = asyncio.create_task(self._fill(key, tuple(tags), seconds, load))
            filling.add_done_callback(lambda task: self._filled(key, task))
        return orjson.loads(await asyncio.shield(filling))

    def _filled(self, key: str, task: asyncio.Task[bytes]) -> None:
        if self._filling.get(key) is task:
            del self._filling[key]
        if not task.cancelled():
            task.exception()

    async def _fill(self, key: str, tags: tuple[str, ...], seconds: float, load: Load) -> bytes:
        counts = self._counts(tags)
        found, numbers = await self._look(key, tags)
        if found is not None:
            value, fresh = found
            if fresh:
                self.stats.second_hits += 1
                self._remember(key, value, tags, counts)
            else:
                self.stats.stale_hits += 1
                self._spawn(self._read(key, tags, numbers, seconds, load, counts))
            return value
        self.stats.misses += 1
        return await self._read(key, tags, numbers, seconds, load, counts)

    async def _read(
        self, key: str, tags: tuple[str, ...], numbers: list[str] | None, seconds: float, load: Load, counts: list[int]
    ) -> bytes:
        value = orjson.dumps(await load(), default=str, option=TIMES)
        self._remember(key, value, tags, counts)
        if numbers is not None and len(value) <= MAX_VALUE:
            holds = NEGATIVE_SECONDS if value == MISSING else seconds * random.uniform(0.9, 1.1)  # noqa: S311  # jitter
            self._spawn(self._store(key, tags, numbers, holds, value))
        return value

    def _remember(self, key: str, value: bytes, tags: tuple[str, ...], counts: list[int]) -> None:
        """Not where one of the tags was counted on while it was read."""
        if counts != self._counts(tags):
            return
        self._drop(key)
        self._entries[key] = Entry(value, tags, self._clock() + FIRST_LEVEL_SECONDS)
        self._bytes += len(value)
        while len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            self._drop(next(iter(self._entries)))

    def _counts(self, tags: tuple[str, ...]) -> list[int]:
        return [self._epoch, *(self._changes.get(tag, 0) for tag in tags)]

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.value)

    def _drop_all(self) -> None:
        self._entries.clear()
        self._bytes = 0

    # the second level

    async def _look(self, key: str, tags: tuple[str, ...]) -> tuple[tuple[bytes, bool] | None, list[str] | None]:
        """The value, and whether it is fresh, where it stands; and the tags' numbers, None where Redis is away."""
        began = self._clock()
        if self._owed.intersection(tags) or began < self._second_level_from:
            return None, None
        try:
            async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                text, *numbers = await asyncio.gather(
                    self._redis.get(_entry(key)), *(self._redis.get(_tag(tag)) for tag in tags)
                )
        except (RedisError, OSError, TimeoutError, BreakerOpen):
            self.stats.errors += 1
            return None, None
        self.stats.milliseconds += 0.1 * ((self._clock() - began) * 1000 - self.stats.milliseconds)
        now = [str(number or 0) for number in numbers]
        if text is None:
            return None, now
        head, _, body = str(text).partition("\n")
        stamp, fresh_until, packed = head.split(" ")
        if stamp != ",".join(now):
            return None, now
        raw = body.encode("latin-1")
        value = zstandard.ZstdDecompressor().decompress(raw, max_output_size=MAX_VALUE) if packed == "1" else raw
        return (value, float(fresh_until) > time.time()), now

    async def _store(self, key: str, tags: tuple[str, ...], numbers: list[str], holds: float, value: bytes) -> None:
        packed = len(value) > COMPRESS_FROM
        body = self._compressor.compress(value) if packed else value
        head = f"{','.join(numbers)} {time.time() + holds * (1 - STALE_SHARE):.3f} {int(packed)}\n"
        try:
            async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                await self._redis.set(_entry(key), head + body.decode("latin-1"), px=max(1, int(holds * 1000)))
        except (RedisError, OSError, TimeoutError, BreakerOpen):
            self.stats.errors += 1

    # writes

    @asynccontextmanager
    async def writing(self, *tags: str) -> AsyncIterator[None]:
        """Around a write: its tags are counted on when it is done, and also where nobody knows whether it was."""
        try:
            yield
        except (PyMongoError, asyncio.CancelledError):
            await self.changed(*tags)
            raise
        await self.changed(*tags)

    async def changed(self, *tags: str) -> None:
        """Every entry with one of these tags is stale: here and at the edge before this returns."""
        self.stats.invalidations += 1
        self._forget(tags)
        counted = await self._count_on(tags)
        if self._purge is not None:
            await self._purge(tags)
        if counted:
            return
        if len(self._owed) >= MAX_OWED:
            self._second_level_from = self._clock() + LONGEST_SECONDS
            return
        settling = bool(self._owed)
        self._owed.update(tags)
        if not settling:
            self._spawn(self._settle())

    async def _count_on(self, tags: Sequence[str]) -> bool:
        try:
            async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                mark = secrets.token_hex(8)
                await asyncio.gather(*(self._redis.set(_tag(tag), mark, ex=TAG_SECONDS) for tag in tags))
                await self._redis.publish(CHANNEL, ",".join(tags))
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self.stats.errors += 1
            log.warning("tags could not be counted on", error=type(error).__name__)
            return False
        return True

    async def _settle(self) -> None:
        """Count on what could not be counted on; until then this instance uses no second level for those tags."""
        while self._owed:
            await asyncio.sleep(random.uniform(0.3, 0.8))  # noqa: S311  # jitter
            some = sorted(self._owed)[:50]
            if await self._count_on(some):
                self._owed.difference_update(some)

    def _forget(self, tags: Sequence[str]) -> None:
        named = set(tags)
        if len(self._changes) > MAX_CHANGES:
            self._changes.clear()
            self._epoch += 1
        for tag in named:
            self._changes[tag] = self._changes.get(tag, 0) + 1
        for key in [key for key, entry in self._entries.items() if named.intersection(entry.tags)]:
            self._drop(key)
        self._filling.clear()

    async def _listen(self) -> None:
        while not self._closing:
            try:
                async with self._listener.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    self._drop_all()
                    while not self._closing:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                        if message is not None and message["type"] == "message":
                            self._forget(str(message["data"]).split(","))
            except (RedisError, OSError, TimeoutError) as error:
                self._drop_all()
                log.warning("cache: not listening", error=type(error).__name__)
                await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311  # jitter

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _entry(key: str) -> str:
    return f"simplepro-app:entry:{key}"


def _tag(tag: str) -> str:
    return f"simplepro-app:tag:{tag}"
