"""Accepts connections, counts them, sweeps their deadlines, and drains."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from proxy.addresses import Networks, normalise
from proxy.batch import TickWriter
from proxy.exchange import Exchange
from proxy.filter import FilterChain
from proxy.forwarding import Peer
from proxy.listener.http1 import Downstream, Timeouts
from proxy.listener.overload import OverloadGuard, OverloadTerms, resident
from proxy.listener.websocket import Session
from proxy.rejection import Rejection
from proxy.routing import RouteTable
from proxy.target import TargetRules
from proxy.telemetry.stats import ListenerStats, RouteStats
from proxy.upstream.cluster import Cluster

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Bounds in bytes and counts; `per_client` counts connections of one untrusted address, `connection_rate` those
    that it opens in a second."""

    host: str
    port: int
    timeouts: Timeouts
    target: TargetRules
    trusted: Networks
    underscored_headers: str
    max_head: int
    max_fields: int
    max_pipelined: int
    max_connections: int
    per_client: int
    connection_rate: int
    backlog: int
    overload: OverloadTerms


class Listener:
    """One address that clients connect to; `routes` is swapped whole on reload."""

    def __init__(
        self,
        settings: ListenerSettings,
        routes: RouteTable,
        default_chain: FilterChain,
        clusters: dict[str, Cluster],
        name: Callable[[Exchange], None],
        completed: Callable[[Exchange], None],
        rejected: Callable[[Exchange, Rejection], None],
    ) -> None:
        self.settings = settings
        self.routes = routes
        self.default_chain = default_chain
        self.clusters = clusters
        self.loop = asyncio.get_running_loop()
        self.stats = ListenerStats()
        self.draining = False
        self.guard = OverloadGuard(settings.overload)
        self.name = name
        self.on_exchange_end = completed
        self.on_rejected = rejected
        self.first_check = min(settings.timeouts.body_progress, SWEEP_SECONDS * 4)
        self._connections: set[Downstream] = set()
        self._by_client: defaultdict[str, int] = defaultdict(int)
        self.unrouted = RouteStats("-")
        """Requests that met no route, or were refused before one was looked for."""
        self._arrived: defaultdict[str, int] = defaultdict(int)
        self._second = 0
        self.writer = TickWriter(self.loop)
        self._retired: list[Cluster] = []
        """Clusters of earlier policies that exchanges still use."""
        self.stand_in = ""
        """An address to take every client for, where a policy is only asked."""
        self._one_left = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1]) if self._server else self.settings.port

    async def start(self) -> None:
        """Listen; raises OSError where the address can't be had."""
        self._server = await self._listen(self.settings)
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep")

    async def change(
        self,
        settings: ListenerSettings,
        routes: RouteTable,
        default_chain: FilterChain,
        clusters: dict[str, Cluster],
        name: Callable[[Exchange], None],
    ) -> None:
        """Another policy from the next request on. An address that changed is opened before the old one is closed;
        raises OSError, with nothing changed, where it can't be had."""
        old, server = self.settings, self._server
        if (settings.host, settings.port) != (old.host, old.port):
            server = await self._listen(settings)
        if settings.overload != old.overload:
            self.guard = OverloadGuard(settings.overload)
        kept = set(map(id, clusters.values()))
        self._retired += [one for one in self.clusters.values() if id(one) not in kept]
        self.settings, self.routes, self.default_chain = settings, routes, default_chain
        self.clusters, self.name = clusters, name
        if server is not self._server and self._server is not None:
            self._server.close()
        self._server = server

    async def _listen(self, settings: ListenerSettings) -> asyncio.Server:
        return await self.loop.create_server(
            lambda: Downstream(self), settings.host, settings.port, backlog=settings.backlog, reuse_address=True
        )

    def peer_of(self, peername: tuple[str, int] | None) -> Peer:
        address = self.stand_in or (normalise(peername[0]) if peername else None)
        address = address or "0.0.0.0"  # noqa: S104  # nosec B104  # an address to report, not to bind
        return Peer(address, b"http", address in self.settings.trusted)

    def floods(self, peer: Peer) -> bool:
        """Whether this client opens connections faster than it may; they are closed unread."""
        if peer.trusted:
            return False
        second = int(self.loop.time())
        if second != self._second:
            self._second = second
            self._arrived.clear()
        self._arrived[peer.holder] += 1
        if self._arrived[peer.holder] <= self.settings.connection_rate:
            return False
        self.stats.rejections["listener.connection_rate", "connection-flood", "enforce"] += 1
        return True

    def admit(self, connection: Downstream, peer: Peer) -> str:
        """Count the connection in; says why where it is one too many."""
        self._connections.add(connection)
        self.stats.connections_total += 1
        self._by_client[peer.holder] += 1
        if len(self._connections) > self.settings.max_connections:
            return f"{self.settings.max_connections} connections are open"
        if not peer.trusted and self._by_client[peer.holder] > self.settings.per_client:
            return f"{self.settings.per_client} connections from this address (of IPv6: its /64) are open"
        return ""

    def forget(self, connection: Downstream, peer: Peer) -> None:
        self._connections.discard(connection)
        self._one_left.set()
        left = self._by_client[peer.holder] - 1
        if left:
            self._by_client[peer.holder] = left
        else:
            del self._by_client[peer.holder]

    @property
    def sessions(self) -> list[Session]:
        """The WebSockets that are open."""
        return [session for one in self._connections if (session := one.session) is not None]

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def _sweep(self) -> None:
        while True:
            due = time.perf_counter() + SWEEP_SECONDS
            await asyncio.sleep(SWEEP_SECONDS)
            lag = max(0.0, time.perf_counter() - due)
            self.stats.loop_lag.observe(lag)
            self.guard.measure(lag, resident())
            now = self.loop.time()
            for connection in [c for c in self._connections if c.deadline <= now]:
                try:
                    connection.sweep(now)
                except Exception:
                    log.exception("a connection could not be checked")
                    connection.cut()
            for cluster in (*self.clusters.values(), *self._retired):
                try:
                    cluster.sweep(now)
                except Exception:
                    log.exception("cluster %s could not be checked", cluster.name)
            for cluster in [one for one in self._retired if one.idle]:
                self._retired.remove(cluster)
                await cluster.close()

    async def drain(self, seconds: float) -> bool:
        """Take no more connections, let exchanges end; True where all ended in time, else what is left is cut."""
        self.draining = True
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle(seconds)
        try:
            async with asyncio.timeout(seconds):
                while self._connections:
                    self._one_left.clear()
                    await self._one_left.wait()
        except TimeoutError:
            log.warning("%d connections did not end within the drain time", len(self._connections))
        ended = not self._connections
        for connection in list(self._connections):
            connection.cut()
        return ended

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.cut()
        if self._sweeper:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for cluster in (*self.clusters.values(), *self._retired):
            await cluster.close()
