"""The connections to one endpoint: bounded, reused last-in first-out, with a bounded queue of those who wait."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from proxy.batch import TickWriter
from proxy.http1.response import FieldLines, Heads, StatusLines
from proxy.proxy_protocol import LOCAL
from proxy.rejection import Rejection, UpstreamBusy, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.resolver import Resolver, is_name

log = logging.getLogger(__name__)

UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Way:
    """How endpoints are reached: by TLS where there is a `context`; after a PROXY head of that version (`preamble`);
    names looked up every `refresh` seconds."""

    context: ssl.SSLContext | None = None
    server_name: str = ""
    preamble: str = ""
    family: str = "any"
    refresh: float = 5.0


PLAIN = Way()


def shown(host: str, port: int) -> str:
    """As operators know an endpoint."""
    if host.startswith(UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why(error: ssl.SSLError) -> str:
    told = getattr(error, "verify_message", "") or error.reason or str(error)
    return str(told).replace("_", " ").lower()


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """`idle` has to be shorter than the application's own keep-alive time: Node's and uvicorn's is 5 seconds."""

    max_connections: int
    max_waiting: int
    wait: float
    connect: float
    idle: float


class Waiter(Protocol):
    __slots__ = ()

    def on_connection(self, connection: UpstreamConnection) -> None: ...

    def on_no_connection(self, rejection: Rejection) -> None: ...


@dataclass(slots=True)
class PoolStats:
    connects: int = 0
    connect_failures: int = 0
    refused: int = 0
    reused: int = 0


