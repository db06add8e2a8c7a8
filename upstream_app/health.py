"""Liveness, readiness and detail (report, "Comprehensive Health Monitoring"): what is wrong is told, and why.

MongoDB away: not ready, 503. Redis away: degraded, 200, since what needs no session can still be answered.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from upstream_app import __version__
from upstream_app.background import ended
from upstream_app.web.answers import json_response
from upstream_app.web.errors import ApiError

Ping = Callable[[], Awaitable[object]]
FULL = 0.9
"""Share of memory or disk in use from which the application calls itself degraded."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """`ping` raises where it is away; `deadline` is seconds; without a `required` one the application is not ready."""

    name: str
    ping: Ping
    deadline: float
    required: bool


class Health:
    """One look at the dependencies serves all who ask within FRESH seconds, so that probes are no load."""

    FRESH = 1.0

    def __init__(
        self,
        dependencies: list[Dependency],
        environment: str,
        *,
        prepared: Callable[[], bool],
        inside: Callable[[web.Request], Awaitable[bool]],
        more: Callable[[], dict[str, dict[str, Any]]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dependencies = dependencies
        self._environment = environment
        self._prepared = prepared
        self._inside = inside
        self._more = more
        self._clock = clock
        self._started = clock()
        self._seen: dict[str, dict[str, Any]] = {}
        self._seen_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/health/live", self.live),
            web.get("/api/health/ready", self.ready),
            web.get("/api/health/detailed", self.detailed),
        ]

    async def live(self, request: web.Request) -> web.Response:
        return json_response(self._report("ok"), headers=_NO_STORE)

    async def ready(self, request: web.Request) -> web.Response:
        seen = await self._look()
        return self._answer(seen)

    async def detailed(self, request: web.Request) -> web.Response:
        if not await self._inside(request):
            raise ApiError(403, "The detailed health is for the machine itself, and for admins")
        seen = await self._look()
        return self._answer({**seen, **_resources(), **self._more()}, uptime=round(self._clock() - self._started, 3))

    def _answer(self, seen: dict[str, dict[str, Any]], **more: object) -> web.Response:
        seen = {**seen, "schema": _UP if self._prepared() else _UNPREPARED}
        required = {"schema", *(one.name for one in self._dependencies if one.required)}
        down = {name: found for name, found in seen.items() if found["status"] == "down"}
        strained = any(found["status"] == "degraded" for found in seen.values())
        status = "unhealthy" if required & down.keys() else "degraded" if down or strained else "ok"
        body = self._report(status) | more
        body["info"] = {name: found for name, found in seen.items() if name not in down}
        if down:
            body["error"] = down
        body["details"] = seen
        return json_response(body, status=503 if status == "unhealthy" else 200, headers=_NO_STORE)

    def _report(self, status: str) -> dict[str, Any]:
        return {
            "status": status,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": "simplepro",
            "environment": self._environment,
            "version": __version__,
        }

    async def _look(self) -> dict[str, dict[str, Any]]:
        if self._clock() - self._seen_at > self.FRESH:
            if self._looking is None:
                self._looking = asyncio.create_task(self._check(), name="health")
                self._looking.add_done_callback(self._looked)
            await asyncio.shield(self._looking)
        return self._seen

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _check(self) -> None:
        found = await asyncio.gather(*(_check(one, self._clock) for one in self._dependencies))
        self._seen = {one.name: result for one, result in zip(self._dependencies, found, strict=True)}
        self._seen_at = self._clock()

    async def close(self) -> None:
        await ended(self._looking)


_UP: dict[str, Any] = {"status": "up"}
_UNPREPARED: dict[str, Any] = {"status": "down", "reason": "collections and indexes are not there yet"}
_NO_STORE = {"Cache-Control": "no-store"}


async def _check(dependency: Dependency, clock: Callable[[], float]) -> dict[str, Any]:
    began = clock()
    try:
        async with asyncio.timeout(dependency.deadline):
            await dependency.ping()
    except TimeoutError:
        return {"status": "down", "reason": f"no answer within {dependency.deadline:g} s"}
    except Exception as error:  # a driver's exceptions have no common base; whatever it raises, the dependency is away
        return {"status": "down", "reason": type(error).__name__}
    return {"status": "up", "responseTimeMs": round((clock() - began) * 1000, 2)}


def _resources() -> dict[str, dict[str, Any]]:
    disk = shutil.disk_usage("/")
    used, limit = _memory()
    return {
        "memory": _share(used, limit) | {"peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
        "disk": _share(disk.used, disk.total),
    }


def _share(used: int, limit: int) -> dict[str, Any]:
    share = used / limit if limit else 0.0
    status = {"status": "down", "reason": f"{share:.0%} in use"} if share >= FULL else {"status": "up"}
    return status | {"usedBytes": used, "limitBytes": limit}


def _memory() -> tuple[int, int]:
    """Resident bytes of the process, and what its control group (or the machine) allows."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    page = resource.getpagesize()
    if text.isdigit():
        return pages * page, int(text)
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return pages * page, int(total.split()[1]) * 1024
