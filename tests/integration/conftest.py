"""A store of their own for tests that stop it, and patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from stack import servers
from stack.process import ServerProcess
from tests.conftest import Served


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, int]]:
    port = servers.free_port()
    process = ServerProcess(servers.valkey(port, tmp_path / "valkey"))
    await process.start()
    yield process, port
    await process.stop()


async def all_known(served: Sequence[Served]) -> None:
    """Wait until each of these sidecars knows of all."""
    for one in served:
        limiting = one.proxy.limiting
        assert limiting is not None
        await until(lambda limiting=limiting: limiting.peers == len(served))  # type: ignore[misc]


async def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until it is; fails with TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)
