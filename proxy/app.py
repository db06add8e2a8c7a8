"""The composition root: the only place that opens sockets and files and puts the parts together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog

from breaker import Breaker, State
from proxy.addresses import Networks
from proxy.admin.api import Admin
from proxy.cache.edges import Edges
from proxy.cache.second import SecondLevel
from proxy.control.reload import Reloader
from proxy.entropy import Entropy
from proxy.exchange import Exchange, Verdict
from proxy.filters.identity import KeyRing
from proxy.filters.throttle import Throttle
from proxy.fleet.jwks import KeySource
from proxy.fleet.redis import Fleet
from proxy.fleet.sentinel import locator
from proxy.listener.connection import Timeouts
from proxy.listener.door import DoorTerms, inherited
from proxy.listener.overload import OverloadTerms, memory_bound
from proxy.listener.server import Listener, ListenerSettings
from proxy.policy.clusters import server_tls
from proxy.policy.compile import Compiled, Shared, compile_policy
from proxy.policy.limits import address_of
from proxy.policy.model import Policy
from proxy.process import raise_file_limit, settle_memory
from proxy.rejection import Rejection
from proxy.sharing import SharedBreakers
from proxy.target import TargetRules
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.decisions import Decisions
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.shadows import Shadows
from proxy.telemetry.traces import Traces, TraceTerms
from proxy.throttle.cluster import slot_of
from proxy.throttle.distributed import RedisLimiter
from proxy.throttle.link import pack
from proxy.throttle.local import LocalLimiter
from proxy.upstream.cluster import Cluster
from proxy.workers.link import Link

security = structlog.get_logger("security")
log = structlog.get_logger("proxy")
SECURITY_EVENTS_A_SECOND = 50


class Proxy:
    """One running proxy; `serve` returns the exit status once it has drained."""

    def __init__(self, policy: Policy, path: Path | None = None, link: Link | None = None) -> None:
        """`path` is the file that the policy came from, for those who may be told to read it again; `link` leads to the
        parent, where this process is one of several workers."""
        self.policy = policy
        self.link = link
        text = link.worker.text() if link is not None else None
        self.reloader = Reloader(self, path, text) if path is not None else None
        self.revision = self.reloader.revision if self.reloader else "-"
        self.decisions = Decisions(Entropy())
        self.shadows = Shadows()
        self._throttles: list[Throttle] = []
        """Of earlier policies, whose exchanges hold something."""
        self._limiting_began = False
        self.stopping = asyncio.Event()
        self.started = False
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.redis = _shared_limiter(policy)
        self.shared = Shared(self.redis or link or _alone(), workers=link.worker.count if link else 1)
        self.compiled: Compiled = compile_policy(policy, loop, self._on_verdict, self.shared)
        self.shared_breakers = SharedBreakers(self.shared.breakers)
        for cluster in self.compiled.clusters.values():
            self._listen_to(cluster)
        self.fleet = self._fleet()
        self._follow_edges()
        if link is not None:
            self._join(link)
        self.key_sources = [self._key_source(*one) for one in self.compiled.key_rings]
        self.access_log = AccessLog(policy.access_log.sample) if policy.access_log.enabled or path else None
        if self.access_log is not None:
            self.access_log.shared = link is not None
        self.traces = _traces(policy)
        self._log_accesses(policy)
        self.listener = Listener(
            self._listener_settings(policy),
            self.compiled.routes,
            self.compiled.default_chain,
            self.compiled.clusters,
            name=self.compiled.request_id.name,
            completed=self._on_completed,
            rejected=self._on_rejected,
            counts=link.counts if link else None,
        )
        self.metrics = Metrics(
            self.listener,
            self.access_log,
            self.compiled,
            self.limiting,
            self.fleet,
            self.key_sources,
            self.reloader,
            self.shared,
            self.traces,
        )
        self.admin = Admin(self)
        self._events_second = 0
        self._events = 0

    @property
    def limiting(self) -> RedisLimiter | None:
        """The shared limiter, where any rule asks it or its store."""
        return self.redis if self.compiled.uses_store else None

    def _fleet(self) -> Fleet | None:
        limiting = self.limiting
        if limiting is None or self.policy.redis is None:
            return None
        account = address_of(self.policy.redis)
        shared = self.shared
        boards = (shared.bans, shared.revoked, shared.breakers, shared.purges, shared.purged)
        fleet = Fleet(limiting.store, account, self.policy.redis.prefix, boards)
        for cluster in self.compiled.clusters.values():
            self.shared_breakers.with_fleet(cluster, fleet, limiting)
        return fleet

    def _follow_edges(self) -> None:
        """How many processes have to forget what is purged."""
        edges, limiting, link = self.shared.edges, self.limiting, self.link
        if edges is not None:
            alone = link.worker.count if link is not None else 1
            edges.peers = (lambda: limiting.peers) if limiting is not None else (lambda: alone)
            edges.share(self._second_level(edges))

    def _second_level(self, edges: Edges) -> SecondLevel | None:
        wanted, limiting, settings = self.policy.cache.redis, self.limiting, self.policy.redis
        if wanted is None or limiting is None or settings is None:
            return None
        store = limiting.store

        def ask(
            script: str, keys: tuple[str, ...], arguments: tuple[bytes | str | int, ...], then: Callable[[Any], None]
        ) -> None:
            store.ask(pack("EVAL", script, len(keys), *keys, *arguments), then, slot_of(keys[0]))

        return SecondLevel(
            ask, settings.prefix, self.shared.name, wanted.max_body, edges.store, self._loop.call_later,
            lambda: store.available and self.fleet is not None and self.fleet.listening,
        )  # fmt: skip

    def _join(self, link: Link) -> None:
        """What the workers of this sidecar know together; bans and the like by the store, where there is one."""
        boards = [self.shared_breakers.board]
        if self.redis is None:
            boards += [self.shared.bans, self.shared.revoked, self.shared.purges, self.shared.purged]
        link.join(boards)
        for cluster in self.compiled.clusters.values():
            self.shared_breakers.with_workers(cluster, link)
        reloader = self.reloader
        if reloader is not None:
            reloader.on_revert.append(link.reverted)
            link.on_revert.append(reloader.revert)
            reloader.on_apply.append(link.applied)
            link.on_take = reloader.take

    def _listen_to(self, cluster: Cluster) -> None:
        for breaker in cluster.breakers:
            breaker.on_change.append(self._log_breaker)

    async def apply(self, policy: Policy) -> None:
        """Serve by this policy from the next request on. Raises ValueError or OSError, and nothing has changed then.

        Clusters that are the same keep their connections and breakers; what runs keeps the policy that it began under.
        """
        before = self.compiled
        compiled = compile_policy(policy, self._loop, self._on_verdict, self.shared, before)
        sources = [self._key_source(*one) for one in compiled.key_rings]
        for source in sources:
            await source.start()
        new = [one for one in compiled.clusters.values() if before.clusters.get(one.name) is not one]
        try:
            await self.listener.change(
                self._listener_settings(policy), compiled.routes, compiled.default_chain, compiled.clusters,
                compiled.request_id.name,
            )  # fmt: skip
        except (OSError, ValueError):
            for source in sources:
                await source.close()
            raise
        self.policy, self.compiled = policy, compiled
        self._follow_edges()
        old_sources, self.key_sources = self.key_sources, sources
        for name in before.clusters:
            if compiled.clusters.get(name) is not before.clusters[name]:
                self.shared_breakers.leave(name)
        for cluster in new:
            self._listen_to(cluster)
            if self.fleet is not None and self.limiting is not None:
                self.shared_breakers.with_fleet(cluster, self.fleet, self.limiting)
            if self.link is not None:
                self.shared_breakers.with_workers(cluster, self.link)
            cluster.start()
        self.listener.reconnect_within = policy.listener.drain if policy.reload.sockets == "reconnect" else 0.0
        if self.listener.reconnect_within:
            for session in self.listener.sessions:
                session.drain(self.listener.reconnect_within)
        self._throttles = [one for one in (*self._throttles, *before.throttles) if one.holds]
        if self.fleet is None:
            self.fleet = self._fleet()
            if self.fleet is not None and self.started:
                await self._begin_limiting()
        self._log_accesses(policy)
        self.metrics.follow(compiled, self.limiting, self.fleet, sources)
        for source in old_sources:
            await source.close()

    def _listener_settings(self, policy: Policy) -> ListenerSettings:
        return _listener_settings(policy, self.link.worker.count if self.link else 1)

    def _log_accesses(self, policy: Policy) -> None:
        if self.access_log is not None:
            self.access_log.sample(policy.access_log.sample if policy.access_log.enabled else None)
            self.access_log.logfmt = policy.access_log.format == "logfmt"

    async def _begin_limiting(self) -> None:
        if self.limiting is not None and not self._limiting_began:
            self._limiting_began = True
            await self.limiting.start()
        if self.fleet is not None:
            self.fleet.start()

    def outcomes(self) -> tuple[int, int]:
        """How many answers were refusals or failures so far, and how many there were; for the running routes."""
        bad = every = 0
        for stats in (*(route.stats for route in self.listener.routes.routes), self.listener.unrouted):
            for status, count in stats.statuses.items():
                every += count
                bad += count if status in _BAD else 0
        return bad, every

    def _log_breaker(self, breaker: Breaker, old: State, new: State, reason: str) -> None:
        log.warning(
            "breaker", breaker=breaker.name, old=old.value, new=new.value, reason=reason,
            probes_in=round(breaker.retry_after, 1),
        )  # fmt: skip

    def _key_source(self, url: str, refresh: float, ring: KeyRing) -> KeySource:
        source = KeySource(url, refresh, ring.turn)
        ring.on_unknown = source.want
        return source

    @property
    def degraded(self) -> str:
        """What is amiss though requests are served; empty where nothing is."""
        limiting = self.limiting
        return "" if limiting is None else limiting.trouble

    @property
    def ready(self) -> bool:
        return self.started and not self.listener.draining and not self.stopping.is_set()

    def _on_verdict(self, exchange: Exchange, verdict: Verdict) -> None:
        if verdict.detail:
            mode = "enforce" if verdict.enforced else "shadow"
            self.listener.stats.changes[verdict.rule, verdict.detail, mode] += 1
        elif not verdict.enforced:
            self.listener.stats.rejections[verdict.rule, verdict.reason, "shadow"] += 1
            self.shadows.see(exchange, verdict, self.revision)

    def _on_rejected(self, exchange: Exchange, rejection: Rejection) -> None:
        self.listener.stats.rejections[rejection.rule, rejection.reason, "enforce"] += 1
        exchange.decision = self.decisions.add(exchange, rejection, self.revision)
        second = int(self._loop.time())
        if second != self._events_second:
            self._events_second, self._events = second, 0
        self._events += 1
        if self._events <= SECURITY_EVENTS_A_SECOND:
            security.warning(
                "refused",
                rule=rejection.rule,
                reason=rejection.reason,
                status=rejection.status,
                detail=rejection.detail,
                request_id=exchange.request_id.decode(),
                decision=exchange.decision.decode(),
            )

    def _on_completed(self, exchange: Exchange) -> None:
        seconds = perf_counter() - exchange.began
        route = exchange.route
        seen = self.listener.unrouted if route is None else route.stats
        seen.record(exchange.status, seconds, exchange.bytes_in, exchange.bytes_out)
        if exchange.cluster is not None:
            stats = exchange.cluster.stats
            if exchange.upstream_time >= 0:
                stats.outcomes[_CLASSES[exchange.status // 100]] += 1
                stats.durations.observe(exchange.upstream_time)
            else:
                stats.outcomes[exchange.rejection or exchange.failure or "unknown"] += 1
        if self.access_log is not None:
            self.access_log.emit(exchange, seconds)
        if exchange.sampled and self.traces is not None:
            self.traces.ended(exchange, seconds)
            seen.example(exchange.traceparent[3:35].decode(), seconds)

    async def start(self) -> None:
        """Open the sockets; raises OSError where an address can't be had."""
        raise_file_limit()
        if self.access_log is not None:
            self.access_log.start()
        await self._begin_limiting()
        for source in self.key_sources:
            await source.start()
        for cluster in self.compiled.clusters.values():
            cluster.start()
        link = self.link
        if link is not None:
            await link.start()
        given = link.worker.given() if link else inherited(os.environ)
        await self.listener.start(given)
        await self.admin.start(given.get("admin"), f"unix:{link.worker.admin}" if link else "")
        settle_memory()
        self.started = True
        if self.reloader is not None:
            self.reloader.start()
        if link is not None:
            link.ready(self.reloader.text if self.reloader else b"")

    def end(self) -> None:
        """Whoever hears that it is not ready any more has also heard that its connections close."""
        self.listener.begin_drain(self.policy.listener.drain)
        self.stopping.set()

    async def stop(self, drain: float) -> bool:
        """Drain and give everything back; True where every exchange ended in time."""
        if self.reloader is not None:
            await self.reloader.close()
        ended = await self.listener.drain(drain)
        await self.listener.close()
        await self.admin.close()
        for source in self.key_sources:
            await source.close()
        for throttle in (*self.compiled.throttles, *self._throttles):
            throttle.close()
        if self.fleet is not None:
            await self.fleet.close()
        if self.redis is not None:
            await self.redis.close()
        if self.link is not None:
            self.link.last(self.metrics.expose().decode())
            await self.link.close()
        if self.traces is not None:
            await self.traces.close()
        if self.access_log is not None:
            await self.access_log.close()
        return ended


