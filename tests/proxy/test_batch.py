"""Writes of one tick together, over real sockets."""

from __future__ import annotations

import asyncio
import socket

from proxy.batch import Outbox, TickWriter


async def connected() -> tuple[asyncio.Transport, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    return transport, theirs


async def test_pieces_of_a_tick_leave_together_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    transport, peer = await connected()
    outbox = Outbox(TickWriter(loop), transport)
    with peer:
        for piece in (b"a", b"b", b"c"):
            outbox.write(piece)
        assert await loop.sock_recv(peer, 10) == b"abc"
        transport.close()


async def test_a_connection_that_has_closed_costs_the_others_nothing() -> None:
    loop = asyncio.get_running_loop()
    writer = TickWriter(loop)
    gone, far = await connected()
    alive, peer = await connected()
    dead, living = Outbox(writer, gone), Outbox(writer, alive)
    with far, peer:
        gone.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        dead.write(b"lost")
        living.write(b"kept")
        assert await loop.sock_recv(peer, 10) == b"kept"
        living.write(b"again")
        assert await loop.sock_recv(peer, 10) == b"again"
        alive.close()
