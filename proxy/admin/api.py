"""The operator's side door: health, metrics, what is configured, and the few things that can be told to a live proxy.

On an address that isn't loopback every request needs the token. Writes are POST only.
"""

from __future__ import annotations

import asyncio
import csv
import io
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from proxy.addresses import holder, normalise
from proxy.admin.guard import strange, stranger
from proxy.admin.page import FILES, Page
from proxy.admin.place import opened
from proxy.cache.store import Purge
from proxy.inspect.profile import LEAST
from proxy.telemetry import logs
from proxy.telemetry.metrics import OPENMETRICS

if TYPE_CHECKING:
    from breaker import Breaker
    from proxy.app import Proxy
    from proxy.control.reload import Outcome
    from proxy.upstream.cluster import Cluster

PROBES = frozenset({"/livez", "/readyz", "/startupz"})
OPEN = PROBES | FILES.keys() | {"/"}
"""What tells nobody anything: asked for without the token."""
MAX_BAN = 31 * 86_400
SCRAPE_SECONDS = 5.0
MAX_SCRAPE = 4 * 1024 * 1024
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Admin:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._page = Page(proxy)
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
                web.get("/scrape/{name}", self._scrape),
                web.get("/config_dump", self._config),
                web.get("/policy", self._policy),
                web.post("/reload", self._reload),
                web.get("/decisions", self._decisions),
                web.get("/decisions/{id}", self._decision),
                web.get("/shadow", self._shadow),
                web.get("/profile", self._profile),
                web.get("/clusters", self._clusters),
                web.get("/routes", self._routes),
                web.get("/limits", self._limits),
                web.get("/limits/usage", self._usage),
                web.get("/websockets", self._websockets),
                web.get("/cache", self._cache),
                web.post("/cache/purge", self._purge),
                web.get("/bans", self._bans),
                web.post("/bans", self._ban),
                web.post("/bans/lift", self._lift),
                web.post("/revocations", self._revoke),
                web.post("/breakers", self._breakers),
                web.post("/drain", self._drain),
                web.post("/quitquitquit", self._quit),
                web.post("/loglevel", self._loglevel),
                *self._page.routes(),
                web.get("/", self._home),
            ]
        )
        return app

    async def start(self, given: list[socket.socket] | None = None, place: str = "") -> None:
        """On a socket that was `given`, at a Unix socket's `place`, or on the policy's address. Raises OSError."""
        host, port = (place, 0) if place else self._proxy.policy.admin.address
        self._runner = web.AppRunner(self.application(), access_log=None, handle_signals=False)
        self.port = await opened(self._runner, (host, port), given)

    async def close(self) -> None:
        self._page.close()
        if self._runner:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        token = self._proxy.policy.admin.token
        secret = token.get_secret_value() if token is not None else None
        refused = None if request.path in PROBES else strange(request, secret)
        refused = refused or (None if request.path in OPEN else stranger(request, secret))
        return refused or await handler(request)

    async def _home(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/ui")

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _started(self, _: web.Request) -> web.Response:
        return _state(self._proxy.started, "starting")

    async def _ready(self, _: web.Request) -> web.Response:
        proxy = self._proxy
        if not proxy.ready:
            return _state(False, "draining" if proxy.started else "starting")
        answer: dict[str, Any] = {"status": "degraded" if proxy.degraded else "ok", "revision": proxy.revision}
        if proxy.reloader is not None and proxy.reloader.last.result != "applied":
            answer["policy"] = f"the last file was {proxy.reloader.last.result}: see /policy"
        if proxy.degraded:
            answer["reason"] = proxy.degraded
        if proxy.limiting is not None:
            store = proxy.limiting.store
            answer["store"] = {
                "available": store.available,
                "latency_ms": round(store.stats.latency_now * 1000, 2),
                "peers": proxy.limiting.peers,
            }
        return web.json_response(answer)

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
        kind = OPENMETRICS if openmetrics else "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self._proxy.metrics.expose(openmetrics=openmetrics), headers={"Content-Type": kind})

    async def _scrape(self, request: web.Request) -> web.Response:
        """Another's metrics, as admin.scrape names them."""
        known = self._proxy.policy.admin.scrape
        url = known.get(request.match_info["name"])
        if url is None:
            return web.json_response({"error": f"known are: {', '.join(known) or 'none (admin.scrape)'}"}, status=404)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SCRAPE_SECONDS)) as session,
                session.get(url, allow_redirects=False, headers={"Accept": "text/plain"}) as answer,
            ):
                body = await answer.content.read(MAX_SCRAPE)
                if answer.status != 200 or not answer.content.at_eof():
                    what = f"{url} answered {answer.status}, or more than {MAX_SCRAPE} bytes"
                    return web.json_response({"error": what}, status=502)
                kind = answer.headers.get("Content-Type", "text/plain")
        except (aiohttp.ClientError, TimeoutError) as error:
            return web.json_response({"error": f"{url}: {type(error).__name__}"}, status=502)
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _config(self, _: web.Request) -> web.Response:
        headers = {"ETag": f'"{self._proxy.revision}"'}
        return web.json_response(text=self._proxy.policy.model_dump_json(indent=2), headers=headers)

    async def _policy(self, _: web.Request) -> web.Response:
        """Which file and revision runs since when, and what became of the last one that was read."""
        reloader = self._proxy.reloader
        if reloader is None:
            return web.json_response({"revision": self._proxy.revision})
        told = {
            "file": str(reloader.path), "revision": reloader.revision, "applied_at": reloader.applied_at,
            "reloads": reloader.counts, "last": _outcome(reloader.last),
        }  # fmt: skip
        return web.json_response(told, headers={"ETag": f'"{reloader.revision}"'})

    async def _reload(self, request: web.Request) -> web.Response:
        """Read the file again. 200 applied, 409 refused with every finding, 412 where If-Match names another
        revision."""
        reloader = self._proxy.reloader
        if reloader is None:
            return web.json_response({"error": "this proxy was not started from a file"}, status=409)
        wanted = request.headers.get("If-Match", "*").strip('"')
        if wanted not in ("*", reloader.revision):
            return web.json_response({"error": f"revision {reloader.revision} runs"}, status=412)
        outcome = await reloader.reload()
        return web.json_response(
            _outcome(outcome),
            status=200 if outcome.result == "applied" else 409,
            headers={"ETag": f'"{reloader.revision}"'},
        )

    async def _decisions(self, request: web.Request) -> web.Response:
        """The last refusals, the newest first; `?top=50`, `?rule=NAME`."""
        top, rule = request.query.get("top", "50"), request.query.get("rule", "")
        shown = self._proxy.decisions.latest(1000)
        found = [one for one in shown if not rule or one["rule"] == rule]
        return web.json_response({"decisions": found[: int(top) if top.isdigit() else 50]})

    async def _profile(self, request: web.Request) -> web.Response:
        """What parameters were seen to hold where a policy learns, as its `profile` reads it; `?least=20` times."""
        least = request.query.get("least", "")
        return web.json_response(self._proxy.shared.lessons.told(int(least) if least.isdigit() else LEAST))

    async def _shadow(self, request: web.Request) -> web.Response:
        """What rules in shadow would have refused, the most frequent first; `?top=50`, `?rule=NAME`."""
        top, rule = request.query.get("top", "50"), request.query.get("rule", "")
        found = [one for one in self._proxy.shadows.told() if not rule or one["rule"] == rule]
        return web.json_response({"findings": found[: int(top) if top.isdigit() else 50]})

    async def _decision(self, request: web.Request) -> web.Response:
        found = self._proxy.decisions.get(request.match_info["id"])
        if found is None:
            hint = "no such decision is kept: the last 1,000 refusals are, of this sidecar alone"
            return web.json_response({"error": hint}, status=404)
        return web.json_response(found)

    async def _clusters(self, _: web.Request) -> web.Response:
        return web.json_response({one.name: self._cluster(one) for one in self._proxy.compiled.clusters.values()})

    def _cluster(self, cluster: Cluster) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        shared = self._proxy.shared_breakers.by_fleet.get(cluster.name)
        told: dict[str, Any] = {
            "running": cluster.running,
            "limit": cluster.limit,
            "retries_running": cluster.budget.active,
            "endpoints": {
                endpoint.address: {
                    "active": endpoint.active,
                    "connections": len(endpoint.pool.open),
                    "idle": endpoint.pool.idle,
                    "waiting": endpoint.pool.waiting,
                    "connects": endpoint.pool.stats.connects,
                    "connect_failures": endpoint.pool.stats.connect_failures,
                    "healthy": endpoint.healthy,
                    "ejected_for": round(max(0.0, endpoint.ejected_until - now), 1),
                    **({"breaker": _breaker(endpoint.breaker)} if endpoint.breaker else {}),
                }
                for endpoint in cluster.endpoints
            },
        }
        if cluster.breaker is not None:
            told["breaker"] = _breaker(cluster.breaker)
        if shared is not None:
            agreed = shared.agreed
            told["fleet"] = {
                "state": agreed.state, "epoch": agreed.epoch, "votes": shared.votes, "needed": shared.needed,
                "peers": self._proxy.limiting.peers if self._proxy.limiting else 1,
            }  # fmt: skip
        if cluster.admission is not None:
            told["refusing_share"] = round(cluster.admission.refusing, 3)
        return told

    async def _breakers(self, request: web.Request) -> web.Response:
        """`?name=app&state=open|closed|reset`: hold a breaker of this sidecar open or closed, or begin anew."""
        name, state = request.query.get("name", ""), request.query.get("state", "")
        known = {one.name: one for cluster in self._proxy.compiled.clusters.values() for one in cluster.breakers}
        if name not in known or state not in ("open", "closed", "reset"):
            hint = f"write ?name={'|'.join(known) or 'none has a breaker'}&state=open|closed|reset"
            return web.json_response({"error": hint}, status=400)
        breaker = known[name]
        if state == "reset":
            breaker.reset()
        else:
            breaker.force("open" if state == "open" else "closed")
        return web.json_response({"name": name, **_breaker(breaker)})

    async def _routes(self, _: web.Request) -> web.Response:
        return web.json_response(
            [
                {
                    "name": route.name,
                    route.matcher.kind: route.matcher.path.decode(),
                    "methods": sorted(method.decode() for method in route.matcher.methods),
                    "hosts": sorted(host.decode() for host in route.matcher.hosts),
                    "cluster": route.cluster.name,
                    "rules": list(route.chain.rule_names),
                }
                for route in self._proxy.compiled.routes.routes
            ]
        )

    async def _limits(self, _: web.Request) -> web.Response:
        """What became of requests by rule, who decides, and how the store is."""
        usage = {
            name: {"admitted": seen.admitted, "denied": seen.denied, "shadowed": seen.shadowed}
            for name, seen in self._proxy.compiled.usage.items()
        }
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

    async def _usage(self, request: web.Request) -> web.Response:
        """By limit what was admitted, denied and shadowed, and the heaviest keys; `format=csv` for a spreadsheet."""
        top = request.query.get("top", "20")
        count = min(256, int(top)) if top.isdigit() else 20
        now = asyncio.get_running_loop().time()
        rows: list[dict[str, Any]] = [
            {"rule": name, "admitted": usage.admitted, "denied": usage.denied, "shadowed": usage.shadowed,
             "heaviest": [{"key": key, "units": units} for key, units in usage.heavy.heaviest(count, now)]}
            for name, usage in self._proxy.compiled.usage.items()
        ]  # fmt: skip
        if request.query.get("format") != "csv":
            return web.json_response({"window_seconds": self._proxy.policy.usage.window, "rules": rows})
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["rule", "admitted", "denied", "shadowed", "key", "units"])
        for row in rows:
            counts = [row["rule"], row["admitted"], row["denied"], row["shadowed"]]
            keys = [[one["key"], one["units"]] for one in row["heaviest"]] or [["", ""]]
            table.writerows([*counts, *key] for key in keys)
        return web.Response(text=text.getvalue(), content_type="text/csv")

    async def _websockets(self, request: web.Request) -> web.Response:
        """Those that are open, the oldest first; `?top=100` of them."""
        top = request.query.get("top", "100")
        now = asyncio.get_running_loop().time()
        sessions = sorted(self._proxy.listener.sessions, key=lambda one: one.opened)
        shown = [one.shown(now) for one in sessions[: min(1000, int(top)) if top.isdigit() else 100]]
        return web.json_response({"open": len(sessions), "websockets": shown})

    async def _cache(self, request: web.Request) -> web.Response:
        """What is kept and what it was good for; `?top=20` of the hottest, the largest, and the tags."""
        edges, top = self._proxy.shared.edges, request.query.get("top", "20")
        if edges is None:
            return web.json_response({"error": "no rule of the policy keeps answers"}, status=404)
        return web.json_response(edges.told(min(1000, int(top)) if top.isdigit() else 20))

    async def _purge(self, request: web.Request) -> web.Response:
        """`?tag=` (of several any is enough), `?url=host/path?query`, `?prefix=host/path` or `?all=1`.

        With `soft=1` what it meets may be served stale. 200 once every sidecar has done it, 504 where one did not say
        so in time.
        """
        edges = self._proxy.shared.edges
        if edges is None:
            return web.json_response({"error": "no rule of the policy keeps answers"}, status=404)
        kinds = ("tag", "url", "prefix", "all")
        given = [(kind, " ".join(request.query.getall(kind))) for kind in kinds if kind in request.query]
        if len(given) != 1 or not given[0][1] or "\n" in given[0][1]:
            hint = "say what: one of tag=…, url=host/path?query, prefix=host/path, all=1; soft=1 to serve it stale"
            return web.json_response({"error": hint}, status=400)
        kind, value = given[0]
        met, confirmed, peers = await edges.purge(Purge(kind, value, request.query.get("soft", "") == "1"))
        told = {"purged_here": met, "confirmed": confirmed, "sidecars": peers}
        return web.json_response(told, status=200 if confirmed >= peers else 504)

    async def _bans(self, _: web.Request) -> web.Response:
        bans = [
            {"subject": ban.subject, "seconds_left": round(ban.seconds, 1), "level": ban.level, "reason": ban.reason}
            for ban in self._proxy.compiled.ban_list
        ]
        return web.json_response({"bans": bans})

    async def _ban(self, request: web.Request) -> web.Response:
        """`?subject=ip:192.0.2.7&seconds=600`: by hand, for all sidecars."""
        subject, seconds = _subject(request), request.query.get("seconds", "600")
        if not subject or not seconds.isdecimal() or not 0 < int(seconds) <= MAX_BAN:
            hint = f"write ?subject=ip:ADDRESS or user:NAME, and seconds=1 to {MAX_BAN}"
            return web.json_response({"error": hint}, status=400)
        held = self._proxy.compiled.ban_list.ban(subject, "by-hand", int(seconds), int(seconds), 0)
        return web.json_response({"subject": subject, "seconds": held})

    async def _lift(self, request: web.Request) -> web.Response:
        subject = _subject(request)
        lifted = self._proxy.compiled.ban_list.lift(subject)
        return web.json_response({"subject": subject, "lifted": lifted}, status=200 if lifted else 404)

    async def _revoke(self, request: web.Request) -> web.Response:
        """`?name=jti:ID` (or `session:ID`, `user:NAME`) `&seconds=3600`: such tokens are refused at once, by all."""
        name, seconds = request.query.get("name", ""), request.query.get("seconds", "3600")
        kind, _, of = name.partition(":")
        if kind not in ("jti", "session", "user") or not of or not seconds.isdigit() or not int(seconds):
            return web.json_response({"error": "write ?name=jti:ID, session:ID or user:NAME, and seconds"}, status=400)
        self._proxy.shared.revoked.put(name, str(int(time.time())), int(seconds))
        return web.json_response({"name": name, "seconds": int(seconds)})

    async def _drain(self, _: web.Request) -> web.Response:
        """Not ready from now on, and answers say Connection: close; connections are still taken."""
        self._proxy.listener.draining = True
        return web.json_response({"status": "draining"})

    async def _quit(self, _: web.Request) -> web.Response:
        self._proxy.end()
        return web.json_response({"status": "stopping"})

    async def _loglevel(self, request: web.Request) -> web.Response:
        level = request.query.get("level", "").upper()
        if level not in LEVELS:
            return web.json_response({"error": f"level has to be one of {', '.join(LEVELS)}"}, status=400)
        logs.configure(level)
        return web.json_response({"level": level})


def _outcome(outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = {"result": outcome.result, "revision": outcome.revision, "findings": outcome.findings}
    return told | ({"weaker": outcome.weaker} if outcome.weaker else {})


def _subject(request: web.Request) -> str:
    """As bans are kept: an IPv6 address by its /64; empty where it is none."""
    kind, _, name = request.query.get("subject", "").partition(":")
    if kind == "user":
        return f"user:{name}" if name else ""
    address = normalise(name.removesuffix("/64")) if kind == "ip" else None
    return f"ip:{holder(address)}" if address else ""


def _breaker(breaker: Breaker) -> dict[str, Any]:
    return {
        "state": breaker.state.value,
        "forced": breaker.forced,
        "probes_in": round(breaker.retry_after, 1),
        "refused": breaker.refused,
        "trips": breaker.trips,
        "would_trip": breaker.would_trip,
    }


def _state(good: bool, otherwise: str) -> web.Response:
    return web.json_response({"status": "ok" if good else otherwise}, status=200 if good else 503)
