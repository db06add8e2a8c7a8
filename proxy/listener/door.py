"""One address that clients come in by: its sockets are bound once, what serves on them can be replaced.

A changed certificate or setting gets another server on the same sockets, so that no connection meets a closed port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.listener.acceptor import Acceptor, Take
from proxy.proxy_protocol import Source
from proxy.tls import Fingerprint, Served, ServerTls, fingerprint, served_by, server_context

UNIX = "unix:"
UNIX_MODE = 0o660
FIRST_FD = 3
"""Of systemd's sockets (sd_listen_fds(3))."""
HANDSHAKE_SECONDS = 10.0
SHUTDOWN_SECONDS = 5.0
PROXY_HEAD_SECONDS = 5.0

Factory = Callable[[Source | None], asyncio.Protocol]


@dataclass(frozen=True, slots=True)
class DoorTerms:
    """`host` may be `unix:/path`. With `proxy_protocol` connections of trusted peers begin with such a head."""

    host: str
    port: int
    backlog: int
    tls: ServerTls | None = None
    proxy_protocol: bool = False
    reuse_port: bool = False

    @property
    def place(self) -> tuple[str, int]:
        return self.host, self.port


class Door:
    """`open` binds and serves, `serve` serves anew by other terms of the same place, `close` stops."""

    def __init__(
        self,
        terms: DoorTerms,
        factory: Factory,
        speaks: Callable[[str], bool],
        refused: Callable[[str], None],
    ) -> None:
        self.terms = terms
        self._factory = factory
        self._speaks = speaks
        self._refused = refused
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._acceptors: list[Acceptor] = []
        self._own = True
        self.certificates: tuple[Served, ...] = ()
        self._files: Fingerprint = ()
        self._context: ssl.SSLContext | None = None

    @property
    def port(self) -> int:
        """0 of a Unix socket."""
        name = self._sockets[0].getsockname() if self._sockets else None
        return int(name[1]) if isinstance(name, tuple) else self.terms.port

    async def open(self, given: list[socket.socket] | None = None) -> None:
        """On sockets that were `given` (systemd's, or a parent's), or on its own. Raises OSError, and ValueError where
        a certificate can't be used."""
        context = self._new_context()
        self._own = not given
        self._sockets = given or await bound(self.terms)
        try:
            await self.serve(self.terms, context)
        except BaseException:
            await self.close()
            raise

    def _new_context(self) -> ssl.SSLContext | None:
        if self.terms.tls is None:
            return None
        self._files = fingerprint(self.terms.tls.files)
        context = server_context(self.terms.tls)
        self.certificates = tuple(served_by(pair) for pair in self.terms.tls.pairs)
        return context

    @property
    def stale(self) -> bool:
        """Whether a certificate's file is another than the one that is served. Raises OSError where one is missing."""
        return self.terms.tls is not None and fingerprint(self.terms.tls.files) != self._files

    async def renew(self) -> None:
        """Serve what the certificate files say now. Raises ValueError or OSError, and the old ones are served on."""
        await self.serve(self.terms, self._new_context())

    async def change(self, terms: DoorTerms) -> None:
        """Other terms of the same place. Raises ValueError or OSError, with nothing changed."""
        before, self.terms = self.terms, terms
        try:
            await self.serve(terms, self._new_context() if terms.tls != before.tls else self._context)
        except BaseException:
            self.terms = before
            raise

    async def serve(self, terms: DoorTerms, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        acceptors: list[Acceptor] = []
        for one in self._sockets:
            copy = one.dup()
            copy.setblocking(False)
            if terms.proxy_protocol:
                copy.listen(terms.backlog)
                acceptors.append(Acceptor(copy, self._speaks, self._taker(context), self._refused, PROXY_HEAD_SECONDS))
                continue
            serving: Any = loop.create_unix_server if copy.family == socket.AF_UNIX else loop.create_server
            made = await serving(lambda: self._factory(None), sock=copy, backlog=terms.backlog, **_by_tls(context))
            servers.append(made)
        old = self._servers, self._acceptors
        self._servers, self._acceptors, self._context = servers, acceptors, context
        await _end(*old)

    def _taker(self, context: ssl.SSLContext | None) -> Take:
        async def take(sock: socket.socket, source: Source | None) -> None:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: self._factory(source), sock, **_by_tls(context))

        return take

    async def close(self) -> None:
        """Take no more connections; the address is given back."""
        await _end(self._servers, self._acceptors)
        self._servers, self._acceptors = [], []
        for one in self._sockets:
            if self._own:
                _gone(one)
            one.close()
        self._sockets = []


def _by_tls(context: ssl.SSLContext | None) -> dict[str, Any]:
    if context is None:
        return {}
    return {"ssl": context, "ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}


async def _end(servers: list[asyncio.Server], acceptors: list[Acceptor]) -> None:
    for server in servers:
        server.close()
    for acceptor in acceptors:
        await acceptor.close()


async def bound(terms: DoorTerms) -> list[socket.socket]:
    """One socket for each address of the host. Raises OSError."""
    if terms.host.startswith(UNIX):
        return [_unix(Path(terms.host.removeprefix(UNIX)))]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(terms.host, terms.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, kind, number, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, number)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if terms.reuse_port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                alone = address[0] != "::" or len(found) > 1
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, alone)
            one.bind(address)
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _unix(path: Path) -> socket.socket:
    """A socket that nobody serves any more is taken away; one that is served, or another kind of file, stays."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(str(path))
        path.chmod(UNIX_MODE)
    except BaseException:
        one.close()
        raise
    return one


def _gone(one: socket.socket) -> None:
    if one.family == socket.AF_UNIX:
        Path(one.getsockname()).unlink(missing_ok=True)


def inherited(environment: Mapping[str, str]) -> dict[str, list[socket.socket]]:
    """Sockets that systemd opened for this process, by their names (sd_listen_fds_with_names(3)): `http` and `https`
    are the listener's, `admin` the admin's; without names the first is the listener's."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environment.get("LISTEN_FDS") or 0)
    names = (environment.get("LISTEN_FDNAMES") or "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(count):
        name = names[index] if index < len(names) else ""
        name = "admin" if name.startswith("admin") else "redirect" if name.startswith("redirect") else "listener"
        one = socket.socket(fileno=FIRST_FD + index)
        one.set_inheritable(False)
        found.setdefault(name, []).append(one)
    return found
