"""The one admin of a sidecar with several workers: asks theirs, and adds up or passes on.

What it does itself it does for who has the token of the policy in force. What it passes on is each worker's to refuse:
the asker's own fields go with every question.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.admin.guard import strange, stranger
from proxy.admin.place import opened
from proxy.inspect.profile import LEAST, merged
from proxy.workers.merge import Merger, parsed

if TYPE_CHECKING:
    from proxy.workers.parent import Parent
    from proxy.workers.process import Process

log = logging.getLogger(__name__)

SECONDS = 10.0
READY_SECONDS = 1.0
"""What a probe waits for a worker that may hang."""
REFUSED = (401, 403)
TO_ALL = frozenset({"/breakers", "/drain", "/loglevel"})
"""What is told to every worker, and to those that start later; the rest of what is written goes to one, and boards
carry it on."""


class Said(NamedTuple):
    """A worker's answer."""

    worker: int
    number: int
    status: int
    headers: dict[str, str]
    body: bytes
    json: Any


class ParentAdmin:
    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self.metrics = Merger()
        self._merging = asyncio.Lock()
        self._orders: dict[tuple[str, str], tuple[str, dict[str, str], bytes]] = {}
        """The last of each kind, and of each breaker that a worker knew."""
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, place: tuple[str, int], given: list[socket.socket] | None = None) -> None:
        """Raises OSError where the address can't be had."""
        app = web.Application(client_max_size=4096)
        app.add_routes(
            [
                web.get("/livez", self._live),
                web.get("/startupz", self._started),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/workers", self._workers),
                web.post("/workers/restart", self._restart),
                web.post("/reload", self._reload),
                web.get("/decisions", self._decisions),
                web.get("/decisions/{id}", self._decision),
                web.get("/shadow", self._shadow),
                web.get("/profile", self._profile),
                web.get("/limits", self._limits),
                web.get("/limits/usage", self._usage),
                web.post("/quitquitquit", self._quit),
                web.get("/ui/events", self._events),
                web.route("*", "/{rest:.*}", self._other),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.port = await opened(self._runner, place, given)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # asking

    async def _ask(self, process: Process, request: web.Request, seconds: float = SECONDS) -> Said:
        return await self._asked(
            process, request.method, request.path_qs, _headers(request), await request.read(), seconds
        )

    async def _asked(
        self, process: Process, method: str, path: str, headers: dict[str, str], data: bytes, seconds: float = SECONDS
    ) -> Said:
        """502 where the worker does not answer."""
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(process.admin), timeout=aiohttp.ClientTimeout(total=seconds)
                ) as session,
                session.request(
                    method, f"http://worker{path}", headers=headers, data=data or None, allow_redirects=False
                ) as answer,
            ):
                body = await answer.read()
                told = await answer.json() if answer.content_type == "application/json" else None
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _CONNECTION}
                return Said(process.slot, process.number, answer.status, kept, body, told)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = {"error": f"worker {process.slot} does not answer: {type(error).__name__}"}
            return Said(process.slot, process.number, 502, {}, b"", why)

    async def repeat(self, process: Process) -> None:
        """Tell one that starts what the others were told by hand."""
        for path, headers, data in list(self._orders.values()):
            said = await self._asked(process, "POST", path, headers, data)
            if said.status != 200:
                log.warning("a worker did not take an order: %s: %s", path.partition("?")[0], said.status)

    async def _all(self, request: web.Request) -> list[Said]:
        """Of every worker that serves. Raises what the asker gets where one refuses, or where there is none."""
        said = list(await asyncio.gather(*(self._ask(one, request) for one in self._parent.serving)))
        if not said:
            raise web.HTTPServiceUnavailable(text="no worker serves now: see /workers, and the log")
        for one in said:
            if one.status in REFUSED:
                raise _Answer(_passed_on(one))
        return said

    # answering

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _started(self, _: web.Request) -> web.Response:
        good = self._parent.started
        return web.json_response({"status": "ok" if good else "starting"}, status=200 if good else 503)

    async def _ready(self, request: web.Request) -> web.Response:
        """Ready while any worker is: a socket whose worker has died waits for the next one."""
        parent = self._parent
        if parent.stopping.is_set() or not parent.started:
            status = "draining" if parent.started else "starting"
            return web.json_response({"status": status}, status=503)
        said = await asyncio.gather(*(self._ask(one, request, READY_SECONDS) for one in parent.serving))
        ready = [one for one in said if one.status == 200]
        answer: dict[str, Any] = {"status": "draining" if said else "no worker serves"}
        if ready:
            worst = next((one for one in ready if one.json.get("status") == "degraded"), ready[0])
            answer = dict(worst.json)
        answer["workers"] = {"ready": len(ready), "wanted": parent.count}
        return web.json_response(answer, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        said = await self._all(request)
        async with self._merging:
            for one in said:
                if one.status == 200:
                    page = await asyncio.to_thread(parsed, one.body.decode())
                    if self._parent.runs(one.number):
                        self.metrics.see(one.number, page)
            body = await asyncio.to_thread(self.metrics.snapshot().expose, self._own())
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    def _own(self) -> list[Metric]:
        serving = GaugeMetricFamily("proxy_workers", "Worker processes", labels=["state"])
        serving.add_metric(["serving"], len(self._parent.serving))
        serving.add_metric(["wanted"], self._parent.count)
        restarts = CounterMetricFamily("proxy_worker_restarts", "Workers that were started again", labels=["after"])
        for after, count in self._parent.restarts.items():
            restarts.add_metric([after], count)
        return [serving, restarts]

    async def _workers(self, request: web.Request) -> web.Response:
        self._permit(request)
        return web.json_response(self._parent.told())

    async def _restart(self, request: web.Request) -> web.Response:
        """Each worker in turn: another takes its place, then it drains."""
        self._permit(request)
        failed = await self._parent.roll()
        if failed:
            return web.json_response({"error": failed, **self._parent.told()}, status=500)
        return web.json_response(self._parent.told())

    def _permit(self, request: web.Request) -> None:
        """Raises what who may not is told."""
        token = self._parent.policy.admin.token
        secret = token.get_secret_value() if token is not None else None
        refused = strange(request, secret) or stranger(request, secret)
        if refused is not None:
            raise _Answer(refused)

    async def _reload(self, request: web.Request) -> web.Response:
        """One worker judges the file; what it takes over, the others are told to."""
        serving = self._parent.serving
        if not serving:
            raise web.HTTPServiceUnavailable(text="no worker serves now: see /workers, and the log")
        answer = await self._ask(serving[0], request)
        if answer.status != 200:
            return _passed_on(answer)
        differ = await self._parent.differing(answer.json["revision"])
        if differ:
            what = f"workers {differ} did not take the policy over: see the log, then POST /workers/restart"
            return web.json_response({**answer.json, "error": what}, status=502)
        return _passed_on(answer)

    async def _decisions(self, request: web.Request) -> web.Response:
        top = request.query.get("top", "50")
        found = [row for one in await self._all(request) for row in (one.json or {}).get("decisions", ())]
        found.sort(key=lambda row: float(row["time"]), reverse=True)
        return web.json_response({"decisions": found[: int(top) if top.isdigit() else 50]})

    async def _shadow(self, request: web.Request) -> web.Response:
        top = request.query.get("top", "50")
        added: dict[tuple[str, ...], dict[str, Any]] = {}
        for one in [said for said in await self._all(request) if said.status == 200]:
            for row in one.json["findings"]:
                of = (row["route"], row["rule"], row["reason"], row["detail"])
                before = added.get(of)
                if before is None:
                    added[of] = row
                    continue
                newest = max(before, row, key=lambda each: float(each["last"]))
                first = min(before["first"], row["first"])
                added[of] = {**newest, "count": before["count"] + row["count"], "first": first}
        found = sorted(added.values(), key=lambda each: -int(each["count"]))
        return web.json_response({"findings": found[: int(top) if top.isdigit() else 50]})

    async def _profile(self, request: web.Request) -> web.Response:
        self._permit(request)
        least = request.query.get("least", "")
        asked = (self._asked(one, "GET", "/profile?least=1", _headers(request), b"") for one in self._parent.serving)
        told = [one.json for one in await asyncio.gather(*asked) if one.status == 200]
        return web.json_response(merged(told, int(least) if least.isdigit() else LEAST))

    async def _decision(self, request: web.Request) -> web.Response:
        said = await self._all(request)
        return _passed_on(next((one for one in said if one.status == 200), said[0]))

    async def _limits(self, request: web.Request) -> web.Response:
        said = [one.json for one in await self._all(request) if one.status == 200]
        total: dict[str, Any] = dict(said[0]) if said else {}
        rules: dict[str, Counter[str]] = {}
        for one in said:
            for name, counts in one["rules"].items():
                rules.setdefault(name, Counter()).update(counts)
        total["rules"] = rules
        decided = [one["decided_by"] for one in said]
        if all(isinstance(one, dict) for one in decided) and decided:
            total["decided_by"] = sum((Counter(one) for one in decided), Counter())
        else:
            total["decided_by"] = "this sidecar alone, its parent process for all workers: the policy names no redis"
        return web.json_response(total)

    async def _usage(self, request: web.Request) -> web.Response:
        if request.query.get("format") == "csv":
            return await self._other(request)
        rows: dict[str, dict[str, Any]] = {}
        window: Any = None
        for one in [said for said in await self._all(request) if said.status == 200]:
            window = one.json["window_seconds"]
            for row in one.json["rules"]:
                into = rows.setdefault(row["rule"], {"counts": Counter(), "keys": Counter()})
                into["counts"].update({name: row[name] for name in ("admitted", "denied", "shadowed")})
                into["keys"].update({key["key"]: key["units"] for key in row["heaviest"]})
        top = request.query.get("top", "20")
        count = min(256, int(top)) if top.isdigit() else 20
        return web.json_response(
            {
                "window_seconds": window,
                "rules": [
                    {"rule": name, **row["counts"],
                     "heaviest": [{"key": key, "units": units} for key, units in row["keys"].most_common(count)]}
                    for name, row in rows.items()
                ],
            }
        )  # fmt: skip

    async def _quit(self, request: web.Request) -> web.Response:
        self._permit(request)
        self._parent.stop()
        return web.json_response({"status": "stopping"})

    def _chosen(self, request: web.Request) -> Process:
        """`?worker=N`, else the first that serves."""
        wanted = request.query.get("worker", "")
        serving = [one for one in self._parent.serving if not wanted or str(one.slot) == wanted]
        if not serving:
            raise web.HTTPServiceUnavailable(text="that worker does not serve now: see /workers")
        return serving[0]

    async def _other(self, request: web.Request) -> web.Response:
        if request.method == "POST" and request.path in TO_ALL:
            said = await self._all(request)
            if any(one.status == 200 for one in said):
                of = (request.path, request.query.get("name", "") if request.path == "/breakers" else "")
                self._orders[of] = request.path_qs, _headers(request), await request.read()
            return _passed_on(next((one for one in said if one.status != 200), said[0]))
        return _passed_on(await self._ask(self._chosen(request), request))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """One worker's stream of snapshots, passed on as it comes."""
        process = self._chosen(request)
        headers = _headers(request)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(process.admin), timeout=timeout) as session,
            session.get(f"http://worker{request.path_qs}", headers=headers) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _CONNECTION}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            await passed.prepare(request)
            async for chunk in answer.content.iter_any():
                await passed.write(chunk)
            return passed


_CONNECTION = frozenset(
    {"connection", "content-length", "transfer-encoding", "keep-alive", "accept-encoding", "content-encoding", "date",
     "server"}
)  # fmt: skip


class _Answer(web.HTTPException):
    """What a worker said, for the asker."""

    def __init__(self, answer: web.Response) -> None:
        self.status_code = answer.status
        super().__init__(body=answer.body, headers=answer.headers)


def _headers(request: web.Request) -> dict[str, str]:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _CONNECTION}
    headers["Accept"] = "text/plain" if request.path == "/metrics" else headers.get("Accept", "*/*")
    return headers


def _passed_on(said: Said) -> web.Response:
    if not said.body:
        return web.json_response(said.json, status=said.status)
    return web.Response(body=said.body, status=said.status, headers={**said.headers, "X-Worker": str(said.worker)})
