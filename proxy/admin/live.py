"""What the live page shows, taken from the counters that are there anyway: nothing is measured for it.

One watcher's `Watch` keeps its own last readings; rates are over the last RATE_TICKS of them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.telemetry.stats import DURATIONS

if TYPE_CHECKING:
    from breaker import Breaker
    from proxy.app import Proxy
    from proxy.telemetry.stats import RouteStats
    from proxy.upstream.cluster import Cluster

TICK_SECONDS = 1.0
RATE_TICKS = 10
SHOWN = 50
"""Rows of each table at most; the page says how many there are."""
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Reading:
    """Counts at one time (seconds of the loop's clock)."""

    at: float
    routes: dict[str, tuple[int, int, int, tuple[int, ...]]]
    """All answers, 4xx, 5xx, and the durations' buckets."""
    refused: dict[tuple[str, str, str], int]
    cpu: float


class Watch:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._readings: deque[Reading] = deque(maxlen=RATE_TICKS + 1)

    def _stats(self) -> list[RouteStats]:
        listener = self._proxy.listener
        return [*(route.stats for route in listener.routes.routes), listener.unrouted]

    def _read(self) -> Reading:
        routes = {}
        for stats in self._stats():
            every = errors = failures = 0
            for status, count in stats.statuses.items():
                every += count
                errors += count if 400 <= status < 500 else 0
                failures += count if status >= 500 else 0
            routes[stats.route] = (every, errors, failures, tuple(stats.durations.buckets))
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = asyncio.get_running_loop().time()
        return Reading(now, routes, dict(self._proxy.listener.stats.rejections), used.ru_utime + used.ru_stime)

    def snapshot(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON takes it."""
        now = self._read()
        self._readings.append(now)
        before = self._readings[0]
        seconds = max(now.at - before.at, 1e-9)
        proxy = self._proxy
        listener = proxy.listener
        state = "ready" if proxy.ready else "draining" if proxy.started else "starting"
        store = proxy.limiting.store if proxy.limiting is not None else None
        return {
            "time": time.time(),
            "state": "degraded" if state == "ready" and proxy.degraded else state,
            "degraded": proxy.degraded,
            "worker": [proxy.link.worker.index, proxy.link.worker.count] if proxy.link is not None else None,
            "process": {
                "cpu": round((now.cpu - before.cpu) / seconds, 3),
                "memory": _resident(),
                "connections": listener.open_connections,
                "store": None if store is None else {
                    "available": store.available, "ms": round(store.stats.latency_now * 1000, 2),
                    "peers": proxy.limiting.peers if proxy.limiting else 1,
                },
            },
            "cache": self._cache(),
            "policy": self._policy(),
            "routes": self._routes(now, before, seconds),
            "refusals": self._refusals(now, before, seconds),
            "clusters": [self._cluster(one, now.at) for one in proxy.compiled.clusters.values()],
            "limits": self._limits(now.at),
            "bans": self._bans(),
            "sockets": self._sockets(now.at),
        }  # fmt: skip

    def _cache(self) -> dict[str, Any] | None:
        edges = self._proxy.shared.edges
        if edges is None:
            return None
        results: dict[str, int] = {}
        for stats in edges.stats.values():
            for name, count in stats.results.items():
                results[name] = results.get(name, 0) + count
        asked = sum(count for name, count in results.items() if not name.startswith("bypass"))
        served = asked - results.get("miss", 0)
        return {
            "hits": round(served / asked, 3) if asked else None,
            "bytes": edges.store.size,
            "most": edges.store.most,
        }

    def _policy(self) -> dict[str, Any]:
        reloader = self._proxy.reloader
        if reloader is None:
            return {"revision": self._proxy.revision, "file": "", "result": "applied", "findings": []}
        return {
            "revision": reloader.revision, "file": str(reloader.path), "applied_at": reloader.applied_at,
            "result": reloader.last.result, "findings": list(reloader.last.findings), "reloads": reloader.counts,
        }  # fmt: skip

    def _routes(self, now: Reading, before: Reading, seconds: float) -> list[dict[str, Any]]:
        shown = []
        clusters = {route.stats.route: route.cluster.name for route in self._proxy.listener.routes.routes}
        for stats in self._stats():
            every, errors, failures, buckets = now.routes[stats.route]
            none = (0, 0, 0, (0,) * len(buckets))
            earlier = before.routes.get(stats.route, none) if before is not now else none
            moved = (every - earlier[0], errors - earlier[1], failures - earlier[2]) if before is not now else (0, 0, 0)
            if stats is self._proxy.listener.unrouted and not every:
                continue
            shown.append(
                {
                    "name": stats.route, "cluster": clusters.get(stats.route, ""),
                    "rate": round(moved[0] / seconds, 1), "errors": round(moved[1] / seconds, 1),
                    "failures": round(moved[2] / seconds, 1), "total": every, "in_flight": stats.in_flight,
                    "p99_ms": _quantile(0.99, buckets, earlier[3]),
                }
            )  # fmt: skip
        return shown

    def _refusals(self, now: Reading, before: Reading, seconds: float) -> dict[str, Any]:
        """By rule, the most frequent of the last seconds first; each with the last one's explanation."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self._proxy.decisions.latest(1000):
            last.setdefault((one["rule"], one["reason"]), one)
        rows: list[dict[str, Any]] = []
        for key, count in now.refused.items():
            rule, reason, mode = key
            explained = last.get((rule, reason)) if mode == "enforce" else None
            rows.append(
                {
                    "rule": rule, "reason": reason, "mode": mode, "total": count,
                    "rate": round((count - before.refused.get(key, 0)) / seconds, 1) if before is not now else 0.0,
                    "detail": explained["detail"] if explained else "",
                    "remedy": explained["remedy"] if explained else "",
                    "decision": explained["decision"] if explained else "",
                    "at": explained["time"] if explained else None,
                }
            )  # fmt: skip
        rows.sort(key=lambda row: (-row["rate"], -row["total"]))
        return {"of": len(rows), "rows": rows[:SHOWN]}

    def _cluster(self, cluster: Cluster, now: float) -> dict[str, Any]:
        shared = self._proxy.shared_breakers.by_fleet.get(cluster.name)
        return {
            "name": cluster.name,
            "running": cluster.running,
            "limit": cluster.limit,
            "breaker": _breaker(cluster.breaker),
            "fleet": shared.agreed.state if shared is not None else "",
            "endpoints": [
                {
                    "address": endpoint.address, "active": endpoint.active, "connections": len(endpoint.pool.open),
                    "waiting": endpoint.pool.waiting, "healthy": endpoint.healthy,
                    "ejected_for": round(max(0.0, endpoint.ejected_until - now), 1),
                    "breaker": _breaker(endpoint.breaker),
                }
                for endpoint in cluster.endpoints
            ],
        }  # fmt: skip

    def _limits(self, now: float) -> list[dict[str, Any]]:
        """The fullest first: how far somebody's quota was used, at most, in the last window or two."""
        rows: list[dict[str, Any]] = []
        for name, usage in self._proxy.compiled.usage.items():
            used, key = usage.fullest.seen(now)
            rows.append(
                {"rule": name, "used": round(used, 3), "key": key, "admitted": usage.admitted, "denied": usage.denied,
                 "shadowed": usage.shadowed}
            )  # fmt: skip
        rows.sort(key=lambda row: (-row["used"], row["rule"]))
        return rows[:SHOWN]

    def _bans(self) -> dict[str, Any]:
        rows = [
            {"subject": ban.subject, "seconds": round(ban.seconds), "level": ban.level, "reason": ban.reason}
            for ban in self._proxy.compiled.ban_list
        ]
        return {"of": len(rows), "rows": rows[:SHOWN]}

    def _sockets(self, now: float) -> dict[str, Any]:
        sessions = sorted(self._proxy.listener.sessions, key=lambda one: one.opened)
        return {"of": len(sessions), "rows": [one.shown(now) for one in sessions[:SHOWN]]}


def _breaker(breaker: Breaker | None) -> dict[str, Any] | None:
    if breaker is None:
        return None
    return {
        "state": breaker.state.value, "forced": breaker.forced, "probes_in": round(breaker.retry_after, 1),
        "refused": breaker.refused, "trips": breaker.trips,
    }  # fmt: skip


def _quantile(share: float, now: tuple[int, ...], before: tuple[int, ...]) -> float | None:
    """The bound in milliseconds under which that share of what came since lies; None where nothing came."""
    counts = [new - old for new, old in zip(now, before, strict=True)]
    running, sums = 0, []
    for count in counts:
        running += count
        sums.append(running)
    if not running:
        return None
    index = bisect_left(sums, share * running)
    return DURATIONS[min(index, len(DURATIONS) - 1)] * 1000


def _resident() -> int:
    """Bytes, as the kernel says."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE
