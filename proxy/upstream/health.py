"""Asking endpoints how they are, whether or not requests come: HTTP or TCP, more often while they are ill."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.upstream.cluster import Endpoint

log = logging.getLogger(__name__)
MAX_HEAD = 16 * 1024


@dataclass(frozen=True, slots=True)
class HealthTerms:
    """`path` empty asks by TCP: whether a connection is accepted. Times in seconds; `jitter` is a share of the
    interval. So many answers in a row make an endpoint ill, or well again; `expected` are statuses, ends included."""

    path: str = ""
    host: str = ""
    interval: float = 10.0
    unhealthy_interval: float = 1.0
    timeout: float = 1.0
    healthy: int = 2
    unhealthy: int = 3
    jitter: float = 0.2
    expected: tuple[int, int] = (200, 399)


class HealthChecker:
    """One task an endpoint; it owns them."""

    def __init__(self, cluster: str, terms: HealthTerms, endpoints: Sequence[Endpoint]) -> None:
        self._cluster = cluster
        self._terms = terms
        self._endpoints = endpoints
        self._tasks: list[asyncio.Task[None]] = []
        self.checks = {"ok": 0, "failed": 0}

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch(endpoint), name=f"health {endpoint.address}")
            for endpoint in self._endpoints
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, endpoint: Endpoint) -> None:
        terms, row = self._terms, 0
        while True:
            good = await self._check(endpoint)
            self.checks["ok" if good else "failed"] += 1
            row = row + 1 if good is not endpoint.healthy else 0
            if row >= (terms.healthy if good else terms.unhealthy):
                row = 0
                endpoint.healthy = good
                if good:
                    endpoint.warm_since = asyncio.get_running_loop().time()
                log.warning("%s: endpoint %s is %s", self._cluster, endpoint.address, "well" if good else "ill")
            pause = terms.interval if endpoint.healthy and good else terms.unhealthy_interval
            await asyncio.sleep(pause * random.uniform(1 - terms.jitter, 1 + terms.jitter))  # noqa: S311  # jitter

    async def _check(self, endpoint: Endpoint) -> bool:
        try:
            async with asyncio.timeout(self._terms.timeout):
                reader, writer = await endpoint.pool.side_connection(MAX_HEAD)
                try:
                    return not self._terms.path or await self._ask(endpoint, reader, writer)
                finally:
                    writer.transport.abort()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError):
            return False

    async def _ask(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        host = self._terms.host or endpoint.address
        request = f"GET {self._terms.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: simplepro-proxy-health\r\n"
        writer.write(f"{request}Connection: close\r\n\r\n".encode())
        line = await reader.readuntil(b"\r\n")
        low, high = self._terms.expected
        return line.startswith(b"HTTP/1.") and low <= int(line.split(b" ", 2)[1]) <= high
