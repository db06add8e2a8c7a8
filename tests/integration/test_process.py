"""The command as an operator runs it: ready, serving, told to stop, told twice, and a port that is taken."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.wire import Reader, ScriptedUpstream, Wire, Writer

MINIMAL = Path(__file__).parents[2] / "config" / "minimal.yaml"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Command:
    def __init__(self, upstream_port: int) -> None:
        self.port, self.admin = free_port(), free_port()
        self._environment = {
            **os.environ, "PROXY_PORT": str(self.port), "ADMIN_PORT": str(self.admin),
            "UPSTREAM": f"127.0.0.1:{upstream_port}",
        }  # fmt: skip

    async def start(self) -> asyncio.subprocess.Process:
        arguments = ("-m", "proxy", "run", "--policy", str(MINIMAL))
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=self._environment, stdout=pipe, stderr=pipe
        )

    async def admin_status(self, path: str, method: str = "GET") -> int:
        url = f"http://127.0.0.1:{self.admin}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
            return answer.status

    async def ready(self) -> None:
        async with asyncio.timeout(15):
            while True:
                try:
                    if await self.admin_status("/readyz") == 200:
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)

    async def not_ready(self) -> None:
        async with asyncio.timeout(5):
            while await self.admin_status("/readyz") != 503:
                await asyncio.sleep(0.02)


@pytest.fixture
async def command(upstream: ScriptedUpstream) -> AsyncIterator[tuple[Command, asyncio.subprocess.Process]]:
    made = Command(upstream.port)
    process = await made.start()
    await made.ready()
    yield made, process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_sigterm_lets_what_runs_end(
    command: tuple[Command, asyncio.subprocess.Process], upstream: ScriptedUpstream
) -> None:
    made, process = command
    begun, go = asyncio.Event(), asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    wire = await Wire.connect(made.port)
    wire.send(GET)
    await asyncio.wait_for(begun.wait(), 5)
    process.send_signal(signal.SIGTERM)
    await made.not_ready()
    go.set()
    status, fields, body = await wire.answer()
    assert (status, body) == (200, b"ok")
    assert fields["connection"] == "close"
    wire.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_second_signal_ends_at_once(
    command: tuple[Command, asyncio.subprocess.Process], upstream: ScriptedUpstream
) -> None:
    made, process = command
    begun = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.read()

    upstream.script = script
    wire = await Wire.connect(made.port)
    wire.send(GET)
    await asyncio.wait_for(begun.wait(), 5)
    process.send_signal(signal.SIGTERM)
    await made.not_ready()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 1
    wire.close()


async def test_the_admin_port_tells_and_takes_writes_by_post_only(
    command: tuple[Command, asyncio.subprocess.Process],
) -> None:
    made, process = command
    for path in ("/livez", "/startupz", "/metrics", "/config_dump", "/clusters", "/routes", "/limits"):
        assert await made.admin_status(path) == 200
    for path in ("/drain", "/quitquitquit", "/loglevel"):
        assert await made.admin_status(path) == 405
    assert await made.admin_status("/loglevel?level=nonsense", "POST") == 400
    assert await made.admin_status("/loglevel?level=ERROR", "POST") == 200
    assert await made.admin_status("/quitquitquit", "POST") == 200
    _, error = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert b"serving" in error
    assert b"draining" not in error, "the level does not let it through"


async def test_a_taken_port_is_one_clear_line(command: tuple[Command, asyncio.subprocess.Process]) -> None:
    made, _ = command
    second = await made.start()
    async with asyncio.timeout(15):
        _, error = await second.communicate()
    assert second.returncode == 1
    assert error.decode().splitlines()[-1].startswith(f"can't listen on 127.0.0.1:{made.port}")
    assert b"Traceback" not in error