class Pool:
    """`acquire` hands out at once or later, `on_released` and `on_discarded` take back; nobody is told twice."""

    __slots__ = (
        "_connecting",
        "_context",
        "_idle",
        "_limits",
        "_loop",
        "_waiting",
        "address",
        "closed",
        "fields",
        "heads",
        "host",
        "open",
        "port",
        "preamble",
        "resolver",
        "stats",
        "statuses",
        "writer",
    )

    def __init__(
        self,
        host: str,
        port: int,
        limits: PoolLimits,
        loop: asyncio.AbstractEventLoop,
        writer: TickWriter,
        way: Way = PLAIN,
    ) -> None:
        """`host` may be `unix:/path`."""
        self.host = host
        self.port = port
        self.address = shown(host, port)
        self.preamble = way.preamble
        self.resolver = Resolver(host, port, way.family, way.refresh) if is_name(host) else None
        self._context = (way.context, way.server_name or host) if way.context else None
        self.stats = PoolStats()
        self.fields = FieldLines()
        self.heads = Heads()
        self.statuses = StatusLines()
        self.writer = writer
        self.open: set[UpstreamConnection] = set()
        self.closed = False
        self._limits = limits
        self._loop = loop
        self._idle: deque[UpstreamConnection] = deque()
        self._waiting: deque[tuple[Waiter, float]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def connecting(self) -> int:
        return len(self._connecting)

    def acquire(self, waiter: Waiter, *, fresh: bool = False) -> UpstreamConnection | None:
        """A connection now, or None and `waiter` is called later. `fresh` asks for one that was never used.

        Raises UpstreamBusy where the queue is full.
        """
        idle = self._idle
        if not fresh:
            while idle:
                connection = idle.pop()
                if not connection.transport.is_closing():
                    self.stats.reused += 1
                    return connection
        if len(self._waiting) >= self._limits.max_waiting + len(self._connecting):
            self.stats.refused += 1
            raise UpstreamBusy(
                f"{len(self._waiting)} requests wait for a connection already", retry_after=self._limits.wait
            )
        self._waiting.append((waiter, self._loop.time() + self._limits.wait))
        if fresh and idle:
            stale = idle.popleft()
            self.open.discard(stale)
            stale.transport.abort()
        self._connect_if_needed()
        return None

    def forget(self, waiter: Waiter) -> None:
        """`waiter` gave up."""
        for entry in self._waiting:
            if entry[0] is waiter:
                self._waiting.remove(entry)
                return

    def on_released(self, connection: UpstreamConnection) -> None:
        if self._waiting:
            waiter, _ = self._waiting.popleft()
            self.stats.reused += 1
            waiter.on_connection(connection)
        elif self.closed:
            self.open.discard(connection)
            connection.transport.close()
        else:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)

    def on_discarded(self, connection: UpstreamConnection) -> None:
        self.open.discard(connection)
        self._connect_if_needed()

    def on_lost(self, connection: UpstreamConnection) -> None:
        if connection in self.open:
            self.open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._connect_if_needed()

    def sweep(self, now: float) -> None:
        """End connections that were idle too long and waits that took too long; called once a tick of the listener."""
        oldest = now - self._limits.idle
        while self._idle and self._idle[0].idle_since < oldest:
            connection = self._idle.popleft()
            self.open.discard(connection)
            connection.transport.close()
        if self.resolver is not None and self._idle:
            self._leave_gone(self.resolver.addresses)
        while self._waiting and self._waiting[0][1] < now:
            waiter, _ = self._waiting.popleft()
            self.stats.refused += 1
            waiter.on_no_connection(
                UpstreamBusy(f"no connection became free within {self._limits.wait:g} s", retry_after=1.0)
            )

    def _leave_gone(self, addresses: tuple[str, ...]) -> None:
        """The name leads elsewhere now."""
        for connection in [one for one in self._idle if one.remote not in addresses]:
            self._idle.remove(connection)
            self.open.discard(connection)
            connection.transport.close()

    def _connect_if_needed(self) -> None:
        limit = self._limits.max_connections
        while len(self._connecting) < len(self._waiting) and len(self.open) + len(self._connecting) < limit:
            task = self._loop.create_task(self._connect(), name=f"connect {self.address}")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        connection = UpstreamConnection(self)
        self.stats.connects += 1
        failure: Rejection | None = None
        try:
            async with asyncio.timeout(self._limits.connect):
                await self._dial(connection)
        except TimeoutError:
            failure = UpstreamTimeout(f"no connection to the upstream within {self._limits.connect:g} s")
        except ssl.SSLError as error:
            failure = UpstreamUnavailable(f"TLS with the upstream fails: {_why(error)}")
            log.warning("%s: TLS fails: %s", self.address, _why(error))
        except (OSError, UnicodeError):
            failure = UpstreamUnavailable("the upstream accepts no connection")
        self._no_more_connecting()
        if failure is not None:
            self._failed(failure)
        elif self.closed:
            connection.transport.abort()
        else:
            self.open.add(connection)
            self.on_released(connection)

    async def _dial(self, connection: UpstreamConnection) -> None:
        """Of a name's addresses the next one that takes the connection. Raises OSError, and SSLError of them."""
        context, name = self._context or (None, None)
        if self.host.startswith(UNIX):
            path = self.host.removeprefix(UNIX)
            await self._loop.create_unix_connection(lambda: connection, path, ssl=context, server_hostname=name)
            return
        hosts = [self.host] if self.resolver is None else await self.resolver.in_turn()
        for last, host in enumerate(hosts, 1 - len(hosts)):
            try:
                await self._loop.create_connection(
                    lambda: connection, host, self.port, ssl=context, server_hostname=name
                )
            except OSError:
                if not last or self.resolver is None:
                    raise
            else:
                connection.remote = host
                return

    def _no_more_connecting(self) -> None:
        """This task has its end: who asks from now on, even in what it calls, needs one of their own."""
        task = asyncio.current_task()
        if task is not None:
            self._connecting.discard(task)

    def _failed(self, rejection: Rejection) -> None:
        """One attempt failed: one who waits is told; the others have attempts of their own."""
        self.stats.connect_failures += 1
        if self._waiting:
            waiter, _ = self._waiting.popleft()
            waiter.on_no_connection(rejection)

    async def side_connection(self, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One beside the pool's, reached the same way, for a health check. Raises OSError."""
        context, name = self._context or (None, None)
        reader = asyncio.StreamReader(limit=limit)
        protocol = asyncio.StreamReaderProtocol(reader)
        if self.host.startswith(UNIX):
            path = self.host.removeprefix(UNIX)
            transport, _ = await self._loop.create_unix_connection(
                lambda: protocol, path, ssl=context, server_hostname=name
            )
        else:
            host = self.host if self.resolver is None else (await self.resolver.in_turn())[0]
            transport, _ = await self._loop.create_connection(
                lambda: protocol, host, self.port, ssl=context, server_hostname=name
            )
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        if self.preamble:
            writer.write(LOCAL[self.preamble])
        return reader, writer

    async def close(self) -> None:
        """Give every connection back; those in use are cut."""
        self.closed = True
        if self.resolver is not None:
            await self.resolver.close()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._waiting:
            waiter, _ = self._waiting.popleft()
            waiter.on_no_connection(UpstreamUnavailable("the proxy is shutting down"))
        for connection in list(self.open):
            connection.transport.abort()
        self._idle.clear()
