"""The counters of `telemetry.stats` as Prometheus families, made when asked for. Labels are names from the policy."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_latest

from breaker import State
from proxy import __version__
from proxy.cache.edges import Edges
from proxy.control.reload import Reloader
from proxy.fleet.jwks import KeySource
from proxy.fleet.redis import Fleet
from proxy.listener.overload import resident
from proxy.listener.server import Listener
from proxy.policy.compile import Compiled, Shared
from proxy.telemetry import logs
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.stats import RouteStats
from proxy.telemetry.traces import Traces
from proxy.throttle.distributed import RedisLimiter

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def _with_examples(family: HistogramMetricFamily, stats: RouteStats) -> None:
    """On the buckets of this route, which are the family's last samples but two."""
    first = len(family.samples) - len(stats.durations.buckets) - 2
    for bucket, (trace, seconds, at) in stats.examples.items():
        sample = family.samples[first + bucket]
        family.samples[first + bucket] = sample._replace(exemplar=Exemplar({"trace_id": trace}, seconds, at))


_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Metrics:
    """A prometheus-client collector over one listener."""

    def __init__(
        self,
        listener: Listener,
        access_log: AccessLog | None,
        compiled: Compiled,
        shared: RedisLimiter | None,
        fleet: Fleet | None,
        key_sources: Sequence[KeySource],
        reloader: Reloader | None = None,
        outlives: Shared | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self._outlives = outlives
        self._reloader = reloader
        self._fleet = fleet
        self._key_sources = key_sources
        self._compiled = compiled
        self._shared = shared
        self._listener = listener
        self._access_log = access_log
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def follow(
        self, compiled: Compiled, shared: RedisLimiter | None, fleet: Fleet | None, key_sources: Sequence[KeySource]
    ) -> None:
        """Another policy runs now."""
        self._compiled, self._shared, self._fleet, self._key_sources = compiled, shared, fleet, key_sources

    def expose(self, *, openmetrics: bool = False) -> bytes:
        """In OpenMetrics' form durations have examples: the trace of one exchange in each bucket."""
        if not openmetrics:
            return generate_latest(self._registry)
        made: bytes = openmetrics_latest(self._registry)  # type: ignore[no-untyped-call]  # it has no types
        return made

    def collect(self) -> Iterator[Metric]:
        yield from self._routes()
        yield from self._clusters()
        yield from self._process()
        yield from self._limits()
        yield from self._told()
        if self._traces is not None:
            yield CounterMetricFamily("proxy_spans", "Spans given to the exporter", self._traces.spans)
            yield CounterMetricFamily("proxy_spans_skipped", "Spans past traces.most", self._traces.skipped)
        if self._outlives is not None and self._outlives.edges is not None:
            yield from _cache(self._outlives.edges)
        if self._reloader is not None:
            yield from _policy(self._reloader)

    def _routes(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "proxy_requests", "Exchanges that ended, by answer status", labels=["route", "status"]
        )
        seconds = HistogramMetricFamily(
            "proxy_request_duration_seconds", "Head received to answer ended", labels=["route"]
        )
        size_in = HistogramMetricFamily("proxy_request_size_bytes", "Request bodies", labels=["route"])
        size_out = HistogramMetricFamily("proxy_response_size_bytes", "Response bodies", labels=["route"])
        in_flight = GaugeMetricFamily("proxy_requests_in_flight", "Exchanges that run now", labels=["route"])
        for stats in (*(route.stats for route in self._listener.routes.routes), self._listener.unrouted):
            for status, count in list(stats.statuses.items()):
                requests.add_metric([stats.route, str(status)], count)
            in_flight.add_metric([stats.route], stats.in_flight)
            for family, histogram in (
                (seconds, stats.durations),
                (size_in, stats.bytes_in),
                (size_out, stats.bytes_out),
            ):
                family.add_metric([stats.route], histogram.cumulative(), histogram.total)
            _with_examples(seconds, stats)
        rejections = CounterMetricFamily("proxy_rejections", "Refusals", labels=["rule", "reason", "mode"])
        for key, count in list(self._listener.stats.rejections.items()):
            rejections.add_metric(list(key), count)
        changes = CounterMetricFamily(
            "proxy_changes", "Fields that rules changed, or would have", labels=["rule", "change", "mode"]
        )
        for key, count in list(self._listener.stats.changes.items()):
            changes.add_metric(list(key), count)
        yield from (requests, seconds, size_in, size_out, in_flight, rejections, changes)
        yield from self._sockets()

    def _sockets(self) -> Iterator[Metric]:
        opened = CounterMetricFamily("proxy_websockets_opened", "Upgrades that were answered 101", labels=["route"])
        now = GaugeMetricFamily("proxy_websockets_open", "WebSockets that are open now", labels=["route"])
        closed = CounterMetricFamily(
            "proxy_websockets_closed", "By code, and the side that began it", labels=["route", "code", "side"]
        )
        messages = CounterMetricFamily("proxy_websocket_messages", "Passed on", labels=["route", "direction"])
        size = CounterMetricFamily("proxy_websocket_bytes", "Read, frame heads included", labels=["route", "direction"])
        dropped = CounterMetricFamily("proxy_websocket_dropped", "Not sent to slow clients", labels=["route"])
        handshakes = HistogramMetricFamily(
            "proxy_websocket_handshake_seconds", "Handshake received to 101 sent", labels=["route"]
        )
        latency = HistogramMetricFamily(
            "proxy_websocket_latency_seconds", "A piece read to its frames handed on; one in 32", labels=["route"]
        )
        buffered = GaugeMetricFamily(
            "proxy_websocket_buffered_bytes", "Unsent or not judged yet, both ways", labels=["route"]
        )
        waiting: Counter[str] = Counter()
        for session in self._listener.sessions:
            if session.exchange.route is not None:
                waiting[session.exchange.route.name] += session.buffered
        for name, count in waiting.items():
            buffered.add_metric([name], count)
        for route in self._listener.routes.routes:
            seen, name = route.stats.sockets, route.name
            if not seen.opened:
                continue
            latency.add_metric([name], seen.latency.cumulative(), seen.latency.total)
            opened.add_metric([name], seen.opened)
            now.add_metric([name], seen.open)
            for (code, side), count in list(seen.closed.items()):
                closed.add_metric([name, str(code), side], count)
            for direction, sent, read in (
                ("client", seen.messages_in, seen.bytes_in), ("upstream", seen.messages_out, seen.bytes_out),
            ):  # fmt: skip
                messages.add_metric([name, direction], sent)
                size.add_metric([name, direction], read)
            dropped.add_metric([name], seen.dropped)
            handshakes.add_metric([name], seen.handshakes.cumulative(), seen.handshakes.total)
        yield from (opened, now, closed, messages, size, dropped, buffered, handshakes, latency)

    def _clusters(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily("proxy_upstream_requests", "Exchanges by outcome", labels=["cluster", "outcome"])
        seconds = HistogramMetricFamily(
            "proxy_upstream_duration_seconds", "Request sent to answer head", labels=["cluster"]
        )
        retries = CounterMetricFamily(
            "proxy_upstream_retries", "Attempts made again, by what they came after", labels=["cluster", "after"]
        )
        pools = GaugeMetricFamily(
            "proxy_upstream_connections", "Connections by state", labels=["cluster", "endpoint", "state"]
        )
        pooled = CounterMetricFamily(
            "proxy_upstream_pool", "What became of wishes for a connection", labels=["cluster", "endpoint", "event"]
        )
        running = GaugeMetricFamily("proxy_upstream_requests_running", "Requests that run now", labels=["cluster"])
        limit = GaugeMetricFamily("proxy_upstream_requests_limit", "How many may run at once", labels=["cluster"])
        refused = CounterMetricFamily("proxy_upstream_refused", "Requests refused for load", labels=["cluster", "by"])
        fallbacks = CounterMetricFamily("proxy_upstream_fallbacks", "Answers by a fallback", labels=["cluster", "kind"])
        hedges = CounterMetricFamily("proxy_upstream_hedges", "Second attempts beside slow ones", labels=["cluster"])
        budget = CounterMetricFamily("proxy_upstream_retries_refused", "Retries beyond the budget", labels=["cluster"])
        for cluster in self._listener.clusters.values():
            stats = cluster.stats
            for outcome, count in list(stats.outcomes.items()):
                outcomes.add_metric([cluster.name, outcome], count)
            seconds.add_metric([cluster.name], stats.durations.cumulative(), stats.durations.total)
            for kind, count in list(stats.retries.items()):
                retries.add_metric([cluster.name, kind], count)
            for kind, count in list(stats.refused.items()):
                refused.add_metric([cluster.name, kind], count)
            for kind, count in list(stats.fallbacks.items()):
                fallbacks.add_metric([cluster.name, kind], count)
            running.add_metric([cluster.name], cluster.running)
            limit.add_metric([cluster.name], cluster.limit)
            hedges.add_metric([cluster.name], stats.hedges)
            budget.add_metric([cluster.name], cluster.budget.refused)
            for endpoint in cluster.endpoints:
                pool = endpoint.pool
                at = [cluster.name, endpoint.address]
                for state, count in (("open", len(pool.open)), ("idle", pool.idle), ("waiting", pool.waiting)):
                    pools.add_metric([*at, state], count)
                for event in ("connects", "connect_failures", "refused", "reused"):
                    pooled.add_metric([*at, event], getattr(pool.stats, event))
        yield from (outcomes, seconds, retries, pools, pooled, running, limit, refused, fallbacks, hedges, budget)
        yield from self._breakers()

    def _breakers(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("proxy_breaker_state", "0 closed, 1 half-open, 2 open", labels=["breaker"])
        trips = CounterMetricFamily("proxy_breaker_trips", "Times it opened, and why", labels=["breaker", "reason"])
        would = CounterMetricFamily(
            "proxy_breaker_would_trip", "Times a shadowing detector would have", labels=["breaker", "detector"]
        )
        forced = GaugeMetricFamily("proxy_breaker_forced", "1 where held by hand", labels=["breaker", "state"])
        panics = CounterMetricFamily("proxy_panics", "Picks among all, so few being fit", labels=["cluster"])
        checks = CounterMetricFamily("proxy_health_checks", "Checks by outcome", labels=["cluster", "outcome"])
        refused = CounterMetricFamily("proxy_breaker_refused", "Attempts not let through", labels=["breaker"])
        healthy = GaugeMetricFamily("proxy_endpoint_healthy", "1 where checks pass", labels=["cluster", "endpoint"])
        ejected = GaugeMetricFamily("proxy_endpoint_ejected", "1 while left out", labels=["cluster", "endpoint"])
        ejections = CounterMetricFamily(
            "proxy_ejections", "By detector and mode", labels=["cluster", "detector", "mode"]
        )
        for cluster in self._listener.clusters.values():
            panics.add_metric([cluster.name], cluster.stats.panics)
            if cluster.checker is not None:
                for outcome, count in cluster.checker.checks.items():
                    checks.add_metric([cluster.name, outcome], count)
            for breaker in cluster.breakers:
                for one in ("open", "closed"):
                    forced.add_metric([breaker.name, one], float(breaker.forced == one))
                state.add_metric([breaker.name], _STATES[breaker.state])
                refused.add_metric([breaker.name], breaker.refused)
                for reason, count in list(breaker.trips.items()):
                    trips.add_metric([breaker.name, reason], count)
                for detector, count in list(breaker.would_trip.items()):
                    would.add_metric([breaker.name, detector], count)
            for endpoint in cluster.endpoints:
                healthy.add_metric([cluster.name, endpoint.address], float(endpoint.healthy))
                ejected.add_metric([cluster.name, endpoint.address], float(bool(endpoint.ejected_until)))
            if cluster.outlier is not None:
                for mode, counts in (("enforce", cluster.outlier.ejections), ("shadow", cluster.outlier.shadowed)):
                    for detector, count in list(counts.items()):
                        ejections.add_metric([cluster.name, detector, mode], count)
        yield from (state, forced, trips, would, refused, panics, checks, healthy, ejected, ejections)
        guard = self._listener.guard
        yield GaugeMetricFamily("proxy_overload_level", "0 calm, 1 strained, 2 overloaded", guard.level)
        yield CounterMetricFamily("proxy_overload_refused", "Requests refused for overload", guard.refused)

    def _limits(self) -> Iterator[Metric]:
        usage = CounterMetricFamily("proxy_limit_decisions", "Charges by quota and verdict", labels=["rule", "verdict"])
        for name, seen in list(self._compiled.usage.items()):
            for verdict in ("admitted", "denied", "shadowed"):
                usage.add_metric([name, verdict], getattr(seen, verdict))
        yield usage
        bans = self._compiled.ban_list
        yield GaugeMetricFamily("proxy_bans", "Bans that hold now", sum(1 for _ in bans))
        yield CounterMetricFamily("proxy_bans_added", "Bans that this sidecar began", bans.added)
        if self._shared is None:
            return
        store = self._shared.store
        yield GaugeMetricFamily("proxy_store_up", "1 while the store answers", float(store.available))
        yield GaugeMetricFamily("proxy_store_peers", "Live sidecars, as last known", self._shared.peers)
        decided = CounterMetricFamily("proxy_limit_decided", "Decisions by who made them", labels=["by"])
        for by, count in self._shared.decisions.items():
            decided.add_metric([by], count)
        failures = CounterMetricFamily("proxy_store_failures", "Commands without an answer", labels=["reason"])
        for reason, count in list(store.stats.failures.items()):
            failures.add_metric([reason], count)
        latency = HistogramMetricFamily("proxy_store_duration_seconds", "Command asked to answered")
        latency.add_metric([], store.stats.latency.cumulative(), store.stats.latency.total)
        yield from (decided, failures, latency)
        yield CounterMetricFamily("proxy_store_connects", "Connections made to the store", store.stats.reconnects)

    def _told(self) -> Iterator[Metric]:
        """What comes from elsewhere: other sidecars, issuers of tokens."""
        if self._fleet is not None:
            yield GaugeMetricFamily("proxy_fleet_listening", "1 while other sidecars are heard", self._fleet.listening)
            facts = GaugeMetricFamily("proxy_fleet_facts", "What holds for the fleet, by board", labels=["board"])
            for board in self._fleet.boards:
                facts.add_metric([board.name], len(board.facts))
            yield facts
        good = GaugeMetricFamily("proxy_keys_good", "1 where the last look for keys gave some", labels=["source"])
        looks = CounterMetricFamily("proxy_keys_looks", "Looks for keys, by outcome", labels=["source", "outcome"])
        for source in self._key_sources:
            good.add_metric([source.url], float(source.good))
            looks.add_metric([source.url, "ok"], source.fetched)
            looks.add_metric([source.url, "failed"], source.failures)
        yield from (good, looks)

    def _process(self) -> Iterator[Metric]:
        stats = self._listener.stats
        yield GaugeMetricFamily("proxy_connections", "Client connections open", self._listener.open_connections)
        yield CounterMetricFamily("proxy_connections_accepted", "Client connections ever", stats.connections_total)
        ends = GaugeMetricFamily(
            "proxy_certificate_not_after_timestamp_seconds", "Until when it is good", labels=["file"]
        )
        for one in self._listener.certificates:
            ends.add_metric([one.file], one.not_after.timestamp())
        yield ends
        refused = self._listener.certificates_refused
        yield CounterMetricFamily("proxy_certificates_refused", "Changed certificates that can't be used", refused)
        lag = HistogramMetricFamily("proxy_event_loop_lag_seconds", "How late the loop wakes")
        lag.add_metric([], stats.loop_lag.cumulative(), stats.loop_lag.total)
        yield lag
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory", resident())
        yield CounterMetricFamily("process_cpu_seconds", "User and system", time.process_time())
        yield GaugeMetricFamily("process_open_fds", "Open files", len(os.listdir("/proc/self/fd")))
        dropped = self._access_log.dropped if self._access_log else 0
        yield CounterMetricFamily("proxy_access_log_dropped", "Records not written", dropped)
        yield CounterMetricFamily("proxy_log_dropped", "Lines of the proxy's own log not written", logs.sink.dropped)
        info = GaugeMetricFamily("proxy_build_info", "Version", labels=["version", "python"])
        info.add_metric([__version__, platform.python_version()], 1)
        yield info


def _cache(edges: Edges) -> Iterator[Metric]:
    """Results are hit, stale, stale-if-error, revalidated, miss, and bypass- with why."""
    requests = CounterMetricFamily("proxy_cache_requests", "By what the cache made of them", labels=["route", "result"])
    stored = CounterMetricFamily("proxy_cache_stored", "Answers that were kept", labels=["route"])
    unkept = CounterMetricFamily("proxy_cache_not_kept", "Answers that were not, and why", labels=["route", "why"])
    served = CounterMetricFamily("proxy_cache_served_bytes", "Bodies served from it", labels=["route"])
    fills = CounterMetricFamily("proxy_cache_fill_seconds", "Request to kept answer, added up", labels=["route"])
    shadow = CounterMetricFamily(
        "proxy_cache_shadow", "Answers in shadow, beside what would have been served", labels=["route", "body"]
    )
    for route, stats in edges.stats.items():
        for result, count in stats.results.items():
            requests.add_metric([route, result], count)
        for why, count in stats.unkept.items():
            unkept.add_metric([route, why], count)
        stored.add_metric([route], stats.stored)
        served.add_metric([route], stats.bytes_served)
        fills.add_metric([route], stats.fill_seconds)
        for body, count in (("same", stats.same), ("different", stats.wrong)):
            shadow.add_metric([route, body], count)
    yield from (requests, stored, unkept, served, fills, shadow)
    store = edges.store
    yield GaugeMetricFamily("proxy_cache_bytes", "Of what is kept, and is on its way in", store.size + store.pending)
    yield GaugeMetricFamily("proxy_cache_entries", "Answers that are kept", len(store))
    yield CounterMetricFamily("proxy_cache_evictions", "Answers that went for others", store.stats.evictions)
    yield CounterMetricFamily("proxy_cache_purged", "Answers that were purged", store.stats.purged)
    yield CounterMetricFamily("proxy_cache_refused", "Answers with too many under way", store.stats.refused)


def _policy(reloader: Reloader) -> Iterator[Metric]:
    info = GaugeMetricFamily("proxy_policy_info", "The revision that runs", labels=["revision"])
    info.add_metric([reloader.revision], 1)
    yield info
    reloads = CounterMetricFamily("proxy_policy_reloads", "Policy files taken over, or not", labels=["result"])
    for result, count in reloader.counts.items():
        reloads.add_metric([result], count)
    yield reloads
    good = reloader.last.result == "applied"
    yield GaugeMetricFamily("proxy_policy_last_reload_good", "Whether the file that was read last is what runs", good)
    yield GaugeMetricFamily(
        "proxy_policy_applied_timestamp_seconds", "When the policy was applied", reloader.applied_at
    )
