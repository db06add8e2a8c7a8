"""Two instances of the application on the same stores, and people who talk through either."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio

from tests.upstream_app.conftest import Client, Open, databases, log_in, until_ready
from tests.upstream_app.realtime.talker import Talker
from upstream_app import seed
from upstream_app.app import DATABASE, REDIS
from upstream_app.auth.passwords import Passwords
from upstream_app.auth.permissions import ROLES
from upstream_app.auth.store import UserStore

Pair = tuple[Client, Client]
Talk = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="session")
async def pair(open_app: Open, mongo_port: int, redis_port: int) -> Pair:
    environment = {
        "MONGODB_URI": f"mongodb://127.0.0.1:{mongo_port}/test_{uuid.uuid4().hex[:12]}",
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/{next(databases) % 16}",
    }
    one, other = await open_app(**environment), await open_app(**environment)
    await one.app[REDIS].flushdb()
    for client in (one, other):
        await until_ready(client)
    return one, other


@pytest_asyncio.fixture(loop_scope="session")
async def tokens(pair: Pair) -> dict[str, str]:
    store, passwords = UserStore(pair[0].app[DATABASE]), Passwords(memory_kib=64, rounds=1)
    await seed.users(store, passwords)
    passwords.close()
    return {role: await log_in(pair[0], role) for role in ROLES}


@pytest_asyncio.fixture(loop_scope="session")
async def talk(pair: Pair, tokens: dict[str, str]) -> AsyncIterator[Talk]:
    """`await talk("manager", 1, resume=…)` connects that role to the second instance."""
    opened: list[Talker] = []

    async def connect(role: str, instance: int = 0, **query: str) -> Talker:
        talker = Talker(await pair[instance].ws_connect("/realtime", params={"access_token": tokens[role], **query}))
        opened.append(talker)
        return await talker.welcomed()

    yield connect
    for one in opened:
        await one.close()
