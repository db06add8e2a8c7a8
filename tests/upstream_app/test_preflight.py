"""Checks before a release, over real servers: each wrong thing has its line."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from pathlib import Path

import pytest

from stack.servers import BIN, free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ran(*command: str, **environment: str) -> tuple[int, dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    lines = output.decode().splitlines()
    return process.returncode or 0, {" ".join(line[7:21].split()): line for line in lines}


async def test_the_application_s(mongo_port: int, redis_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{mongo_port}/preflight-{uuid.uuid4().hex[:8]}?directConnection=true"
    environment = {
        "MONGODB_URI": uri, "REDIS_URL": f"redis://127.0.0.1:{redis_port}", "MONGODB_MIN_POOL_SIZE": "0",
        "JWT_SECRET": "a" * 40, "JWT_REFRESH_SECRET": "b" * 40,
    }  # fmt: skip
    app = str(BIN / "simplepro-app")
    code, told = await ran(app, "preflight", **environment)
    assert code == 1
    assert "Run: simplepro-app migrate" in told["migrations"]
    assert "Run: simplepro-app migrate" in told["indexes"]
    assert told["redis"].startswith("ok")
    assert told["clock"].startswith("ok")
    assert told["secrets"].startswith("ok")
    await ran(app, "migrate", **environment)
    _, told = await ran(app, "preflight", **environment)
    assert told["migrations"].startswith("ok")
    assert told["indexes"].startswith("ok")
    code, told = await ran(
        app, "preflight", **{**environment, "REDIS_URL": f"redis://127.0.0.1:{free_port()}", "JWT_SECRET": ""}
    )
    assert code == 1
    assert "Check REDIS_URL" in told["redis"]
    assert "a laptop's secret" in told["secrets"]


async def test_the_proxy_s(redis_port: int, tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    there, nowhere = server.sockets[0].getsockname()[1], free_port()
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f'version: 1\nlistener: {{address: "127.0.0.1:{free_port()}"}}\nadmin: {{address: "127.0.0.1:0"}}\n'
        f'redis: {{url: "redis://127.0.0.1:{redis_port}"}}\n'
        f'clusters: {{good: {{endpoints: ["127.0.0.1:{there}"]}}, bad: {{endpoints: ["127.0.0.1:{nowhere}"]}}}}\n'
        "routes: {all: {match: {prefix: /}, to: good}}\n"
    )
    code, told = await ran(sys.executable, "-m", "proxy", "preflight", "--policy", str(policy))
    assert code == 1
    assert {name: line[:5].strip() for name, line in told.items()} == {
        "policy": "ok", "files": "ok", "cluster good": "ok", "cluster bad": "WRONG", "redis": "ok", "clock": "ok",
        "listener": "ok",
    }  # fmt: skip
    policy.write_text(policy.read_text().replace(f', bad: {{endpoints: ["127.0.0.1:{nowhere}"]}}', ""))
    code, _ = await ran(sys.executable, "-m", "proxy", "preflight", "--policy", str(policy))
    assert code == 0
    server.close()
