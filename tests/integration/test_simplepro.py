"""SimplePro behind its own policy, all as processes: limits and sessions by role, what fails, and what comes back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as redis

from proxy.inspect.openapi import Contract
from stack import servers
from stack.process import ROOT, ServerProcess
from tests.upstream_app.test_way import the_whole_way
from upstream_app.auth.permissions import ROLES
from upstream_app.seed import PASSWORD


@dataclass
class Stack:
    proxy: int
    admin: int
    app: ServerProcess
    valkey: ServerProcess
    mongo: ServerProcess
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, Any, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.proxy}{path}"
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers

    async def log_in(self, username: str) -> str:
        status, told, _ = await self.ask("POST", "/api/auth/login", body={"username": username, "password": PASSWORD})
        assert status == 200, told
        return str(told["data"]["access_token"])


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    store, mongo, app, proxy, admin = (servers.free_port() for _ in range(5))
    uri, url = f"mongodb://127.0.0.1:{mongo}/simplepro", f"redis://127.0.0.1:{store}"
    valkey = ServerProcess(servers.valkey(store, tmp_path / "valkey", "--appendonly", "yes", "--appendfsync", "always"))
    running = [
        valkey,
        mongod := ServerProcess(servers.mongo(mongo, tmp_path / "mongo")),
        served := ServerProcess(
            servers.app(app, uri, url, {"MONGODB_MIN_POOL_SIZE": "0", "EDGE_PURGE_URL": f"http://127.0.0.1:{admin}"})
        ),
        ServerProcess(servers.proxy(ROOT / "config" / "simplepro.yaml", proxy, admin, f"127.0.0.1:{app}", url)),
    ]
    started: list[ServerProcess] = []
    try:
        for process in running:
            started.append(process)
            await process.start()
        environment = {**os.environ, "MONGODB_URI": uri, "REDIS_URL": url}
        seeding = await asyncio.create_subprocess_exec(
            str(servers.BIN / "simplepro-app"), "seed", env=environment, stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await seeding.wait() == 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            yield Stack(proxy, admin, served, valkey, mongod, session)
    finally:
        for process in reversed(started):
            process.signal(signal.SIGCONT)
            await process.stop()


async def test_a_day_through_the_policy(stack: Stack) -> None:
    status, told, headers = await stack.ask("GET", "/api/customers")
    assert (status, headers["X-Frame-Options"], headers["Cache-Control"].split(",")[0]) == (401, "DENY", "no-store")
    assert told["requestId"] == headers["X-Request-ID"]
    manager, sales = await stack.log_in("manager"), await stack.log_in("sales")
    status, told, headers = await stack.ask("GET", "/api/customers?search=ada", manager)
    assert status == 200
    assert told["pagination"]["total"] > 0
    assert "customers" in headers["RateLimit-Policy"] or "api" in headers["RateLimit-Policy"]
    new = {"firstName": "A", "lastName": "B", "phone": "+1 555 0100"}
    statuses = []
    for number in range(12):
        body = new | {"email": f"limit{number}@example.com"}
        status, told, headers = await stack.ask("POST", "/api/customers", sales, body)
        statuses.append(status)
    assert statuses == [201] * 10 + [429] * 2
    assert (told["rule"], 0 < int(headers["Retry-After"]) <= 60) == ("customers.create", True)
    assert (await stack.ask("POST", "/api/customers", manager, new | {"email": "other@example.com"}))[0] == 201
    status, told, _ = await stack.ask("DELETE", "/api/customers/0123456789abcdef01234567", sales)
    assert (status, told["statusCode"]) == (403, 403)
    await stack.ask("POST", "/api/auth/logout", sales)
    status, told, _ = await stack.ask("GET", "/api/auth/profile", sales)
    assert (status, told["type"].rpartition(":")[2]) == (401, "unauthenticated"), "the sidecar knows of the log-out"
    for path in ("/metrics", "/api/health/detailed"):
        assert (await stack.ask("GET", path))[0] == 403
    assert (await stack.ask("GET", "/api/health/detailed", await stack.log_in("admin")))[0] == 200
    statuses = []
    for _ in range(7):
        credentials = {"username": "nobody", "password": "x"}
        statuses.append((await stack.ask("POST", "/api/auth/login", body=credentials))[0])
    assert statuses[:5] == [401] * 5
    assert statuses[5:] == [429] * 2


async def test_attacks_are_refused_at_the_edge_and_harmless_behind_it(stack: Stack) -> None:
    manager = await stack.log_in("manager")
    new = {"firstName": "A", "lastName": "O'Brien", "email": "ob@example.com", "phone": "+1 555 0100"}
    attacks: tuple[tuple[str, str, Any], ...] = (
        ("POST", "/api/auth/login", {"username": {"$ne": None}, "password": {"$ne": None}}),
        ("POST", "/api/customers", new | {"firstName": "<img src=x onerror=alert(1)>"}),
        ("GET", "/api/customers?search[$regex]=.*", None),
        ("GET", "/api/customers?search=%27%20or%201%3D1--%20", None),
        ("POST", "/api/customers", new | {"__proto__": {"role": "admin"}}),
    )
    for method, path, body in attacks:
        status, told, _ = await stack.ask(method, path, manager, body)
        assert status in (400, 403), (path, told)
        assert told["rule"] in ("api.inspect", "api.validation"), told
    mine = f"http://127.0.0.1:{stack.app.spec.environment['PORT']}"
    for method, path, body in attacks:
        headers = {"Authorization": f"Bearer {manager}"}
        async with stack.session.request(method, mine + path, json=body, headers=headers) as answer:
            told = await answer.text()
            assert answer.status < 500, told
            assert answer.status in (200, 201, 400), told
            assert "application/json" in answer.headers["Content-Type"], "what is stored is never served as a page"
            if answer.status == 200:
                assert (await answer.json())["customers"] == [], "a search for just that text"
    new |= {"email": "another@example.com"}
    status, told, _ = await stack.ask("POST", "/api/customers", manager, new | {"role": "admin"})
    assert (status, told["validation"][0]["message"]) == (400, "unknown field"), "no mass assignment"
    assert (await stack.ask("POST", "/api/customers", manager, new))[0] == 201


class Asker:
    """One role, through the sidecar."""

    def __init__(self, stack: Stack, token: str) -> None:
        self._stack = stack
        self._token = token

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, told, headers = await self._stack.ask(method, path, self._token, body)
        assert headers["X-Frame-Options"] == "DENY"
        return status, told

    async def done(self, method: str, path: str, body: Any = None) -> Any:
        status, told = await self.ask(method, path, body)
        assert status < 300, told
        return told.get("data", told)


async def test_the_whole_way_through_the_policy(stack: Stack) -> None:
    """Lead to completion, by the roles that do each, with the policy's limits on."""
    roles = {role: Asker(stack, await stack.log_in(role)) for role in ROLES}
    ada = {"firstName": "Ada", "lastName": "Lovelace", "phone": "+1 (555) 010-0000"}
    url = stack.app.spec.environment["REDIS_URL"]
    async with redis.Redis.from_url(url, protocol=2, decode_responses=True) as client:
        await the_whole_way(client, roles, ada)
    async with stack.session.get(f"http://127.0.0.1:{stack.admin}/metrics") as answer:
        text = await answer.text()
    assert not re.findall(r'proxy_rejections_total\{mode="enforce".*', text), "no honest step is refused by the sidecar"


