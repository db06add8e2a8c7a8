"""Breakers that are one for several processes: for all sidecars by the store, else for the workers of this one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from proxy.fleet.board import Board
from proxy.fleet.breakers import Propose, SharedBreaker
from proxy.fleet.redis import Fleet
from proxy.throttle.distributed import RedisLimiter
from proxy.upstream.cluster import Cluster
from proxy.workers.link import Link


class SharedBreakers:
    """`by_fleet` are the clusters' own that all sidecars agree on, by cluster; `board` is what the workers write."""

    def __init__(self, fleets: Board) -> None:
        self.board = Board("workers")
        self.by_fleet: dict[str, SharedBreaker] = {}
        self._fleets = fleets
        self._by_workers: dict[str, list[SharedBreaker]] = {}

    def with_fleet(self, cluster: Cluster, fleet: Fleet, limiting: RedisLimiter) -> None:
        """Where the policy wants a quorum."""
        if cluster.breaker is None or not cluster.spec.shared_quorum:
            return
        shared = SharedBreaker(
            cluster.name, cluster.breaker, self._fleets, cluster.spec.shared_quorum, limiting.name,
            peers=lambda: limiting.peers,
            available=lambda: fleet.listening and limiting.store.available,
            propose=_proposing(fleet.propose, self._fleets),
        )  # fmt: skip
        cluster.ticks.append(shared.tick)
        self.by_fleet[cluster.name] = shared

    def with_workers(self, cluster: Cluster, link: Link) -> None:
        """Those that the whole fleet does not share: what one worker's calls open is open for all of them."""
        for breaker in cluster.breakers:
            if breaker is cluster.breaker and cluster.name in self.by_fleet:
                continue
            shared = SharedBreaker(
                breaker.name, breaker, self.board, 1, link.name, peers=lambda: link.worker.count,
                available=lambda: link.available, propose=_proposing(link.propose, self.board), least=1,
            )  # fmt: skip
            cluster.ticks.append(shared.tick)
            self._by_workers.setdefault(cluster.name, []).append(shared)

    def leave(self, cluster: str) -> None:
        """The cluster is no more."""
        of_fleet = self.by_fleet.pop(cluster, None)
        for one in (*self._by_workers.pop(cluster, ()), *([of_fleet] if of_fleet else ())):
            one.close()


def _proposing(propose: Callable[[Board, str, int, str, int, Callable[[bool], None]], None], board: Board) -> Propose:
    return partial(propose, board)
