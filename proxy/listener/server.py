"""Accepts connections, counts them, sweeps their deadlines, and drains."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.addresses import Networks, normalise
from proxy.batch import TickWriter
from proxy.exchange import Exchange
from proxy.filter import FilterChain
from proxy.forwarding import Peer
from proxy.listener.connection import Timeouts
from proxy.listener.door import Door, DoorTerms
from proxy.listener.http1 import Downstream
from proxy.listener.overload import OverloadGuard, OverloadTerms, resident
from proxy.listener.websocket import Session
from proxy.proxy_protocol import Source
from proxy.rejection import Rejection
from proxy.routing import RouteTable
from proxy.target import TargetRules
from proxy.telemetry.stats import ListenerStats, RouteStats
from proxy.tls import Served, client_certificate
from proxy.upstream.cluster import Cluster

log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.25
CERTIFICATE_SECONDS = 1.0


class Counts(Protocol):
    """Connections by key, over all workers of this sidecar."""

    def add(self, key: str, change: int) -> None: ...

    def count(self, key: str) -> int: ...


ALL = "*"


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """Bounds in bytes and counts; `per_client` counts connections of one untrusted address, `connection_rate` those
    that it opens in a second."""

    door: DoorTerms
    redirect: DoorTerms | None
    """Where plain HTTP is told to come by TLS, at `redirect_port`."""
    redirect_port: int
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
        counts: Counts | None = None,
    ) -> None:
        self.settings = settings
        self.routes = routes
        self.default_chain = default_chain
        self.clusters = clusters
        self.loop = asyncio.get_running_loop()
        self.stats = ListenerStats()
        self.draining = False
        self.reconnect_within = 0.0
        """Seconds in which WebSockets of an earlier policy are asked to connect again; 0 where they keep it."""
        self.drain_until = 0.0
        """Seconds of the loop's clock."""
        self._parting = False
        self.guard = OverloadGuard(settings.overload)
        self.name = name
        self.on_exchange_end = completed
        self.on_rejected = rejected
        self.first_check = min(settings.timeouts.body_progress, SWEEP_SECONDS * 4)
        self._connections: set[Downstream] = set()
        self._by_client: defaultdict[str, int] = defaultdict(int)
        self._counts = counts
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
        self._door = self._new_door(settings.door)
        self._redirect = self._new_door(settings.redirect, settings.redirect_port) if settings.redirect else None
        self.certificates_refused = 0
        """Changed certificate files that could not be used."""
        self._certificates_told = ""
        self._sweeper: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self._door.port

    @property
    def certificates(self) -> tuple[Served, ...]:
        return self._door.certificates

    @property
    def redirect_port(self) -> int:
        return self._redirect.port if self._redirect else 0

    def _new_door(self, terms: DoorTerms, redirect: int = 0) -> Door:
        return Door(
            terms,
            lambda source: Downstream(self, source, redirect),
            lambda address: (normalise(address) or "") in self.settings.trusted,
            self._no_head,
        )

    def _no_head(self, why: str) -> None:
        self.stats.rejections["listener.proxy_protocol", "malformed-request", "enforce"] += 1
        log.warning("connection closed: %s", why)

    async def start(self, given: Mapping[str, list[socket.socket]] | None = None) -> None:
        """Listen; raises OSError where the address can't be had, ValueError where a certificate can't be used."""
        given = given or {}
        await self._door.open(given.get("listener"))
        if self._redirect is not None:
            await self._redirect.open(given.get("redirect"))
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep")
        self._watcher = asyncio.create_task(self._watch_certificates(), name="certificates")

    async def _watch_certificates(self) -> None:
        """A certificate that was renewed is served within CERTIFICATE_SECONDS; one that can't be used is told once."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            try:
                if self._door.stale:
                    await self._door.renew()
                    log.info("the certificates' files have changed and are served now")
                self._certificates_told = ""
            except (OSError, ValueError) as error:
                if str(error) != self._certificates_told:
                    self._certificates_told = str(error)
                    self.certificates_refused += 1
                    log.error("the changed certificates are not served: %s", error)  # told, no stack

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
        old = self.settings
        door, redirect = await self._changed(settings)
        if settings.overload != old.overload:
            self.guard = OverloadGuard(settings.overload)
        kept = set(map(id, clusters.values()))
        self._retired += [one for one in self.clusters.values() if id(one) not in kept]
        self.settings, self.routes, self.default_chain = settings, routes, default_chain
        self.clusters, self.name = clusters, name
        for before, now in ((self._door, door), (self._redirect, redirect)):
            if before is not None and before is not now:
                await before.close()
        self._door, self._redirect = door, redirect

    async def _changed(self, settings: ListenerSettings) -> tuple[Door, Door | None]:
        """The doors by other terms: those of another place are opened, those of the same place serve anew."""
        door, redirect = self._door, self._redirect
        opened: list[Door] = []
        try:
            if settings.redirect is None:
                redirect = None
            elif redirect is None or (settings.redirect, settings.redirect_port) != (
                redirect.terms, self.settings.redirect_port,
            ):  # fmt: skip
                if redirect is not None and settings.redirect.place == redirect.terms.place:
                    raise OSError(errno.EINVAL, "a redirect at the same place changes with a restart only")
                redirect = self._new_door(settings.redirect, settings.redirect_port)
                await redirect.open()
                opened.append(redirect)
            if settings.door.place != door.terms.place:
                door = self._new_door(settings.door)
                await door.open()
                opened.append(door)
            elif settings.door != door.terms or door.stale:
                await door.change(settings.door)
        except BaseException:
            for one in opened:
                await one.close()
            raise
        return door, redirect

    def peer_of(self, transport: asyncio.BaseTransport, source: Source | None) -> Peer:
        """Of a Unix socket the address is unknown, and it is trusted as loopback is: who may open it is the file
        system's to say."""
        name = transport.get_extra_info("peername")
        given = source.address if source else name[0] if isinstance(name, tuple) else "127.0.0.1"
        address = self.stand_in or normalise(given) or "0.0.0.0"  # noqa: S104  # nosec B104  # to report, not to bind
        wrapped = transport.get_extra_info("ssl_object")
        peer = Peer(address, b"https" if wrapped is not None else b"http", address in self.settings.trusted)
        if wrapped is not None and self.settings.door.tls and self.settings.door.tls.client_ca:
            peer.certificate = client_certificate(wrapped)
        return peer

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
        every, own = len(self._connections), self._by_client[peer.holder]
        if self._counts is not None:
            self._counts.add(ALL, 1)
            self._counts.add(peer.holder, 1)
            every, own = self._counts.count(ALL), self._counts.count(peer.holder)
        if every > self.settings.max_connections:
            return f"{self.settings.max_connections} connections are open"
        if not peer.trusted and own > self.settings.per_client:
            return f"{self.settings.per_client} connections from this address (of IPv6: its /64) are open"
        return ""

    def forget(self, connection: Downstream, peer: Peer) -> None:
        self._connections.discard(connection)
        self._one_left.set()
        if self._counts is not None:
            self._counts.add(ALL, -1)
            self._counts.add(peer.holder, -1)
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

    def begin_drain(self, seconds: float) -> None:
        """From now on every answer is its connection's last, and who waits for a next request is let go soon."""
        self.draining = True
        self.drain_until = self.loop.time() + seconds
        if not self._parting:
            self._parting = True
            for connection in list(self._connections):
                connection.close_if_idle(seconds)

    async def drain(self, seconds: float) -> bool:
        """Take no more connections, let exchanges end; True where all ended in time, else what is left is cut."""
        self.begin_drain(seconds)
        await self._close_doors()
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

    async def _close_doors(self) -> None:
        await self._door.close()
        if self._redirect is not None:
            await self._redirect.close()

    async def close(self) -> None:
        await self._close_doors()
        for connection in list(self._connections):
            connection.cut()
        tasks = [one for one in (self._sweeper, self._watcher) if one is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for cluster in (*self.clusters.values(), *self._retired):
            await cluster.close()
