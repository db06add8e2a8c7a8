"""Real servers for the application's tests, one of each a worker process; a database of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from stack import servers
from stack.process import ServerProcess
from upstream_app import app, seed, settings
from upstream_app.app import DATABASE, REDIS
from upstream_app.auth.passwords import Passwords
from upstream_app.auth.permissions import ROLES
from upstream_app.auth.store import UserStore

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
async def opened(open_app: Open, mongo_port: int, redis_port: int) -> Client:
    """Of an application that is ready; nobody has logged in."""
    made = await open_app(
        MONGODB_URI=f"mongodb://127.0.0.1:{mongo_port}/test_{uuid.uuid4().hex[:12]}",
        REDIS_URL=f"redis://127.0.0.1:{redis_port}/{next(databases) % 16}",
    )
    await until_ready(made)
    await made.app[REDIS].flushdb()
    return made


databases = itertools.count()


@pytest_asyncio.fixture(loop_scope="session")
async def users(opened: Client) -> dict[str, str]:
    """One user a role; their access tokens."""
    store, passwords = UserStore(opened.app[DATABASE]), Passwords(memory_kib=64, rounds=1)
    await seed.users(store, passwords)
    passwords.close()
    return {role: await log_in(opened, role) for role in ROLES}


async def log_in(client: Client, username: str, password: str = seed.PASSWORD) -> str:
    answer = await client.post("/api/auth/login", json={"username": username, "password": password})
    assert answer.status == 200, await answer.text()
    return str((await answer.json())["data"]["access_token"])


@pytest_asyncio.fixture(loop_scope="session")
async def client(opened: Client, users: dict[str, str]) -> Client:
    """A super_admin's."""
    opened.session.headers["Authorization"] = f"Bearer {users['super_admin']}"
    return opened


class Role:
    """Asks as one role."""

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        answer = await self._client.request(method, path, json=body, headers=self._headers | headers)
        return answer.status, await answer.json()

    async def raw(self, method: str, path: str, **headers: str) -> aiohttp.ClientResponse:
        return await self._client.request(method, path, headers=self._headers | headers)

    async def done(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer's data; fails where it is no success."""
        status, told = await self.ask(method, path, body, **headers)
        assert status < 300, told
        return told.get("data", told)


@pytest_asyncio.fixture(loop_scope="session")
async def roles(opened: Client, users: dict[str, str]) -> dict[str, Role]:
    return {role: Role(opened, token) for role, token in users.items()}


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
