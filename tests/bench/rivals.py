"""Two rivals in Python: `splice` copies bytes without looking (the floor), `naive` is what people write with aiohttp.

python -m tests.bench.rivals splice|naive PORT UPSTREAM_PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import aiohttp
import uvloop
from aiohttp import web


class _Side(asyncio.Protocol):
    def __init__(self, upstream_port: int | None) -> None:
        self.upstream_port = upstream_port
        self.other: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.upstream_port is not None:
            self.tasks.add(asyncio.get_running_loop().create_task(self._connect(self.upstream_port)))

    async def _connect(self, port: int) -> None:
        side = _Side(None)
        side.other = self.transport
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: side, "127.0.0.1", port)
        self.other = transport
        for data in self.early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)
        else:
            self.early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def splice(port: int, upstream_port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Side(upstream_port), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


async def naive(port: int, upstream_port: int) -> None:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512))

    async def forward(request: web.Request) -> web.Response:
        url = f"http://127.0.0.1:{upstream_port}{request.rel_url}"
        async with session.request(request.method, url, data=await request.read() or None) as answer:
            body = await answer.read()
            return web.Response(
                status=answer.status,
                body=body,
                headers={"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"},
                content_type=answer.content_type,
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, port, upstream_port = sys.argv[1:]
    uvloop.run({"splice": splice, "naive": naive}[kind](int(port), int(upstream_port)))
