"""The operator's side door: health, metrics, what is configured, and the few things that can be told to a live proxy.

On an address that isn't loopback every request needs the token. Writes are POST only.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.telemetry import logs

if TYPE_CHECKING:
    from proxy.app import Proxy

PROBES = frozenset({"/livez", "/readyz", "/startupz"})
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Admin:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._runner: web.AppRunner | None = None
        self.port = 0

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=4096)
        app.add_routes(
            [
                web.get("/livez", self._live),
                web.get("/startupz", self._started),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/config_dump", self._config),
                web.get("/clusters", self._clusters),
                web.get("/routes", self._routes),
                web.get("/limits", self._limits),
                web.post("/drain", self._drain),
                web.post("/quitquitquit", self._quit),
                web.post("/loglevel", self._loglevel),
            ]
        )
        return app

    async def start(self) -> None:
        host, port = self._proxy.policy.admin.address
        self._runner = web.AppRunner(self.application(), access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        token = self._proxy.policy.admin.token
        if token is not None and request.path not in PROBES:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
                return web.json_response({"error": "send Authorization: Bearer with admin.token"}, status=401)
        return await handler(request)

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _started(self, _: web.Request) -> web.Response:
        return _state(self._proxy.started, "starting")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._proxy.ready and self._proxy.degraded:
            return web.json_response({"status": "degraded", "reason": self._proxy.degraded})
        return _state(self._proxy.ready, "draining" if self._proxy.started else "starting")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._proxy.metrics.expose(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _config(self, _: web.Request) -> web.Response:
        return web.json_response(text=self._proxy.policy.model_dump_json(indent=2))

    async def _clusters(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                cluster.name: {
                    endpoint.address: {
                        "active": endpoint.active,
                        "connections": len(endpoint.pool.open),
                        "idle": endpoint.pool.idle,
                        "waiting": endpoint.pool.waiting,
                        "connects": endpoint.pool.stats.connects,
                        "connect_failures": endpoint.pool.stats.connect_failures,
                    }
                    for endpoint in cluster.endpoints
                }
                for cluster in self._proxy.compiled.clusters.values()
            }
        )

    async def _routes(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "name": route.name,
                    route.matcher.kind: route.matcher.path.decode(),
                    "methods": sorted(method.decode() for method in route.matcher.methods),
                    "hosts": sorted(host.decode() for host in route.matcher.hosts),
                    "cluster": route.cluster.name,
                    "rules": list(route.rule_names),
                }
                for route in self._proxy.compiled.routes.routes
            ]
        )

    async def _limits(self, _: web.Request) -> web.Response:
        """What became of requests by rule, who decides, and how the store is."""
        usage: dict[str, dict[str, int]] = {}
        for throttle in self._proxy.compiled.throttles:
            for name, seen in throttle.usage.items():
                row = usage.setdefault(name, {"admitted": 0, "denied": 0, "shadowed": 0})
                row["admitted"] += seen.admitted
                row["denied"] += seen.denied
                row["shadowed"] += seen.shadowed
        answer: dict[str, object] = {"rules": usage, "decided_by": "this sidecar alone: the policy names no redis"}
        limiting = self._proxy.limiting
        if limiting is not None:
            answer["decided_by"] = limiting.decisions
            answer["store"] = {
                "available": limiting.store.available,
                "peers": limiting.peers,
                "failures": limiting.store.stats.failures,
            }
        return web.json_response(answer)

    async def _drain(self, _: web.Request) -> web.Response:
        """Not ready from now on, and answers say Connection: close; connections are still taken."""
        self._proxy.listener.draining = True
        return web.json_response({"status": "draining"})

    async def _quit(self, _: web.Request) -> web.Response:
        self._proxy.stopping.set()
        return web.json_response({"status": "stopping"})

    async def _loglevel(self, request: web.Request) -> web.Response:
        level = request.query.get("level", "").upper()
        if level not in LEVELS:
            return web.json_response({"error": f"level has to be one of {', '.join(LEVELS)}"}, status=400)
        logs.configure(level)
        return web.json_response({"level": level})


def _state(good: bool, otherwise: str) -> web.Response:
    return web.json_response({"status": "ok" if good else otherwise}, status=200 if good else 503)