async def test_every_acknowledged_write_is_there_after_the_application_was_killed(stack: Stack) -> None:
    token, kept = await stack.log_in("super_admin"), []
    opportunity = {"title": "kept"}
    _, told, _ = await stack.ask("GET", "/api/customers?limit=1", token)
    opportunity["customerId"] = told["customers"][0]["id"]

    async def write(number: int) -> None:
        for count in range(40):
            try:
                title = opportunity | {"title": f"kept {number} {count}"}
                status, told, _ = await stack.ask("POST", "/api/opportunities", token, title)
            except aiohttp.ClientError:
                continue
            if status == 201:
                kept.append(told["data"]["id"])
            else:
                assert status in (502, 503, 504), told

    writers = [asyncio.create_task(write(number)) for number in range(6)]
    async with asyncio.timeout(30):
        while len(kept) < 30:
            await asyncio.sleep(0.01)
    stack.app.signal(signal.SIGKILL)
    await stack.app.wait()
    await stack.app.start()
    await asyncio.gather(*writers)
    before = len(kept)
    assert before >= 30
    async with asyncio.timeout(30):
        while (await stack.ask("GET", "/api/health/ready"))[0] != 200:
            await asyncio.sleep(0.1)
    missing = [one for one in kept if (await stack.ask("GET", f"/api/opportunities/{one}", token))[0] != 200]
    assert missing == []


