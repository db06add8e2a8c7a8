"""Takes connections that may begin with a PROXY head.

Heads are read from the kernel's buffer by peeking, so that not one byte of what follows (TLS, or HTTP) is taken.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from proxy.proxy_protocol import MAX_HEAD, NoProxyHead, Source, parse

log = logging.getLogger(__name__)

PENDING = 1024
"""Connections whose head has not come; more wait in the kernel."""
LOOK_AGAIN = 0.01

Take = Callable[[socket.socket, Source | None], Awaitable[None]]


class Acceptor:
    """Takes connections from a listening socket; from those that `speaks` says so of, a head is read first.

    `take` gets the socket and goes on; a head that is wrong, or not there within `deadline` seconds, closes it.
    """

    def __init__(
        self,
        listening: socket.socket,
        speaks: Callable[[str], bool],
        take: Take,
        refused: Callable[[str], None],
        deadline: float,
    ) -> None:
        self._listening = listening
        self._speaks = speaks
        self._take = take
        self._refused = refused
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._pending: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._task = self._loop.create_task(self._accept(), name="accept")

    async def _accept(self) -> None:
        while True:
            while len(self._pending) >= PENDING:
                await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
            try:
                sock, peer = await self._loop.sock_accept(self._listening)
            except OSError as error:
                log.warning("no connection can be taken: %s", error.strerror or error)
                await asyncio.sleep(1.0)
                continue
            task = self._loop.create_task(self._begin(sock, peer), name="proxy head")
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _begin(self, sock: socket.socket, peer: object) -> None:
        address = peer[0] if isinstance(peer, tuple) else ""
        try:
            source = None
            if self._speaks(address):
                async with asyncio.timeout(self._deadline):
                    source = await self._head(sock)
            await self._take(sock, source)
        except NoProxyHead as error:
            self._refused(str(error))
            sock.close()
        except TimeoutError:
            self._refused("no PROXY head came in time")
            sock.close()
        except OSError:
            sock.close()
        except BaseException:
            sock.close()
            raise

    async def _head(self, sock: socket.socket) -> Source | None:
        seen = -1
        while True:
            try:
                data = sock.recv(MAX_HEAD, socket.MSG_PEEK)
            except BlockingIOError:
                await self._readable(sock)
                continue
            if not data:
                raise NoProxyHead("the connection ended before its PROXY head")
            head = parse(data)
            if head is not None:
                sock.recv(head.length)
                return head.source
            if len(data) == seen:
                await asyncio.sleep(LOOK_AGAIN)
            seen = len(data)

    async def _readable(self, sock: socket.socket) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(sock, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(sock)

    async def close(self) -> None:
        """Those whose head has not come are closed with it."""
        self._task.cancel()
        for task in self._pending:
            task.cancel()
        await asyncio.gather(self._task, *self._pending, return_exceptions=True)
        self._listening.close()


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
