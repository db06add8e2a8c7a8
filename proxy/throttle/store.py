"""One connection to a Redis-protocol server that answers within a deadline, or says at once that it doesn't.

Commands of a loop tick leave in one write, and answers come back in order, so that a decision costs 4 µs of client
CPU where a client library's await costs 150. Whoever asks is told exactly once: the answer, or a StoreError.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter

from proxy.batch import TickWriter
from proxy.telemetry.stats import DURATIONS, Histogram
from proxy.throttle.address import StoreAddress
from proxy.throttle.link import Link, OnReply, Reply, StoreError, pack, tell

log = logging.getLogger(__name__)

Locate = Callable[[], Awaitable[tuple[str, int]]]

MAX_PENDING = 20_000
"""Commands that wait for an answer; more are told at once that the store is away."""
PATIENCE = 5
"""Answers in a row that came too late before the store counts as away."""
CONNECT_SECONDS = 1.0
BACKOFF_FROM, BACKOFF_TO = 0.05, 2.0


@dataclass(slots=True)
class StoreStats:
    """`failures` by reason; `latency` of answers in seconds, `latency_now` its moving mean (a tenth the newest)."""

    answered: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    latency_now: float = 0.0
    latency: Histogram = field(default_factory=lambda: Histogram(DURATIONS))

    def failed(self, reason: str) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1


class Store:
    """Asks while the server answers; once it is away, says so without asking, and looks for it by itself.

    `deadline` is seconds. `on_revived` are called whenever the server is back. `locate` says where it is now, where
    that changes (Sentinel).
    """

    def __init__(
        self,
        address: StoreAddress,
        deadline: float,
        scripts: dict[str, str],
        stats: StoreStats | None = None,
        locate: Locate | None = None,
    ) -> None:
        self._address = address
        self._context = address.context()
        self._deadline = deadline
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._writer = TickWriter(self._loop)
        self._link: Link | None = None
        self._late = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reviver: asyncio.Task[None] | None = None
        self._closed = False
        self._told = ""
        self._tried = asyncio.Event()
        self.stats = stats or StoreStats()
        self._locate = locate
        self.location = (address.host, address.port)
        self.on_revived: list[Callable[[], None]] = []

    @property
    def available(self) -> bool:
        return self._link is not None

    @property
    def pending(self) -> int:
        """Commands that wait for an answer."""
        return len(self._link.pending) if self._link else 0

    def start(self) -> None:
        self._revive()

    async def first_try(self) -> None:
        """Wait until the first attempt to connect has ended, however it did."""
        await self._tried.wait()

    def ask(self, command: bytes, then: OnReply, slot: int = 0) -> None:
        """`then` gets the answer, or a StoreError; at once where the store is away. `slot` is for a Cluster."""
        link = self._link
        if link is None or len(link.pending) >= MAX_PENDING:
            self.stats.failed("away" if link is None else "queue")
            tell(then, StoreError("the store is away"))
            return
        link.ask(command, then)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline, self._expire)

    def on_answer(self, seconds: float) -> None:
        self._late = 0
        stats = self.stats
        stats.latency_now += (seconds - stats.latency_now) / (10 if stats.answered else 1)
        stats.answered += 1
        stats.latency.observe(seconds)

    def _expire(self) -> None:
        """Tell whoever waited for longer than the deadline; come back for the next."""
        self._timer = None
        link = self._link
        if link is None:
            return
        oldest = perf_counter() - self._deadline
        due: list[OnReply] = []
        following = 0.0
        for entry in link.pending:
            if entry[0] is None:
                continue
            if entry[1] > oldest:
                following = entry[1] - oldest
                break
            due.append(entry[0])
            entry[0] = None
        if due:
            self._late += 1
            for then in due:
                self.stats.failed("deadline")
                tell(then, StoreError("the store did not answer in time"))
            if self._late >= PATIENCE:
                self._give_up(link, f"no answer within {self._deadline * 1000:g} ms, {PATIENCE} times in a row")
                return
        if following:
            self._timer = self._loop.call_later(following, self._expire)

    def on_lost(self, link: Link) -> None:
        if link is self._link:
            self._give_up(link, "the connection ended")

    def on_demoted(self, link: Link) -> None:
        """The server is a replica now. A Cluster's map tells where to go instead, a Sentinel when asked."""
        if self._locate is not None and link is self._link:
            self._loop.call_soon(self._give_up, link, "it is a replica now")

    def _give_up(self, link: Link, reason: str) -> None:
        if link is not self._link:
            return
        self._link = None
        link.transport.abort()
        self._tell(f"away: {reason}")
        waiting, link.pending = link.pending, deque()
        for then, _ in waiting:
            if then is not None:
                self.stats.failed("lost")
                tell(then, StoreError(reason))
        self._revive()

    def _revive(self) -> None:
        if not self._closed and (self._reviver is None or self._reviver.done()):
            self._reviver = self._loop.create_task(self._look_for_it(), name="store")

    async def _look_for_it(self) -> None:
        """Until it answers: exponential backoff with full jitter."""
        pause = BACKOFF_FROM
        while not self._closed:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    link = await self._connect()
            except (OSError, TimeoutError, StoreError) as error:
                self._tell(f"away: {error or type(error).__name__}")
                await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311  # jitter
                pause = min(pause * 2, BACKOFF_TO)
            else:
                self._link = link
                self._late = 0
                self.stats.reconnects += 1
                self._tell("answers")
                for revived in self.on_revived:
                    revived()
                return

    async def _connect(self) -> Link:
        """A connection that is logged in and knows the scripts."""
        address = self._address
        if self._locate is not None:
            self.location = await self._locate()
        _, link = await self._loop.create_connection(
            lambda: Link(self, self._writer), *self.location, ssl=self._context
        )
        try:
            if address.password:
                user = (address.username,) if address.username else ()
                await self._asked(link, "AUTH", *user, address.password)
            if address.database:
                await self._asked(link, "SELECT", str(address.database))
            for script in self._scripts.values():
                await self._asked(link, "SCRIPT", "LOAD", script)
        except BaseException:
            link.transport.abort()
            raise
        return link

    async def _asked(self, link: Link, *parts: str) -> Reply:
        future: asyncio.Future[Reply] = self._loop.create_future()
        link.ask(pack(*parts), lambda reply: None if future.done() else future.set_result(reply))
        reply = await future
        if isinstance(reply, Exception):
            raise StoreError(str(reply).split(" ", 1)[0])
        return reply

    def _tell(self, state: str) -> None:
        """Each change once; never the address's password."""
        self._tried.set()
        if state != self._told:
            self._told = state
            level = logging.INFO if state == "answers" else logging.WARNING
            log.log(level, "store %s:%d %s", *self.location, state)

    async def close(self) -> None:
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._reviver:
            self._reviver.cancel()
            await asyncio.gather(self._reviver, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            link.transport.abort()
            for then, _ in link.pending:
                if then is not None:
                    tell(then, StoreError("the proxy is shutting down"))
