"""Many connections, slow ones, and bodies larger than memory, before the command as an operator runs it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stack import servers
from stack.process import ServerProcess
from tests.wire import ScriptedUpstream

MINIMAL = Path(__file__).parents[2] / "config" / "minimal.yaml"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PIECE = bytes(2**20)


@contextlib.asynccontextmanager
async def running(upstream_port: int, **environment: str) -> AsyncIterator[tuple[int, ServerProcess]]:
    port, admin = servers.free_port(), servers.free_port()
    spec = servers.proxy(MINIMAL, port, admin, f"127.0.0.1:{upstream_port}", "redis://127.0.0.1:1", environment)
    process = ServerProcess(spec)
    await process.start()
    try:
        yield port, process
    finally:
        assert await process.stop() == 0, process.lines


def resident(process: ServerProcess) -> float:
    """MiB."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Seconds that one request took."""
    began = time.perf_counter()
    writer.write(GET)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    return time.perf_counter() - began


async def worst_of_a_hundred(port: int, clients: int = 8, rounds: int = 100) -> float:
    """The 99th percentile in seconds of so many clients that take turns."""

    async def one() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return [await ask(reader, writer) for _ in range(rounds)]
        finally:
            writer.close()

    times = sorted(t for found in await asyncio.gather(*(one() for _ in range(clients))) for t in found)
    return times[int(len(times) * 0.99)]


async def test_ten_thousand_idle_connections(upstream: ScriptedUpstream) -> None:
    async with running(upstream.port) as (port, process):
        before = resident(process)
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            for _ in range(10_000 // 250):
                batch = [socket.socket() for _ in range(250)]
                sockets += batch
                for one in batch:
                    one.setblocking(False)
                await asyncio.gather(*(loop.sock_connect(one, ("127.0.0.1", port)) for one in batch))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await ask(reader, writer)
            held = len(os.listdir(f"/proc/{process.pid}/fd"))
            each = (resident(process) - before) * 1024 / len(sockets)
            await ask(reader, writer)
            writer.close()
        finally:
            for one in sockets:
                one.close()
        assert held >= 10_000
        assert each < 16, f"{each:.1f} KiB for each idle connection"


async def test_slow_heads_do_not_slow_others(upstream: ScriptedUpstream) -> None:
    async with running(upstream.port) as (port, _):
        await worst_of_a_hundred(port)
        alone = min([await worst_of_a_hundred(port) for _ in range(3)])
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]

        async def trickle() -> None:
            """A byte of each five times a second; a few at a time, or it would be this loop that keeps the others."""
            for at in itertools.cycle(range(0, 1000, 10)):
                for _, writer in slow[at : at + 10]:
                    writer.write(b"G")
                await asyncio.sleep(0.002)

        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        drip = asyncio.create_task(trickle())
        try:
            beside = min([await worst_of_a_hundred(port) for _ in range(3)])
        finally:
            drip.cancel()
            for _, writer in slow:
                writer.close()
        assert beside <= max(2 * alone, alone + 0.05), f"p99 {alone * 1000:.1f} → {beside * 1000:.1f} ms"


def swallow(server: socket.socket, size: int) -> None:
    """An upstream that reads a request's body and then sends one as large back."""
    connection, _ = server.accept()
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        left = size - len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(2**20)
        while left:
            left -= connection.recv_into(buffer, min(left, len(buffer)))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            connection.sendall(PIECE)


def send_and_count(port: int, size: int) -> int:
    """Upload that many bytes and count the answer's."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            client.sendall(PIECE)
        buffer, counted = bytearray(2**20), 0
        while got := client.recv_into(buffer):
            counted += got
        return counted


@pytest.mark.timeout(200)
async def test_five_gigabytes_each_way_in_flat_memory() -> None:
    size = 5 * 2**30
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with running(server.getsockname()[1], PROXY_MAX_BODY="6GiB") as (port, process):
            before = peak = resident(process)
            threading.Thread(target=swallow, args=(server, size), daemon=True).start()
            moving = asyncio.create_task(asyncio.to_thread(send_and_count, port, size))
            while not moving.done():
                await asyncio.wait({moving}, timeout=0.1)
                peak = max(peak, resident(process))
            assert size < await moving < size + 4096
            assert peak - before < 32, f"{before:.0f} → {peak:.0f} MiB"
