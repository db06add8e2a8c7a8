"""Another answer in place of the one that came, or that did not: another attempt, another cluster, the route's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.listener.cached import Cached
from proxy.upstream.retry import repeatable

if TYPE_CHECKING:
    from proxy.exchange import Exchange, Response


class Instead(Cached):
    __slots__ = ()

    def _retried(self, status: int, response: Response) -> bool:
        """Another attempt in place of this answer."""
        cluster = self._cluster
        retryable = cluster is not None and status in cluster.retry.statuses
        return retryable and self._again(str(status), response.headers.get(b"retry-after"))

    def _instead(self, status: int) -> bool:
        """The route's fallback in place of this answer."""
        fallback = self._route.fallback
        return fallback is not None and str(status) in fallback.kinds and self._fall_back(str(status))

    def _fall_back(self, kind: str) -> bool:
        """Answer by the route's fallback, where it has something."""
        exchange, fallback, cluster = self._current(), self._route.fallback, self._cluster or self._route.cluster
        if fallback is None or self._answer.begun or exchange.websocket:
            return False
        other = fallback.cluster
        once = not self._fell_back and self.upload.replayable and self._may_repeat(kind, exchange)
        if other is not None and other is not cluster and once:
            self._fell_back = True
            cluster.stats.fallbacks["cluster"] += 1
            self._leave_cluster()
            self._failed.clear()
            self._tries = 0
            self._enter(other)
            return True
        found = fallback.response(exchange)
        if found is None:
            return False
        name, response = found
        cluster.stats.fallbacks[name] += 1
        exchange.failure = f"fallback-{name}"
        self._own_answer(response, closing=False)
        return True

    def _may_repeat(self, kind: str, exchange: Exchange) -> bool:
        """Whether the request was not sent, or may be sent again."""
        return kind in ("breaker-open", "overloaded", "upstream-unavailable", "upstream-busy") or repeatable(exchange)
