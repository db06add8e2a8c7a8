"""The cases that others wrote, where they are present (../shared/conformance), against a served minimal policy."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from stack.servers import free_port
from tests.conftest import Start

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "conformance"
PROBE, CLIENTS = SHARED / "http11probe.py", SHARED / "realclients.mjs"
WAF = SHARED / "gotestwaf_runner.py"


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read() or b"OK")

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


@pytest.mark.skipif(not PROBE.exists(), reason="../shared/conformance is not beside this clone")
async def test_http11probe(serve: Start, echo_port: int) -> None:
    served = await serve(echo_port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROBE), str(served.proxy.listener.port), "-v", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    summary = output.decode().splitlines()[0]
    passed = re.search(r"'pass': (\d+)", summary)
    assert passed, output.decode()
    assert int(passed[1]) > 100
    assert "'FAIL'" not in summary, output.decode()


@pytest.mark.skipif(not CLIENTS.exists(), reason="../shared/conformance is not beside this clone")
async def test_real_websocket_clients(serve: Start) -> None:
    upstream = free_port()
    served = await serve(upstream, cluster=f'"127.0.0.1:{upstream}"], timeouts: {{wait: 5s}}}}')
    process = await asyncio.create_subprocess_exec(
        "node", str(CLIENTS), f"http://127.0.0.1:{served.proxy.listener.port}", str(upstream),
        env={**os.environ, "CLIENTS": str(ROOT / "build" / "clients")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "13 passed, 0 failed" in text


@pytest.mark.skipif(not WAF.exists(), reason="../shared/conformance is not beside this clone")
async def test_gotestwaf(serve: Start, echo_port: int) -> None:
    """The bars of docs/security.md: 90 % of all attacks, Base64 or not, and every honest request."""
    http = (
        "{dot_segments: resolve, duplicate_slashes: keep, encoded_slash: keep, backslash: keep, encoded_controls: keep}"
    )
    served = await serve(echo_port, policies="{inspect: {on_oversize: head}}", listener=f"http: {http}")
    url = f"http://127.0.0.1:{served.proxy.listener.port}/"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(WAF), "--url", url, "--cases", str(SHARED / "gotestwaf"), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(100):
        output, _ = await process.communicate()
    text = output.decode()
    attacks = re.search(r"blocked/total malicious: (\d+)/(\d+)", text)
    honest = re.search(r"passed/total benign: +(\d+)/(\d+)", text)
    assert attacks, text
    assert honest, text
    assert int(attacks[1]) > 0.9 * int(attacks[2]), text
    assert honest[1] == honest[2], text
