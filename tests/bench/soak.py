"""`make soak`: mixed and broken load for minutes; memory must stay flat, and everything must come back.

The load: wrk on small answers all the time, and by this process uploads, large and chunked downloads,
clients that reset in mid-upload, that leave in mid-download, heads that never end, and an upstream that dies in
mid-body. Every few seconds the proxy's resident memory and open files are read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from stack import servers
from stack.process import ROOT, ServerProcess, StartFailure
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

SAMPLE_SECONDS = 5.0
GROWTH_MIB = 3.0
"""Allowed between the median of the middle third and that of the last third."""
MEBIBYTE = b"x" * 2**20


async def answer(reader: Reader, writer: Writer) -> None:
    """The upstream: what it does is in the path."""
    while True:
        head, _ = await read_request(reader)
        path = head.split(b" ", 2)[1]
        if path == b"/large":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n")
            for _ in range(4):
                writer.write(MEBIBYTE)
                await writer.drain()
        elif path == b"/chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(64):
                writer.write(b"400\r\n" + MEBIBYTE[:1024] + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        elif path == b"/dies":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            await writer.drain()
            return
        else:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}')
        await writer.drain()


async def upload(wire: Wire) -> None:
    wire.send(b"POST /upload HTTP/1.1\r\nHost: soak\r\nContent-Length: 1048576\r\n\r\n" + MEBIBYTE)
    await wire.answer()


async def download(wire: Wire) -> None:
    wire.send(b"GET /large HTTP/1.1\r\nHost: soak\r\n\r\nGET /chunked HTTP/1.1\r\nHost: soak\r\n\r\n")
    await wire.answer()
    await wire.answer()


async def reset_in_upload(wire: Wire) -> None:
    wire.send(b"POST /upload HTTP/1.1\r\nHost: soak\r\nContent-Length: 1048576\r\n\r\n" + MEBIBYTE[:70_000])
    await wire.writer.drain()
    wire.reset()


async def leave_in_download(wire: Wire) -> None:
    wire.send(b"GET /large HTTP/1.1\r\nHost: soak\r\n\r\n")
    await wire.head()
    wire.reset()


async def half_a_head(wire: Wire) -> None:
    wire.send(b"GET / HTTP/1.1\r\nHost: soak\r\nX-Slow: ")
    await wire.writer.drain()


async def upstream_dies(wire: Wire) -> None:
    wire.send(b"GET /dies HTTP/1.1\r\nHost: soak\r\n\r\n")
    await wire.rest()


async def refused(wire: Wire) -> None:
    wire.send(b"GET /../etc HTTP/1.1\r\nHost: soak\r\n\r\n")
    await wire.answer()


ACTS: list[Callable[[Wire], Awaitable[None]]] = [
    upload, download, reset_in_upload, leave_in_download, half_a_head, upstream_dies, refused,
]  # fmt: skip


async def misbehave(port: int, until: float, done: Counter[str], offset: int) -> None:
    turn = offset
    while time.monotonic() < until:
        act = ACTS[turn % len(ACTS)]
        turn += 1
        wire = await Wire.connect(port)
        try:
            await act(wire)
            done[act.__name__] += 1
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
            done[f"{act.__name__}: {type(error).__name__}"] += 1
        finally:
            wire.close()


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def in_flight(admin: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("proxy_requests_in_flight{")]
    if not values:
        raise SystemExit("the metrics name no requests in flight")
    return sum(values)


async def soak(minutes: float, connections: int) -> int:
    port, admin = servers.free_port(), servers.free_port()
    done: Counter[str] = Counter()
    samples: list[tuple[float, int]] = []
    policy = ROOT / "config" / "minimal.yaml"
    async with ScriptedUpstream() as upstream:
        upstream.script = answer
        at = f"127.0.0.1:{upstream.port}"
        proxy = ServerProcess(servers.proxy(policy, port, admin, at, "redis://127.0.0.1:1", {"ACCESS_LOG": "true"}))
        await proxy.start()
        try:
            before = open_files(proxy.pid)
            until = time.monotonic() + minutes * 60
            url = f"http://127.0.0.1:{port}/small"
            wrk = await asyncio.create_subprocess_exec(
                "wrk", "-t1", f"-c{connections}", f"-d{int(minutes * 60)}s", url, stdout=asyncio.subprocess.PIPE
            )
            clients = [asyncio.create_task(misbehave(port, until, done, n)) for n in range(8)]
            while time.monotonic() < until:
                await asyncio.sleep(min(SAMPLE_SECONDS, max(0.1, until - time.monotonic())))
                samples.append((resident(proxy.pid), open_files(proxy.pid)))
                print(f"{samples[-1][0]:7.1f} MiB {samples[-1][1]:6d} files {sum(done.values()):7d} acts", flush=True)
            await asyncio.gather(*clients)
            output, _ = await wrk.communicate()
            left = await settled(admin, proxy.pid, before)
        finally:
            with contextlib.suppress(StartFailure):
                await proxy.stop()
    third = len(samples) // 3 or 1
    middle = statistics.median(size for size, _ in samples[third : 2 * third] or samples)
    last = statistics.median(size for size, _ in samples[-third:])
    print(output.decode(), *(f"{name:40} {count}" for name, count in sorted(done.items())), sep="\n")
    print(f"memory {middle:.1f} → {last:.1f} MiB; left: {left or 'nothing'}")
    return int(last - middle > GROWTH_MIB or bool(left))


async def settled(admin: int, pid: int, before: int) -> str:
    """What is still there ten seconds after the load, beyond idle connections to the upstream."""
    for _ in range(100):
        running, files = await asyncio.to_thread(in_flight, admin), open_files(pid)
        if not running and files <= before + 4:
            return ""
        await asyncio.sleep(0.1)
    return f"{running:g} requests in flight, {files - before} files more than before"


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--minutes", type=float, default=10)
    cli.add_argument("--connections", type=int, default=100)
    given = cli.parse_args()
    sys.exit(asyncio.run(soak(given.minutes, given.connections)))
