"""A real server for the script, one a worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stack import servers
from stack.process import ServerProcess


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey_port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    port = servers.free_port()
    process = ServerProcess(servers.valkey(port, tmp_path_factory.mktemp("valkey")))
    await process.start()
    yield port
    await process.stop()
