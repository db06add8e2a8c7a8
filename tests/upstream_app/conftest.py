"""Real servers for the application's tests, one of each a worker process; a database of its own for each test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from stack import servers
from stack.process import ServerProcess
from upstream_app import app, settings

Client = TestClient[Any, Any]
Open = Callable[..., Awaitable[Client]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mongo_port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    port = servers.free_port()
    process = ServerProcess(servers.mongo(port, tmp_path_factory.mktemp("mongo")))
    await process.start()
    yield port
    await process.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    port = servers.free_port()
    process = ServerProcess(servers.valkey(port, tmp_path_factory.mktemp("valkey")))
    await process.start()
    yield port
    await process.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def open_app() -> AsyncIterator[Open]:
    """`await open_app(MONGODB_URI=…)` gives a client of a running application."""
    clients: list[Client] = []

    async def start(**environment: str) -> Client:
        chosen = settings.read({"MONGODB_MIN_POOL_SIZE": "0", **environment})
        client = TestClient(TestServer(app.build(chosen)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


@pytest_asyncio.fixture(loop_scope="session")
async def client(open_app: Open, mongo_port: int, redis_port: int) -> Client:
    """Of an application that is ready."""
    database = f"test_{uuid.uuid4().hex[:12]}"
    opened = await open_app(
        MONGODB_URI=f"mongodb://127.0.0.1:{mongo_port}/{database}", REDIS_URL=f"redis://127.0.0.1:{redis_port}"
    )
    await until_ready(opened)
    return opened


async def until_ready(client: Client) -> None:
    async with asyncio.timeout(20):
        while (await client.get("/api/health/ready")).status != 200:
            await asyncio.sleep(0.05)


@pytest.fixture
def ada() -> dict[str, Any]:
    return {
        "firstName": "Ada",
        "lastName": "Lovelace",
        "email": "Ada@Example.com",
        "phone": "+1 (555) 010-0000",
        "address": {"street": "1 Way", "city": "Örebro", "state": "NY", "zipCode": "10001"},
    }
