"""One try at one endpoint, and what it tells the breakers, the outlier detection and the limits of its cluster."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from breaker import State
from proxy.upstream.outlier import GATEWAY_STATUSES

if TYPE_CHECKING:
    from proxy.upstream.cluster import Cluster, Endpoint


class Attempt:
    """Its outcome is told once; ending it without one is neutral. `endpoint` is held until `end`."""

    __slots__ = ("_cluster", "_cluster_token", "_endpoint_token", "_seconds", "_told", "began", "endpoint")

    def __init__(self, cluster: Cluster, endpoint: Endpoint, cluster_token: int, endpoint_token: int) -> None:
        self._cluster = cluster
        self._cluster_token = cluster_token
        self._endpoint_token = endpoint_token
        self._told = False
        self._seconds = 0.0
        self.endpoint = endpoint
        self.began = perf_counter()
        endpoint.active += 1

    def answered(self, status: int) -> float:
        """The answer's head is here; the seconds since the attempt began, the wait for a connection included."""
        self._told = True
        seconds = perf_counter() - self.began
        cluster = self._cluster
        fastest = cluster.stats.fastest
        if seconds < fastest.now:
            fastest.now = seconds
        if cluster.learns:
            self._tell(seconds, status in cluster.failure_statuses, status in GATEWAY_STATUSES)
        return seconds

    def switched(self) -> None:
        """A WebSocket is open. Its end says how it went, but for a breaker that waits for this probe."""
        self._seconds = perf_counter() - self.began
        waiting = (self._cluster.breaker, self.endpoint.breaker)
        if any(one is not None and one.state is State.HALF_OPEN for one in waiting):
            self.ended_well()

    def ended_well(self) -> None:
        """A WebSocket that was closed in good order; nothing where it was told otherwise before."""
        if not self._told:
            self._told = True
            if self._cluster.learns:
                self._tell(self._seconds, False, False)

    def failed(self, kind: str) -> None:
        """`connect`, `reset`, `timeout`; also after an answer that then broke off. What does not count is neutral."""
        if kind in self._cluster.failure_kinds:
            self._told = True
            self._tell(perf_counter() - self.began, True, True)

    def _tell(self, seconds: float, failed: bool, gateway: bool) -> None:
        cluster = self._cluster
        if cluster.breaker is not None:
            outcome = cluster.breaker.failure if failed else cluster.breaker.success
            outcome(self._cluster_token, seconds)
        breaker = self.endpoint.breaker
        if breaker is not None:
            outcome = breaker.failure if failed else breaker.success
            outcome(self._endpoint_token, seconds)
        if cluster.watches:
            cluster.watch(self.endpoint, seconds, failed=failed, gateway=gateway)

    def end(self) -> None:
        self.endpoint.active -= 1
        if self._told:
            return
        if self._cluster.breaker is not None:
            self._cluster.breaker.neutral(self._cluster_token)
        if self.endpoint.breaker is not None:
            self.endpoint.breaker.neutral(self._endpoint_token)
