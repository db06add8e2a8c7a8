"""A named group of endpoints that answer alike: how much they are asked at once, and where a request goes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from breaker import Breaker, BreakerOpen, Settings
from proxy.batch import TickWriter
from proxy.rejection import BreakerIsOpen, Overloaded
from proxy.telemetry.stats import ClusterStats, Recent
from proxy.tls import ClientTls, client_context
from proxy.upstream.adaptive import AdaptiveLimit, AdaptiveTerms
from proxy.upstream.admission import Admission, AdmissionTerms
from proxy.upstream.attempt import Attempt
from proxy.upstream.health import HealthChecker, HealthTerms
from proxy.upstream.outlier import Outlier, OutlierTerms
from proxy.upstream.pool import UNIX, Pool, PoolLimits, Way
from proxy.upstream.retry import NO_RETRIES, RetryBudget, RetryTerms

log = logging.getLogger(__name__)

PRIORITIES = {"critical": 0, "high": 1, "normal": 2, "low": 3}
SHARES = (float("inf"), 1.0, 0.9, 0.7)
"""Of the limit on requests at once, by priority: the low are refused first; the critical never."""


class Endpoint:
    """One address of a cluster; `active` counts the attempts that hold it.

    `healthy` is the active health check's word, `ejected_until` the outlier detection's; 0 where it is not ejected.
    """

    __slots__ = ("active", "breaker", "calls", "ejected_until", "ejections", "gateway_row", "healthy", "pool",
                 "successes", "warm_since")  # fmt: skip

    def __init__(self, pool: Pool, breaker: Breaker | None) -> None:
        self.pool = pool
        self.breaker = breaker
        self.active = 0
        self.healthy = True
        self.ejected_until = 0.0
        self.ejections = 0
        self.gateway_row = 0
        self.calls = 0
        self.successes = 0
        self.warm_since = 0.0

    @property
    def address(self) -> str:
        return self.pool.address

    @property
    def fit(self) -> bool:
        return self.healthy and not self.ejected_until


Balancer = Callable[[Sequence[Endpoint]], Endpoint]


class RoundRobin:
    """Each endpoint in turn."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        self._next += 1
        return endpoints[self._next % len(endpoints)]