async def test_sessions_come_back_with_redis_and_are_503_meanwhile(stack: Stack) -> None:
    token = await stack.log_in("manager")
    stack.valkey.signal(signal.SIGKILL)
    await stack.valkey.wait()
    credentials = {"username": "manager", "password": PASSWORD}
    statuses = {(await stack.ask("POST", "/api/auth/login", body=credentials))[0] for _ in range(3)}
    assert statuses == {503}
    assert (await stack.ask("GET", "/api/auth/profile", token))[0] == 503
    status, told, _ = await stack.ask("GET", "/api/health/ready")
    assert (status, told["status"]) == (200, "degraded")
    await stack.valkey.start()
    async with asyncio.timeout(30):
        while (await stack.ask("GET", "/api/auth/profile", token))[0] != 200:
            await asyncio.sleep(0.1)
    assert (await stack.ask("GET", "/api/customers?limit=1", token))[0] == 200


async def test_schemathesis_finds_no_5xx_and_nothing_undocumented(stack: Stack, tmp_path: Path) -> None:
    """As a super_admin, through a sidecar whose limits are off: all requests come from one address."""
    token = await stack.log_in("super_admin")
    port, upstream = servers.free_port(), stack.app.spec.environment["PORT"]
    store = stack.app.spec.environment["REDIS_URL"]
    policy, off = ROOT / "config" / "simplepro.yaml", {"RATE_LIMIT_ENABLED": "false"}
    unlimited = servers.proxy(policy, port, servers.free_port(), f"127.0.0.1:{upstream}", store, off)
    sidecar = ServerProcess(unlimited)
    await sidecar.start()
    try:
        await explore(stack, port, token, tmp_path)
    finally:
        await sidecar.stop()


async def explore(stack: Stack, port: int, token: str, tmp_path: Path) -> None:
    async with stack.session.get(f"http://127.0.0.1:{port}/api/openapi.json") as answer:
        made = await answer.json()
    assert len(Contract(made).operations) > 40, "the sidecar can hold requests against it"
    for path in ("/api/auth/logout", "/api/auth/change-password", "/api/auth/profile", "/api/auth/login"):
        del made["paths"][path]
    for operations in made["paths"].values():
        operations.pop("delete", None)
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(made))
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", str(document), "--url", f"http://127.0.0.1:{port}",
        "-H", f"Authorization: Bearer {token}", "--max-examples", "6", "--phases", "examples,fuzzing", "--seed", "1",
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--workers", "2", "--no-color",
    ]  # fmt: skip
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=110, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"Test cases:\n\s+(\d+) generated", done.stdout)
    assert generated, done.stdout[-2000:]
    assert int(generated[1]) > 200


async def test_the_edge_keeps_for_each_and_writers_see_their_writes(stack: Stack) -> None:
    manager, sales = await stack.log_in("manager"), await stack.log_in("sales")

    async def listed(token: str) -> tuple[Any, str]:
        status, told, headers = await stack.ask("GET", "/api/customers?limit=2", token)
        assert status == 200, told
        assert headers["Cache-Control"] == "no-store, no-cache, must-revalidate, private", (
            "for browsers nothing changes"
        )
        assert not {"Surrogate-Key", "Sidecar-Cache-Control", "CDN-Cache-Control"} & set(headers)
        return told, headers["Cache-Status"]

    assert "fwd=uri-miss; stored" in (await listed(manager))[1]
    assert "; hit" in (await listed(manager))[1]
    assert "fwd=uri-miss; stored" in (await listed(sales))[1], "each has its own"
    customer = {"firstName": "Edge", "lastName": "Writer", "email": "edge@example.com", "phone": "+15550009999"}
    for number in range(3):
        new = customer | {"email": f"edge{number}@example.com", "phone": f"+1555000999{number}"}
        status, made, _ = await stack.ask("POST", "/api/customers", manager, new)
        assert status == 201, made
        for token in (manager, sales):
            told, said = await listed(token)
            assert "; hit" not in said
        path = f"/api/customers/{made['data']['id']}"
        assert (await stack.ask("GET", path, manager))[1]["data"]["lastName"] == "Writer"
        assert "; hit" in (await stack.ask("GET", path, manager))[2]["Cache-Status"]
        status, told, _ = await stack.ask("PATCH", path, manager, {"lastName": f"Changed{number}"})
        assert status == 200, told
        assert (await stack.ask("GET", path, manager))[1]["data"]["lastName"] == f"Changed{number}"
    status, told, _ = await stack.ask("GET", "/api/customers?limit=2")
    assert status == 401, "what is kept is nobody's who is not known"
