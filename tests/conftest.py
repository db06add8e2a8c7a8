"""Fixtures: a proxy in this process under a policy text, upstreams that say exact bytes, and counts at the end."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from proxy.app import Proxy
from proxy.policy.load import load
from proxy.telemetry.logs import JsonLines
from tests.wire import ScriptedUpstream, Wire

POLICY = """
version: 1
listener: {{address: "{address}", timeouts: {timeouts}, bounds: {bounds}, drain: 2s{listener_more}}}
admin: {{address: "{admin_address}", token: {token}}}
trusted_proxies: {trusted}
access_log: {{enabled: {access_log}}}
{more}
clusters:
  app: {{endpoints: [{cluster}
policies:
  all: {policies}
defaults: {{use: [all], max_body: 10MiB}}
routes:
{routes_before}  everything:
    {{match: {match}, limits: {limits}, to: app, timeouts: {route_timeouts}, max_body: {max_body_route}, {route_more}}}
"""


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


HANGS = 400
"""Seconds after which a test that even its time limit could not end takes its worker along, with every stack told."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    folder = Path(str(item.config.rootpath)) / "build"
    folder.mkdir(exist_ok=True)
    with open(folder / f"hung-{os.getpid()}.txt", "w", encoding="utf-8") as report:
        report.write(f"{item.nodeid}\n")
        report.flush()
        faulthandler.dump_traceback_later(HANGS, exit=True, file=report)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            Path(report.name).unlink()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a command or /loglevel sets is the whole process's."""
    root = logging.getLogger()
    level, handlers, configuration = root.level, list(root.handlers), structlog.get_config()
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if one not in handlers and isinstance(one.formatter, JsonLines)]:
        root.removeHandler(handler)
    structlog.configure(**configuration)


Start = Callable[..., Awaitable["Served"]]


class Served:
    """A running proxy, and what a test asks of it."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._wires: list[Wire] = []

    async def connect(self) -> Wire:
        wire = await Wire.connect(self.proxy.listener.port)
        self._wires.append(wire)
        return wire

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        wire = await self.connect()
        wire.send(request)
        return await wire.answer()

    def close_wires(self) -> None:
        for wire in self._wires:
            wire.close()

    async def settled(self) -> None:
        """Wait until no exchange runs, no client is connected and no upstream connection is in use; else fail."""
        listener = self.proxy.listener
        async with asyncio.timeout(5):
            while listener.open_connections or any(r.stats.in_flight for r in listener.routes.routes) or self.in_use():
                await asyncio.sleep(0.01)

    async def settled_upstream(self) -> None:
        """Wait until no upstream connection is in use."""
        async with asyncio.timeout(5):
            while self.in_use():
                await asyncio.sleep(0.01)

    def in_use(self) -> int:
        endpoints = [e for cluster in self.proxy.compiled.clusters.values() for e in cluster.endpoints]
        return sum(e.active + len(e.pool.open) - e.pool.idle + e.pool.waiting + e.pool.connecting for e in endpoints)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as server:
        yield server


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Start]:
    """`await serve(port, policies="{...}")` puts a proxy before that port; at its end everything is given back."""
    running: list[Served] = []

    async def start(port: int, **changes: Any) -> Served:
        settings = {
            "timeouts": "{}", "bounds": "{}", "trusted": "[]", "token": "", "access_log": "false",
            "max_connections": 64, "max_waiting": 64, "policies": "{security_headers: {preset: helmet}}",
            "more": "", "limits": "{}", "match": "{prefix: /}", "route_timeouts": "{}", "max_body_route": "10MiB",
            "route_more": "", "routes_before": "", "address": "127.0.0.1:0", "listener_more": "",
            "admin_address": "127.0.0.1:0",
        }  # fmt: skip
        bounds = "max_connections: {max_connections}, max_waiting: {max_waiting}".format(**{**settings, **changes})
        times = "timeouts: {connect: 500ms, wait: 300ms, idle: 4s}"
        settings["cluster"] = f'"127.0.0.1:{port}"], {bounds}, {times}}}'
        path = tmp_path / f"policy-{len(running)}.yaml"
        path.write_text(POLICY.format(**{**settings, **changes}))
        served = Served(Proxy(load(path, {})))
        await served.proxy.start()
        running.append(served)
        return served

    yield start
    for served in running:
        served.close_wires()
        with contextlib.suppress(TimeoutError):
            await served.settled()
        left = served.in_use()
        await served.proxy.stop(0)
        assert left == 0, "something of an exchange was not given back"
