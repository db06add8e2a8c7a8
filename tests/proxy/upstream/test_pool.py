"""Who waits for a connection gets one, at whatever moment they ask."""

from __future__ import annotations

import asyncio

from proxy.batch import TickWriter
from proxy.rejection import Rejection
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.pool import Pool, PoolLimits
from tests.wire import Reader, ScriptedUpstream, Writer


class Asker:
    """Asks, and has the next one ask in the very call that brings its connection."""

    def __init__(self, pool: Pool, left: int, done: asyncio.Future[int]) -> None:
        self.pool = pool
        self.left = left
        self.done = done

    def ask(self) -> None:
        connection = self.pool.acquire(self)
        if connection is not None:
            self.on_connection(connection)

    def on_connection(self, connection: UpstreamConnection) -> None:
        if self.left:
            Asker(self.pool, self.left - 1, self.done).ask()
        else:
            self.done.set_result(len(self.pool.open))

    def on_no_connection(self, rejection: Rejection) -> None:
        self.done.set_exception(rejection)


async def hold(reader: Reader, writer: Writer) -> None:
    await reader.read()
    writer.close()


async def test_one_who_asks_while_another_is_served_has_a_connection_made() -> None:
    """Each connection is kept, as WebSockets keep theirs: nothing comes back that could be handed on."""
    loop = asyncio.get_running_loop()
    async with ScriptedUpstream() as server:
        server.script = hold
        limits = PoolLimits(max_connections=100, max_waiting=100, wait=1.0, connect=1.0, idle=4.0)
        pool = Pool("127.0.0.1", server.port, limits, loop, TickWriter(loop))
        done: asyncio.Future[int] = loop.create_future()
        Asker(pool, 4, done).ask()
        try:
            assert await asyncio.wait_for(done, 2) == 5
            assert (pool.waiting, pool.connecting) == (0, 0)
        finally:
            await pool.close()
