"""An endpoint's name, looked up again and again: of its addresses each is used in turn, of both families.

The system's resolver tells no time to live, so `refresh` is the policy's. While a look-up fails the last answer holds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address

log = logging.getLogger(__name__)

FAMILIES = {"any": socket.AF_UNSPEC, "v4": socket.AF_INET, "v6": socket.AF_INET6}


def is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return not host.startswith("unix:")
    return False


async def look_up(host: str, port: int, family: int) -> set[str]:
    """What the system's resolver says. Raises OSError where the name leads nowhere."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return {str(one[4][0]) for one in found}


class Resolver:
    def __init__(self, host: str, port: int, family: str, refresh: float) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        """Of the last look-up that succeeded, without order."""
        self.failures = 0
        self._port = port
        self._family = FAMILIES[family]
        self._refresh = refresh
        self._turn = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"dns {self.host}")

    async def _run(self) -> None:
        while True:
            try:
                await self.look_up()
            except OSError as error:
                self.failures += 1
                log.warning("%s does not resolve: %s", self.host, error.strerror or error)
            await asyncio.sleep(self._refresh)

    async def look_up(self) -> None:
        """Raises OSError where the name leads nowhere."""
        addresses = tuple(sorted(await look_up(self.host, self._port, self._family)))
        if self.addresses and addresses != self.addresses:
            log.info("%s is now %s", self.host, ", ".join(addresses))
        self.addresses = addresses

    async def in_turn(self) -> list[str]:
        """Every address once, beginning with the next one. Raises OSError where none was ever found."""
        if not self.addresses:
            await self.look_up()
        self._turn += 1
        at = self._turn % len(self.addresses)
        return [*self.addresses[at:], *self.addresses[:at]]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
