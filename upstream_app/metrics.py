"""Prometheus metrics: HTTP by route template, business, cache, MongoDB, event loop. Labels are names, never values."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from pymongo import monitoring

from upstream_app.background import ended
from upstream_app.cache import Cache
from upstream_app.documents import now
from upstream_app.events import Events
from upstream_app.fleet_metrics import of_all
from upstream_app.realtime.feed import Feed
from upstream_app.realtime.hub import Hub
from upstream_app.web.answers import success
from upstream_app.web.endpoint import Call
from upstream_app.web.errors import Handler

log = structlog.get_logger("simplepro.mongo")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW_QUERY_SECONDS = 0.1
SLOW_KEPT = 1_000
LAG_EVERY = 0.25


class Business:
    """What the company does, counted in this process."""

    def __init__(self) -> None:
        self.customers = 0
        self.estimates = 0
        self.jobs = 0


class Commands(monitoring.CommandListener):
    """How long the database takes, by command; slow ones by their shape, the last SLOW_KEPT of them."""

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        self._shapes: dict[int, str] = {}
        self.slow: deque[dict[str, Any]] = deque(maxlen=SLOW_KEPT)
        self.slow_ever = 0
        self.failures = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate", "update", "insert", "delete", "count", "findAndModify"):
            self._shapes[event.request_id] = shape(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._ended(event.request_id, event.command_name, event.duration_micros / 1e6)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.failures += 1
        self._ended(event.request_id, event.command_name, event.duration_micros / 1e6)

    def _ended(self, request: int, name: str, seconds: float) -> None:
        asked = self._shapes.pop(request, "")
        self._seconds.labels(name).observe(seconds)
        if seconds > SLOW_QUERY_SECONDS:
            self.slow_ever += 1
            self.slow.append({"command": name, "shape": asked, "milliseconds": round(seconds * 1000, 1), "at": now()})
            log.warning("slow query", command=name, shape=asked, milliseconds=round(seconds * 1000, 1))


def shape(command: Any) -> str:
    """Collection and the fields that are asked for, without what they are compared with."""
    name = next(iter(command))
    conditions = command.get("filter") or command.get("query") or {}
    if not conditions and command.get("updates"):
        conditions = command["updates"][0].get("q", {})
    return f"{command[name]}({', '.join(sorted(_fields(conditions)))})"[:200]


def _fields(conditions: Any) -> Iterator[str]:
    for key, value in conditions.items():
        if key in ("$and", "$or"):
            for one in value:
                yield from _fields(one)
        else:
            yield re.sub(r"\.\d+", "", key)


class Pools(monitoring.ConnectionPoolListener):
    """Connections to the database that are open, and in use."""

    def __init__(self) -> None:
        self.open = self.used = 0

    def pool_created(self, event: Any) -> None: ...
    def pool_ready(self, event: Any) -> None: ...
    def pool_cleared(self, event: Any) -> None: ...
    def pool_closed(self, event: Any) -> None: ...
    def connection_ready(self, event: Any) -> None: ...
    def connection_check_out_started(self, event: Any) -> None: ...
    def connection_check_out_failed(self, event: Any) -> None: ...

    def connection_created(self, event: Any) -> None:
        self.open += 1

    def connection_closed(self, event: Any) -> None:
        self.open -= 1

    def connection_checked_out(self, event: Any) -> None:
        self.used += 1

    def connection_checked_in(self, event: Any) -> None:
        self.used -= 1


class Metrics:
    """One registry an application; `cache` is told once there is one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "http_requests_total", "Answers", ["method", "route", "status"], registry=self._registry
        )
        self._errors = Counter("http_errors_total", "Answers of 500 and more", ["route"], registry=self._registry)
        self._seconds = Histogram(
            "http_request_duration_seconds", "Time to answer", ["route"], registry=self._registry, buckets=SECONDS
        )
        queries = Histogram(
            "mongo_command_duration_seconds", "By command", ["command"], registry=self._registry, buckets=SECONDS
        )
        self._lag = Histogram(
            "event_loop_lag_seconds", "How late the event loop wakes", registry=self._registry, buckets=SECONDS
        )
        self.commands = Commands(queries)
        self.pools = Pools()
        self.business = Business()
        self.cache: Cache | None = None
        self.events: Events | None = None
        self.hub: Hub | None = None
        self.feed: Feed | None = None
        self.database_up = True
        self.lag = 0.0
        self._watch: asyncio.Task[None] | None = None
        self._registry.register(self)

    def start(self) -> None:
        self._watch = asyncio.create_task(self._watch_lag(), name="loop lag")

    async def close(self) -> None:
        await ended(self._watch)

    async def _watch_lag(self) -> None:
        while True:
            due = perf_counter() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self.lag = max(0.0, perf_counter() - due)
            self._lag.observe(self.lag)

    @web.middleware
    async def measure(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = perf_counter()
        response = await handler(request)
        resource = request.match_info.route.resource
        route = resource.canonical if resource else "-"
        self._requests.labels(request.method, route, str(response.status)).inc()
        if not isinstance(response, web.WebSocketResponse):
            self._seconds.labels(route).observe(perf_counter() - began)
        if response.status >= 500:
            self._errors.labels(route).inc()
        return response

    async def slow_queries(self, call: Call) -> web.Response:
        """By shape how often, the longest and the last, of the last SLOW_KEPT of this process."""
        shapes: dict[str, dict[str, Any]] = {}
        for one in self.commands.slow:
            name = f"{one['command']} {one['shape']}"
            row = shapes.setdefault(
                name, {"command": one["command"], "shape": one["shape"], "count": 0, "longestMs": 0.0}
            )
            row["count"] += 1
            row["longestMs"] = max(row["longestMs"], one["milliseconds"])
            row["lastMs"], row["lastAt"] = one["milliseconds"], one["at"]
        rows = sorted(shapes.values(), key=lambda row: -row["longestMs"])
        return success({"thresholdMs": SLOW_QUERY_SECONDS * 1000, "queries": rows})

    async def page(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(generate_latest, self._registry)
        if request.query.get("own") is None:
            text = await of_all(text, "/metrics?own=1")
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def collect(self) -> Iterator[Metric]:
        for name in ("customers", "estimates", "jobs"):
            made = getattr(self.business, name)
            yield CounterMetricFamily(f"business_{name}_created", f"{name.capitalize()} made", made)
        yield GaugeMetricFamily("database_connected", "1 while MongoDB answers", float(self.database_up))
        yield GaugeMetricFamily("mongo_pool_connections_open", "Connections", self.pools.open)
        yield GaugeMetricFamily("mongo_pool_connections_used", "In use", self.pools.used)
        yield CounterMetricFamily("mongo_commands_failed", "Commands that failed", self.commands.failures)
        yield CounterMetricFamily("mongo_slow_commands", "Slower than 100 ms", self.commands.slow_ever)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        yield GaugeMetricFamily("process_memory_bytes", "Resident", resident)
        yield CounterMetricFamily("process_cpu_seconds", "User and system", process_time())
        if self.events is not None and self.hub is not None and self.feed is not None:
            yield CounterMetricFamily("events_published", "Told to all instances", self.events.published)
            yield CounterMetricFamily("events_dropped", "That could not be told", self.events.dropped)
            yield CounterMetricFamily("events_rewound", "Losses of the store's newest events", self.feed.rewound)
            yield GaugeMetricFamily("websocket_connections", "Open", len(self.hub.sockets))
            yield CounterMetricFamily("websocket_events", "Delivered to clients", self.hub.delivered)
        if self.cache is not None:
            stats = self.cache.stats
            hits = CounterMetricFamily("cache_hits", "By level", labels=["level"])
            hits.add_metric(["first"], stats.first_hits)
            hits.add_metric(["second"], stats.second_hits)
            hits.add_metric(["stale"], stats.stale_hits)
            yield hits
            yield CounterMetricFamily("cache_misses", "Read from the database", stats.misses)
            yield CounterMetricFamily("cache_errors", "Redis did not answer", stats.errors)
            yield CounterMetricFamily("cache_invalidations", "Writes that made entries stale", stats.invalidations)
            yield GaugeMetricFamily("cache_latency_seconds", "Second level, moving average", stats.milliseconds / 1000)