class LeastRequest:
    """The endpoint with the fewest exchanges; among equals, in turn (Envoy's LEAST_REQUEST, all hosts looked at)."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = RoundRobin()

    def __call__(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        best = self._turn(endpoints)
        for endpoint in endpoints:
            if endpoint.active < best.active:
                best = endpoint
        return best


BALANCERS: dict[str, Callable[[], Balancer]] = {"round_robin": RoundRobin, "least_request": LeastRequest}


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """`panic` is the share of fit endpoints below which all are used; `slow_start` seconds in which one that comes
    back gets its full share; `failure_kinds` and `failure_statuses` are what counts as a failure."""

    name: str
    endpoints: tuple[tuple[str, int], ...]
    balance: str
    limits: PoolLimits
    max_requests: int = 4096
    max_retries: int = 64
    retry: RetryTerms = NO_RETRIES
    budget_share: float = 0.2
    budget_floor: int = 3
    breaker: Settings | None = None
    failure_kinds: frozenset[str] = frozenset({"connect", "reset", "timeout"})
    failure_statuses: frozenset[int] = frozenset(range(500, 600))
    outlier: OutlierTerms | None = None
    health: HealthTerms | None = None
    adaptive: AdaptiveTerms | None = None
    admission: AdmissionTerms | None = None
    tls: ClientTls | None = None
    preamble: str = ""
    """The version of the PROXY head that begins a connection."""
    dns_family: str = "any"
    dns_refresh: float = 5.0
    panic: float = 0.5
    slow_start: float = 0.0
    hedge_after: float = 0.0
    hedge_share: float = 0.0
    """Instead of so many seconds: what this share of answers were faster than."""
    shared_quorum: int = 0
    """Sidecars that have to agree before the breaker opens for all; 0 where each stands alone, -1 for most of them."""


class Cluster:
    def __init__(
        self, spec: ClusterSpec, loop: asyncio.AbstractEventLoop, draw: Callable[[], float] = random.random
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self._loop = loop
        self._draw = draw
        writer = TickWriter(loop)
        several = len(spec.endpoints) > 1
        tls = spec.tls
        way = Way(
            client_context(tls) if tls else None, tls.server_name if tls else "", spec.preamble, spec.dns_family,
            spec.dns_refresh,
        )  # fmt: skip
        self.breaker = self._breaker(spec.name)
        self.endpoints = tuple(
            Endpoint(
                Pool(host, port, spec.limits, loop, writer, way),
                self._breaker(f"{spec.name}/{host if host.startswith(UNIX) else f'{host}:{port}'}")
                if several
                else None,
            )
            for host, port in spec.endpoints
        )
        self.stats = ClusterStats(spec.name)
        self.retry = spec.retry
        self.budget = RetryBudget(spec.budget_share, spec.budget_floor)
        self.failure_kinds = spec.failure_kinds
        self.failure_statuses = spec.failure_statuses
        self.outlier = Outlier(spec.name, spec.outlier, self.endpoints) if spec.outlier and several else None
        self.adaptive = AdaptiveLimit(spec.adaptive, loop.time()) if spec.adaptive else None
        self.admission = Admission(spec.admission, draw) if spec.admission else None
        self.checker = HealthChecker(spec.name, spec.health, self.endpoints) if spec.health else None
        self.watches = bool(self.outlier or self.adaptive or self.admission)
        self.learns = self.watches or bool(self.breaker)
        """Whether anybody wants to know what attempts come to."""
        self.hedge_after = spec.hedge_after
        """Seconds after which a second attempt is made beside the first; 0 for none."""
        self._recent = Recent(self.stats.durations) if spec.hedge_share else None
        self.running = 0
        self.panicking = False
        """Whether so few endpoints are fit that all are used."""
        self.ticks: list[Callable[[], None]] = []
        """Called with each sweep of the listener."""
        self._balance = BALANCERS[spec.balance]()
        self._thresholds = self._limits()

    def _breaker(self, name: str) -> Breaker | None:
        settings = self.spec.breaker
        return Breaker(name, settings, clock=self._loop.time, draw=self._draw) if settings else None

    @property
    def breakers(self) -> list[Breaker]:
        found = [self.breaker, *(endpoint.breaker for endpoint in self.endpoints)]
        return [one for one in found if one is not None]

    def start(self) -> None:
        for endpoint in self.endpoints:
            if endpoint.pool.resolver is not None:
                endpoint.pool.resolver.start()
        if self.checker is not None:
            self.checker.start()

    # how much at once

    def _limits(self) -> tuple[float, ...]:
        limit = float(self.spec.max_requests)
        if self.adaptive is not None:
            limit = min(limit, self.adaptive.limit)
        return tuple(max(1.0, limit * share) for share in SHARES)

    @property
    def limit(self) -> int:
        """Requests of high priority that may run at once."""
        return int(self._thresholds[1])

    def enter(self, priority: int) -> None:
        """One request more runs, until its forwarder takes it off `running`. Raises Overloaded."""
        if self.running >= self._thresholds[priority]:
            what = "max_requests" if self.adaptive is None or self.limit >= self.spec.max_requests else "adaptive"
            self.stats.refused[what] += 1
            raise Overloaded(
                f"{self.running} requests run already", rule=f"clusters.{self.name}.{what}", retry_after=1.0
            )
        if self.admission is not None and priority and self.admission.refuses():
            self.stats.refused["admission"] += 1
            raise Overloaded("too many requests fail", rule=f"clusters.{self.name}.admission", retry_after=1.0)
        self.running += 1
        if self.retry.attempts > 1:
            self.budget.deposit()

    @property
    def least_seconds(self) -> float:
        """What no answer has been faster than, lately; 0 while nothing is known."""
        return self.stats.fastest.seconds

    def watch(self, endpoint: Endpoint, seconds: float, *, failed: bool, gateway: bool) -> None:
        """An attempt's outcome, for those that learn from it."""
        now = self._loop.time()
        if self.outlier is not None:
            self.outlier.record(endpoint, now, failed=failed, gateway=gateway)
        if self.admission is not None:
            self.admission.record(now, failed=failed)
        if self.adaptive is not None and not failed and self.adaptive.sample(seconds, self.running, now):
            self._thresholds = self._limits()

    # where to

    def attempt(self, failed: Sequence[Endpoint] = ()) -> Attempt:
        """A try at an endpoint, another than those that `failed` where there is one. Raises BreakerIsOpen."""
        try:
            token = self.breaker.admit() if self.breaker is not None else 0
            endpoint = self.endpoints[0] if len(self.endpoints) == 1 else self._pick(failed)
        except BreakerOpen as error:
            raise BreakerIsOpen(
                f"the upstream failed too often; the next try is in {error.retry_after:.1f} s",
                rule=f"clusters.{self.name}.breaker",
                retry_after=error.retry_after,
            ) from None
        own = endpoint.breaker
        try:
            return Attempt(self, endpoint, token, own.admit() if own is not None else 0)
        except BreakerOpen as error:
            if self.breaker is not None:
                self.breaker.neutral(token)
            raise BreakerIsOpen(
                "no endpoint may be tried now", rule=f"clusters.{self.name}.breaker", retry_after=error.retry_after
            ) from None

    def _pick(self, failed: Sequence[Endpoint]) -> Endpoint:
        fit = [one for one in self.endpoints if one.fit]
        if not fit or len(fit) < self.spec.panic * len(self.endpoints):
            self._panic(len(fit))
            fit = list(self.endpoints)
        elif self.panicking:
            self.panicking = False
            log.warning("%s: %d of %d endpoints are fit again", self.name, len(fit), len(self.endpoints))
        fit = [one for one in fit if one.breaker is None or one.breaker.available] or fit
        fresh = [one for one in fit if one not in failed] or fit
        chosen = self._balance(fresh)
        if self.spec.slow_start:
            now = self._loop.time()
            for _ in fresh:
                if chosen.warm_since + self.spec.slow_start <= now or self._warm(chosen, now):
                    break
                chosen = self._balance(fresh)
        return chosen

    def _panic(self, fit: int) -> None:
        self.stats.panics += 1
        if not self.panicking:
            self.panicking = True
            log.warning("%s: only %d of %d endpoints are fit: all are used", self.name, fit, len(self.endpoints))

    def _warm(self, endpoint: Endpoint, now: float) -> bool:
        """Whether one that came back lately takes this request; more and more of them, from a tenth on."""
        if not endpoint.warm_since:
            return True
        return self._draw() < max(0.1, (now - endpoint.warm_since) / self.spec.slow_start)

    def may_retry(self) -> bool:
        """Takes one retry out of the budget, where it has one."""
        if self.budget.active >= self.spec.max_retries:
            self.budget.refused += 1
            return False
        return self.budget.take(self.running)

    def sweep(self, now: float) -> None:
        for endpoint in self.endpoints:
            endpoint.pool.sweep(now)
        if self.outlier is not None:
            self.outlier.sweep(now)
        self.stats.fastest.roll(now)
        if self._recent is not None:
            self._recent.roll(now)
            self.hedge_after = self._recent.quantile(self.spec.hedge_share)
        for tick in self.ticks:
            tick()

    @property
    def idle(self) -> bool:
        """Whether no exchange has anything of it."""
        return not self.running and not any(one.active or one.pool.waiting for one in self.endpoints)

    async def close(self) -> None:
        if self.checker is not None:
            await self.checker.close()
        for endpoint in self.endpoints:
            await endpoint.pool.close()
