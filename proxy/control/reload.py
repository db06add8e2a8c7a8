"""A changed policy file, taken over while requests run: read, compiled, swapped at once, or refused whole.

Exchanges and WebSockets that run keep the policy that they began under. Where answers get bad within a while after the
swap, the old policy comes back by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.filter import Mode
from proxy.policy.document import read
from proxy.policy.findings import Finding, PolicyError
from proxy.policy.load import load
from proxy.policy.source import revision_of, stamp_of

if TYPE_CHECKING:
    from proxy.app import Proxy
    from proxy.policy.model import Policy

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
HISTORY = 60
"""Ticks of counts that are kept: what was usual before a swap."""
AT_START = (("listener", "unix"), ("admin", "address"), ("redis",), ("workers",), ("traces",))
"""What is opened once, and can't be changed in a running process."""
OF_WORKERS = (("listener", "address"), ("listener", "redirect"))
"""Of several workers their parent opens the sockets."""
WORDS = ("applied", "refused", "reverted")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt to take over a file; `findings` are all that is wrong with it.

    `weaker` tells of the last refusals those that the new policy would not make: by rule, how many.
    """

    result: str
    revision: str
    findings: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()


@dataclass(slots=True)
class Trial:
    """A swap that may still be taken back. `bad` and `all` are counts at the swap, `usual` the share before it."""

    before: Policy
    text: bytes
    revision: str
    ends: float
    bad: int
    all: int
    usual: float


@dataclass(slots=True)
class History:
    """How many answers were bad (5xx, or a refusal), of all, tick by tick."""

    ticks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def share(self) -> float:
        if len(self.ticks) < 2:
            return 0.0
        (bad, every), (bad_now, every_now) = self.ticks[0], self.ticks[-1]
        return (bad_now - bad) / (every_now - every) if every_now > every else 0.0


class Reloader:
    """Of one proxy and one file; `start` watches both the file (where the policy says so) and what a swap led to."""

    def __init__(self, proxy: Proxy, path: Path, text: bytes | None = None) -> None:
        """`text` is what the file said when a parent had it read; the parent then also watches it."""
        self.path = path
        self.text = path.read_bytes() if text is None else text
        self.revision = revision_of(self.text)
        self.applied_at = time.time()
        self.counts = dict.fromkeys(WORDS, 0)
        self.last: Outcome = Outcome("applied", self.revision)
        self._proxy = proxy
        self._watched = text is None
        self._seen = stamp_of(path)
        self._busy = asyncio.Lock()
        self._history = History()
        self._trial: Trial | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[Any]] = set()
        self.on_revert: list[Callable[[str, str], None]] = []
        """Told the revision that was taken back, and why."""
        self.on_apply: list[Callable[[bytes, bool], None]] = []
        """Told what rules from now on, and whether it is on trial."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="policy")

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._asked) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ask(self) -> None:
        """From a signal handler, which can't wait."""
        self._begin(self.reload(), "reload")

    def _begin(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def reload(self) -> Outcome:
        """Read the file and take it over; nothing changes where anything is wrong with it."""
        async with self._busy:
            self._seen = stamp_of(self.path)
            outcome = await self._judged(None, trial=True)
            if outcome.result == "applied":
                for told in self.on_apply:
                    told(self.text, self._trial is not None)
            return outcome

    def take(self, text: bytes, trial: bool, then: Callable[[bytes], None]) -> None:
        """What another worker took over; `then` is told what rules here after, which is another where it is refused."""

        async def taking() -> None:
            async with self._busy:
                await self._judged(text, trial=trial)
            then(self.text)

        self._begin(taking(), "take over")

    async def _judged(self, text: bytes | None, *, trial: bool) -> Outcome:
        try:
            outcome = await self._take_over(text, trial=trial)
        except PolicyError as error:
            outcome = Outcome("refused", self.revision, tuple(map(str, error.findings)))
            for line in outcome.findings:
                log.error("policy refused: %s", line)
        self.counts[outcome.result] += 1
        self.last = outcome
        return outcome

    async def _take_over(self, text: bytes | None, *, trial: bool) -> Outcome:
        proxy, old = self._proxy, self._proxy.policy
        try:
            text = self.path.read_bytes() if text is None else text
        except OSError as error:
            what = f"can't be read: {error.strerror}"
            raise PolicyError([Finding(str(self.path), 1, 1, "", what)]) from None
        policy, revision = load(self.path, data=text), revision_of(text)
        self._fixed(old, policy, text)
        before = _enforced(proxy)
        try:
            await proxy.apply(policy)
        except (ValueError, OSError) as error:
            raise PolicyError([Finding(str(self.path), 1, 1, "", str(error))]) from None
        terms = policy.reload.revert
        bad, every = proxy.outcomes()
        ends = asyncio.get_running_loop().time() + terms.within
        usual = self._history.share()
        tried = bool(terms.within) and trial
        self._trial = Trial(old, self.text, self.revision, ends, bad, every, usual) if tried else None
        self.text, self.revision, self.applied_at = text, revision, time.time()
        proxy.revision = revision
        log.warning("policy applied: revision %s", revision)
        weaker = _weaker(proxy, before, _enforced(proxy))
        for line in weaker:
            log.warning("policy is weaker: %s", line)
        return Outcome("applied", revision, weaker=weaker)

    def _fixed(self, old: Policy, new: Policy, text: bytes) -> None:
        """Raises PolicyError with each part that differs and needs a restart."""
        findings = []
        document = read(self.path, os.environ, text)
        for path in AT_START + OF_WORKERS * (self._proxy.link is not None):
            before, after = _part(old, path), _part(new, path)
            if before != after:
                line, column = document.place(path, key=True)
                what = "can't change while the proxy runs: put it back, or restart the proxy (no request is lost)"
                findings.append(Finding(str(self.path), line, column, ".".join(path), what))
        if findings:
            raise PolicyError(findings)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tick()
            except Exception:
                log.exception("the policy could not be watched")

    async def _tick(self) -> None:
        if self._trial is not None:
            await self._judge(self._trial)
        else:
            self._history.ticks.append(self._proxy.outcomes())
        stamp = stamp_of(self.path)
        if self._watched and self._proxy.policy.reload.watch and stamp and stamp != self._seen:
            await self.reload()

    async def _judge(self, trial: Trial) -> None:
        """Put the old policy back where answers got bad; the history begins anew at the trial's end."""
        terms = self._proxy.policy.reload.revert
        bad, every = self._proxy.outcomes()
        bad, every = bad - trial.bad, every - trial.all
        share = bad / every if every else 0.0
        if every >= terms.of_at_least and share > trial.usual + terms.above:
            refused = self.revision
            what = (
                f"revision {refused}: {share:.0%} of {every} answers were refusals or failures, "
                f"{trial.usual:.0%} before; revision {trial.revision} is back"
            )
            await self._take_back(trial, what)
            for told in self.on_revert:
                told(refused, what)
            for applied in self.on_apply:
                applied(self.text, False)
        elif asyncio.get_running_loop().time() >= trial.ends:
            self._trial = None
            self._history.ticks.clear()

    async def _take_back(self, trial: Trial, what: str) -> None:
        async with self._busy:
            self._trial = None
            await self._proxy.apply(trial.before)
            self.text = trial.text
            self.revision = self._proxy.revision = trial.revision
            self.applied_at = time.time()
            self.counts["reverted"] += 1
            self.last = Outcome("reverted", trial.revision, (what,))
            log.error("policy reverted: %s", what)
            self._history.ticks.clear()

    def revert(self, revision: str, what: str) -> None:
        """Another worker has taken that revision back; so does this one, where it is on trial here."""
        if self._trial is not None and self.revision == revision:
            self._begin(self._take_back(self._trial, what), "revert")


Enforced = dict[str, frozenset[str]]


def _enforced(proxy: Proxy) -> Enforced:
    """By route the rules that refuse there."""
    return {
        route.name: frozenset(
            rule.name for one in route.chain.filters for rule in one.rules if rule.mode is Mode.ENFORCE
        )
        for route in proxy.compiled.routes.routes
    }


def _weaker(proxy: Proxy, before: Enforced, after: Enforced) -> tuple[str, ...]:
    """The last refusals, checked against what refuses now; whose route has gone is not judged."""
    last = proxy.decisions.latest(1000)
    lost: Counter[str] = Counter()
    for one in last:
        route, rule = str(one["route"]), str(one["rule"])
        if rule in before.get(route, ()) and route in after and rule not in after[route]:
            lost[f"{rule} on route {route}"] += 1
    return tuple(
        f"{name} made {count} of the last {len(last)} refusals and does not refuse any more"
        for name, count in lost.most_common()
    )


def _part(policy: Policy, path: tuple[str, ...]) -> object:
    value: object = policy
    for name in path:
        value = getattr(value, name, None)
    return value
