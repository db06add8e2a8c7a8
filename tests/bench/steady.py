"""Requests at a steady rate, whether the answers keep up or not; latency counts from when a request was due.

`make bench-latency`: what two limits in Redis add at 2,000 requests a second, and whether one client at twenty times
its limit slows the others.
"""

from __future__ import annotations

import asyncio
import collections
import os
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import uvloop

from stack import servers
from stack.process import ServerProcess, Spec
from tests.bench.__main__ import LOAD_CORE, PROXY_CORE, ROOT, SHARED, bearer

RATE, SECONDS, CONNECTIONS = 2_000, 8.0, 64
HOT_LIMIT = 100
"""A second, of each client; the hot one asks for twenty times as much."""


class Client(asyncio.Protocol):
    """One keep-alive connection; answers come with a length and in order."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due: collections.deque[float] = collections.deque()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._due.append(due)
        self.transport.write(request)  # type: ignore[attr-defined]  # a stream transport

    @property
    def busy(self) -> bool:
        return bool(self._due)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            head = data[:end].lower()
            at = head.find(b"content-length: ")
            size = int(head[at + 16 :].split(b"\r", 1)[0])
            if len(data) < end + 4 + size:
                break
            self._load.answered(int(data[9:12]), perf_counter() - self._due.popleft())
            data = data[end + 4 + size :]
        self._buffer = data


class Load:
    def __init__(self, port: int, request: bytes, rate: float, connections: int = CONNECTIONS) -> None:
        self._port, self._request, self._rate, self._count = port, request, rate, connections
        self.seconds: list[float] = []
        self.statuses: collections.Counter[int] = collections.Counter()

    def answered(self, status: int, seconds: float) -> None:
        self.statuses[status] += 1
        self.seconds.append(seconds)

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(lambda: Client(self), "127.0.0.1", self._port) for _ in range(self._count)]
        clients = [client for _, client in made]
        began, sent = perf_counter(), 0
        while (now := perf_counter()) < began + seconds:
            while sent < (now - began) * self._rate:
                free = next((one for one in clients if not one.busy), clients[sent % len(clients)])
                clients.remove(free)
                clients.append(free)
                free.send(self._request, began + sent / self._rate)
                sent += 1
            await asyncio.sleep(0.0005)
        async with asyncio.timeout(10):
            while any(one.busy for one in clients):
                await asyncio.sleep(0.01)
        for transport, _ in made:
            transport.close()

    def at(self, share: float) -> float:
        """Milliseconds within which that share was answered."""
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))] * 1000


def request(client: str) -> bytes:
    return (
        f"GET /api/customers/65f1c0ffee HTTP/1.1\r\nHost: bench\r\nX-Forwarded-For: {client}\r\n{bearer()}\r\n\r\n"
    ).encode()


async def main() -> None:
    if not SHARED.exists():
        raise SystemExit("../shared/bench is not beside this clone: its nginx configuration is the upstream")
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(SHARED / "nginx_upstream.conf", folder)
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
        store = servers.free_port()
        policy = folder / "policy.yaml"
        text = (ROOT / "config" / "bench.yaml").read_text()
        policy.write_text(text.replace("trusted_proxies: [10.0.0.0/8]", "trusted_proxies: [127.0.0.0/8]"))
        hot = folder / "hot.yaml"
        hot.write_text(
            policy.read_text().replace("per-ip: {limit: 1000000000/1h,", f"per-ip: {{limit: {HOT_LIMIT}/1s,")
        )
        upstream = Spec(
            "upstream", [nginx, "-c", str(folder / "nginx_upstream.conf"), "-p", name], servers.listens(9001)
        )
        running = [ServerProcess(upstream), ServerProcess(servers.valkey(store, folder / "valkey"))]
        redis = f"redis://127.0.0.1:{store}"
        for process in running:
            await process.start()
        try:
            for title, path, switch in (
                ("without limits", policy, "false"),
                ("two limits in Redis", policy, "true"),
            ):
                async with proxied(path, redis, switch) as port:
                    load = Load(port, request("198.51.100.1"), RATE)
                    await Load(port, request("198.51.100.1"), RATE).run(1)
                    await load.run(SECONDS)
                    told(f"{RATE}/s, {title}", load)
            for title, factor in (("alone", 0), ("beside one at 20 times its limit", 20)):
                async with proxied(hot, redis, "true") as port:
                    others = [Load(port, request(f"198.51.100.{n}"), HOT_LIMIT * 0.8, 8) for n in range(2, 7)]
                    greedy = Load(port, request("198.51.100.1"), HOT_LIMIT * factor, 32)
                    loads = [*others, greedy] if factor else others
                    await asyncio.gather(*(one.run(SECONDS) for one in loads))
                    whole = Load(0, b"", 0)
                    for one in others:
                        whole.seconds += one.seconds
                        whole.statuses += one.statuses
                    told(f"five clients at 80/s each, {title}", whole)
                    if factor:
                        told("  the one", greedy)
        finally:
            for process in reversed(running):
                await process.stop()


class proxied:  # used as a context
    def __init__(self, policy: Path, redis: str, limits: str) -> None:
        self.port = servers.free_port()
        environment = {"RATE_LIMIT_ENABLED": limits}
        spec = servers.proxy(policy, self.port, servers.free_port(), "127.0.0.1:9001", redis, environment)
        self._process = ServerProcess(spec)

    async def __aenter__(self) -> int:
        await self._process.start()
        os.sched_setaffinity(self._process.pid, {int(PROXY_CORE)})
        return self.port

    async def __aexit__(self, *_: object) -> None:
        await self._process.stop()


def told(title: str, load: Load) -> None:
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(load.statuses.items()))
    sys.stdout.write(f"{title:54} p50 {load.at(0.5):6.2f} ms  p99 {load.at(0.99):6.2f} ms  {statuses}\n")


if __name__ == "__main__":
    uvloop.run(main())
