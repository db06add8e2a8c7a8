"""A named group of endpoints that answer alike, and which of them a request goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.batch import TickWriter
from proxy.telemetry.stats import ClusterStats
from proxy.upstream.pool import Pool, PoolLimits


class Endpoint:
    """One address of a cluster; `active` counts the exchanges that hold it."""

    __slots__ = ("active", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.active = 0

    @property
    def address(self) -> str:
        return self.pool.address


Balancer = Callable[[Sequence[Endpoint]], Endpoint]


class RoundRobin:
    """Each endpoint in turn."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        self._next = (self._next + 1) % len(endpoints)
        return endpoints[self._next]


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
    name: str
    endpoints: tuple[tuple[str, int], ...]
    balance: str
    limits: PoolLimits


class Cluster:
    __slots__ = ("_balance", "endpoints", "name", "stats")

    def __init__(self, spec: ClusterSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.name = spec.name
        writer = TickWriter(loop)
        self.endpoints = tuple(Endpoint(Pool(host, port, spec.limits, loop, writer)) for host, port in spec.endpoints)
        self.stats = ClusterStats(spec.name)
        self._balance = BALANCERS[spec.balance]()

    def pick(self) -> Endpoint:
        endpoints = self.endpoints
        return endpoints[0] if len(endpoints) == 1 else self._balance(endpoints)

    def sweep(self, now: float) -> None:
        for endpoint in self.endpoints:
            endpoint.pool.sweep(now)

    async def close(self) -> None:
        for endpoint in self.endpoints:
            await endpoint.pool.close()
