"""Where an admin listens: on a socket that was given, a Unix socket, or an address."""

from __future__ import annotations

import socket

from aiohttp import web

from proxy.listener.door import DoorTerms, bound


async def opened(runner: web.AppRunner, place: tuple[str, int], given: list[socket.socket] | None) -> int:
    """The port, 0 for a Unix socket. Raises OSError where the place can't be had."""
    await runner.setup()
    host, port = place
    if given:
        site: web.BaseSite = web.SockSite(runner, given[0])
    elif host.startswith("unix:"):
        site = web.SockSite(runner, (await bound(DoorTerms(host, 0, 16)))[0])
    else:
        site = web.TCPSite(runner, host, port)
    await site.start()
    name = runner.addresses[0]
    return 0 if isinstance(name, str) else int(name[1])