_BAD = frozenset({400, 401, 403, 413, 415, 429, *range(500, 600)})
"""What a policy that is wrong makes of good requests."""
_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


def _traces(policy: Policy) -> Traces | None:
    given = policy.traces
    if given is None:
        return None
    headers = tuple((name, value.get_secret_value()) for name, value in given.headers.items())
    return Traces(TraceTerms(given.endpoint, given.service, given.most, headers))


def _shared_limiter(policy: Policy) -> RedisLimiter | None:
    if policy.redis is None:
        return None
    address = address_of(policy.redis)
    nodes = tuple(policy.redis.nodes) or ((address.host, address.port),) if policy.redis.cluster else ()
    sentinel = policy.redis.sentinel
    locate = None
    if sentinel is not None:
        password = sentinel.password.get_secret_value() if sentinel.password else ""
        account = replace(address, username=sentinel.username, password=password, tls=sentinel.tls)
        locate = locator(tuple(sentinel.nodes), sentinel.master, account)
    return RedisLimiter(address, policy.redis.prefix, policy.redis.timeout, nodes, locate, policy.redis.peers)


def _alone() -> LocalLimiter:
    """Without Redis, limits hold for this sidecar alone."""
    return LocalLimiter(lambda: time.monotonic() * 1000)


def _listener_settings(policy: Policy, workers: int) -> ListenerSettings:
    """Connections are counted over all workers; their rate, and memory, each by its share."""
    listener = policy.listener
    bounds, times = listener.bounds, listener.timeouts
    http = listener.http.model_dump()
    underscored = http.pop("underscored_headers")
    return ListenerSettings(
        door=DoorTerms(*listener.address, bounds.backlog, server_tls(listener.tls), listener.proxy_protocol),
        redirect=DoorTerms(*listener.redirect.address, bounds.backlog) if listener.redirect else None,
        redirect_port=listener.redirect.port if listener.redirect else 0,
        timeouts=Timeouts(times.head, times.idle, times.body_progress, times.min_body_rate, times.write_stall),
        target=TargetRules(**http),
        trusted=Networks(policy.trusted_proxies),
        underscored_headers=underscored,
        max_head=bounds.head,
        max_fields=bounds.fields,
        max_pipelined=bounds.pipelined,
        max_connections=bounds.connections,
        per_client=bounds.connections_per_client,
        connection_rate=-(-bounds.connection_rate // workers),
        overload=OverloadTerms(
            (memory_bound() if listener.overload.memory is None else listener.overload.memory) // workers,
            listener.overload.loop_lag,
            listener.overload.relief,
        ),
    )
