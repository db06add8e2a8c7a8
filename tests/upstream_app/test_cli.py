"""The commands, as processes: migrations, seed data, workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.request
import uuid
from pathlib import Path

import orjson
import pytest
from pymongo import AsyncMongoClient

from stack import servers
from stack.process import ServerProcess
from tests.wire import Wire
from upstream_app.app import Stores
from upstream_app.seed import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def command(*arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(servers.BIN / "simplepro-app"), *arguments, env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode() + (err.decode() if process.returncode else "")


async def test_migrations_are_taken_once(mongo_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{mongo_port}/cli_{uuid.uuid4().hex[:8]}"
    assert await command("migrate", MONGODB_URI=uri) == (
        0,
        "1 indexes\n2 validators\n3 indexes of every collection\n4 validators of every collection\n"
        "5 jobs of a member of their crew\n6 how long estimates are good\n",
    )
    assert await command("migrate", MONGODB_URI=uri) == (0, "nothing to do\n")


async def test_migrate_prepares_every_collection_that_the_application_has(mongo_port: int) -> None:
    name = f"cli_{uuid.uuid4().hex[:8]}"
    uri = f"mongodb://127.0.0.1:{mongo_port}/{name}"
    assert (await command("migrate", MONGODB_URI=uri))[0] == 0
    async with AsyncMongoClient[dict[str, object]](uri) as client:
        found = {one: await client[name][one].index_information() for one in await client[name].list_collection_names()}
        wanted = {one.raw.name: one for one in Stores.of(client[name]).all}
    assert len(wanted) == 10
    for one, collection in wanted.items():
        assert len(found[one]) == 1 + len(collection.indexes), one


async def test_seed_data_comes_once_and_never_in_production(mongo_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{mongo_port}/cli_{uuid.uuid4().hex[:8]}"
    secrets = {"JWT_SECRET": "a" * 32, "JWT_REFRESH_SECRET": "b" * 32}
    for more in ({"NODE_ENV": "production", "ENVIRONMENT": "development"}, {"ENVIRONMENT": "production"}):
        status, said = await command("seed", MONGODB_URI=uri, **more, **secrets)
        assert (status, "no seed data in production" in said) == (1, True)
    status, said = await command("seed", MONGODB_URI=uri)
    assert (status, said.endswith("200 customers\n")) == (0, True)
    status, said = await command("seed", MONGODB_URI=uri)
    assert (status, said) == (0, "0 users (all were there), 0 customers\n")


async def test_a_database_that_is_away_is_one_line(mongo_port: int) -> None:
    uri = "mongodb://127.0.0.1:1/x?serverSelectionTimeoutMS=300"
    status, said = await command("migrate", MONGODB_URI=uri)
    assert status == 1
    assert said.startswith("the database does not answer as it should")
    assert "Traceback" not in said


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:  # noqa: S310  # an address of ours
        return bytes(answer.read())


async def test_a_request_that_runs_when_it_is_told_to_stop_is_answered(mongo_port: int, redis_port: int) -> None:
    """Log-ins take their time; one that was accepted is answered, whatever signal comes meanwhile."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        port = servers.free_port()
        uri = f"mongodb://127.0.0.1:{mongo_port}/cli_{uuid.uuid4().hex[:8]}"
        assert (await command("seed", MONGODB_URI=uri))[0] == 0
        more = {"MONGODB_MIN_POOL_SIZE": "0"}
        process = ServerProcess(servers.app(port, uri, f"redis://127.0.0.1:{redis_port}", more))
        await process.start()
        login = orjson.dumps({"username": "manager", "password": PASSWORD})
        head = (
            b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        wires = [await Wire.connect(port) for _ in range(12)]
        for wire in wires:
            wire.send(head % len(login) + login)
        assert (await wires[0].answer())[0] == 200
        process.signal(number)
        statuses = [(await wire.answer())[0] for wire in wires[1:]]
        assert set(statuses) <= {200, 429}, statuses
        assert await asyncio.wait_for(process.wait(), 20) == 0
        for wire in wires:
            wire.close()
        await process.stop()


def children(pid: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def test_workers_share_the_port_and_one_that_dies_is_replaced(mongo_port: int, redis_port: int) -> None:
    port = servers.free_port()
    uri = f"mongodb://127.0.0.1:{mongo_port}/cli_{uuid.uuid4().hex[:8]}"
    more = {"WORKER_PROCESSES": "2", "MONGODB_MIN_POOL_SIZE": "0"}
    process = ServerProcess(servers.app(port, uri, f"redis://127.0.0.1:{redis_port}", more))
    await process.start()
    try:
        before = children(process.pid)
        assert len(before) == 2
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(20):
            while victim in children(process.pid) or len(children(process.pid)) < 2:
                await asyncio.sleep(0.05)
        url = f"http://127.0.0.1:{port}/api/health/live"
        for _ in range(5):
            with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
                assert answer.status == 200
        now = children(process.pid)
        for _ in range(6):
            page = (await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics")).decode()
            seen = re.findall(r'^http_requests_total\{.*route="/api/health/live".*\} (\S+)', page, re.M)
            assert [float(one) for one in seen] == [5.0], "whichever worker answers tells of both"
    finally:
        assert await process.stop() == 0
    assert not [pid for pid in now if Path(f"/proc/{pid}").exists()]
