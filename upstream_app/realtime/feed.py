"""The streams of events, read by this instance in their order: none is missed while Redis is away for a moment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from upstream_app.background import Background
from upstream_app.events import LASTING, PASSING
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.realtime")
BLOCK_MS = 1_000
COUNT = 500
MAX_REPLAYED = 1_000
POSITION = re.compile(r"\d{1,15}-\d{1,15}")


@dataclass(frozen=True, slots=True)
class Told:
    """`text` is the event as clients get it; `seq` its place in the order, empty where it does not last."""

    seq: str
    rooms: tuple[str, ...]
    text: str


Deliver = Callable[[Told], None]


def place(position: str) -> tuple[int, int]:
    """Of `milliseconds-number`, so that places compare."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number)


class Feed(Background):
    """`last` is the place of the last lasting event that was delivered; `rewound` counts how often a store that lost
    its newest writes took this reader back; `failing` whether the store did not answer last."""

    def __init__(self, redis: Client, deliver: Deliver) -> None:
        super().__init__("events: feed")
        self._redis: Any = redis  # redis-py's types say that a stream may be anything
        self._deliver = deliver
        self._last = {LASTING: "", PASSING: ""}
        self.rewound = 0
        self.failing = False

    @property
    def last(self) -> str:
        return self._last[LASTING]

    @property
    def ready(self) -> bool:
        return bool(self.last)

    async def _run(self) -> None:
        pause = 0.05
        while not self._closing:
            try:
                await self._find_place()
                pause = 0.05
                while not self._closing:
                    found = await self._redis.xread(dict(self._last), count=COUNT, block=BLOCK_MS)
                    if not found:
                        await self._find_place()
                    for stream, entries in found or ():
                        for seq, fields in entries:
                            self._last[stream] = seq
                            self._take(stream, seq, fields)
                    self.failing = False
            except (RedisError, OSError, TimeoutError) as error:
                self.failing = True
                log.warning("events are not read", error=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _take(self, stream: str, seq: str, fields: dict[str, str]) -> None:
        """An entry that is no event of ours, and a receiver's defect, are logged; the next is still told."""
        try:
            self._deliver(_told(seq if stream == LASTING else "", fields))
        except Exception:
            log.exception("event not delivered", stream=stream, seq=seq)

    async def _find_place(self) -> None:
        """Behind the newest at first; after a loss of the store never before what it gives next.

        redis-py may reconnect without a word, so this is asked whenever nothing came for a while.
        """
        for stream, last in self._last.items():
            newest = await self._newest(stream)
            if not last:
                self._last[stream] = newest
            elif place(newest) < place(last):
                self._last[stream] = newest
                self.rewound += 1
                log.warning("the store lost events that were told", stream=stream)

    async def _newest(self, stream: str) -> str:
        try:
            found: dict[str, Any] = await self._redis.xinfo_stream(stream)
        except ResponseError:
            return "0-0"
        return str(found["last-generated-id"])

    async def since(self, seq: str, rooms: set[str]) -> tuple[list[Told], bool]:
        """What these rooms were told after `seq` and up to `last`; False where that may not be all of it.

        Raises RedisError, OSError, TimeoutError.
        """
        whole = place(seq) <= place(self.last) and await self._keeps(seq)
        found: list[Told] = []
        begin, read = f"({seq}", 0
        while read < 20 * MAX_REPLAYED:
            entries = await self._redis.xrange(LASTING, begin, self.last, count=COUNT)
            found += [one for one in (_told(at, fields) for at, fields in entries) if not rooms.isdisjoint(one.rooms)]
            read += len(entries)
            if len(entries) < COUNT or len(found) > MAX_REPLAYED:
                break
            begin = f"({entries[-1][0]}"
        else:
            whole = False
        return found[-MAX_REPLAYED:], whole and len(found) <= MAX_REPLAYED

    async def _keeps(self, seq: str) -> bool:
        """Whether nothing after `seq` was trimmed yet."""
        if seq == self.last:
            return True
        try:
            found: dict[str, Any] = await self._redis.xinfo_stream(LASTING)
        except ResponseError:
            return False
        if found["entries-added"] == found["length"]:
            return True
        return bool(found["first-entry"]) and place(found["first-entry"][0]) <= place(seq)


def _told(seq: str, fields: dict[str, str]) -> Told:
    event = fields["event"]
    return Told(seq, tuple(fields["rooms"].split(" ")), f'{{"seq":"{seq}",{event[1:]}' if seq else event)
