"""`make run` as a newcomer meets it: the real command, on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from stack.__main__ import Unusable, plan, ports
from stack.process import ROOT
from stack.servers import free_port


def environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    names = ("PROXY_PORT", "ADMIN_PORT", "PORT", "REDIS_PORT", "MONGODB_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "MONGODB_URI")}
    return {**kept, **{name: str(free_port()) for name in names}, "DATA_DIR": str(tmp_path), **changes}


async def start(chosen: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stack", cwd=ROOT, env=chosen,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


def children(pid: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def test_everything_starts_answers_and_ends(tmp_path: Path) -> None:
    chosen = environment(tmp_path)
    process = await start(chosen)
    assert process.stdout
    said = b""
    async with asyncio.timeout(60):
        while b"Ctrl-C ends everything" not in said:
            line = await process.stdout.readline()
            assert line, said.decode()
            said += line
    text = said.decode()
    assert "HTTP/1.1 200 OK" in text
    assert "content-security-policy: default-src 'self'" in text
    assert "8 users (super_admin, admin, manager" in text
    assert "200 customers" in text
    assert '"success":true,"customers":[{"id":"' in text
    assert '"total":200' in text
    assert f"http://127.0.0.1:{chosen['PROXY_PORT']}" in text
    with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{chosen['ADMIN_PORT']}/readyz") as answer:
        assert answer.status == 200
    started = children(process.pid)
    assert len(started) == 4
    process.send_signal(signal.SIGINT)
    rest, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, rest.decode()
    order = [line.split("stopping ")[1] for line in rest.decode().splitlines() if "stack | stopping" in line]
    assert order == ["proxy", "app", "mongo", "valkey"]
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


async def test_a_server_that_dies_ends_the_rest_and_is_named(tmp_path: Path) -> None:
    process = await start(environment(tmp_path, PORT=str(free_port()), ENVIRONMENT="no"))
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "app ended with status 1" in said.decode()
    assert "ENVIRONMENT: input should be" in said.decode()
    assert "Traceback" not in said.decode()


@pytest.mark.parametrize(("variable", "what"), [("PROXY_PORT", "the proxy"), ("REDIS_PORT", "Valkey")])
async def test_a_port_in_use_is_one_line(tmp_path: Path, variable: str, what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await start(environment(tmp_path, **{variable: str(port)}))
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert len(said.decode().splitlines()) == 1
    assert said.decode().startswith(f"port {port} ({what}) is in use: end what holds it, choose another: {variable}=")


@pytest.mark.parametrize("variable", ["REDIS_URL", "MONGODB_URI"])
async def test_a_server_of_ones_own_that_is_not_there_is_one_line(tmp_path: Path, variable: str) -> None:
    scheme = "redis" if variable == "REDIS_URL" else "mongodb"
    process = await start(environment(tmp_path, **{variable: f"{scheme}://127.0.0.1:1"}))
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert said.decode().splitlines() == [
        f"{variable}: nobody answers at 127.0.0.1:1. Start it, or leave {variable} out to have one here"
    ]


def test_two_servers_have_two_ports(tmp_path: Path) -> None:
    port = str(free_port())
    chosen = environment(tmp_path, PROXY_PORT=port, ADMIN_PORT=port)
    with pytest.raises(Unusable, match="are the same port"):
        plan(ports(chosen), chosen)


def test_what_is_no_port() -> None:
    with pytest.raises(Unusable, match="PORT=99999 is no port"):
        ports({"PORT": "99999"})


def test_servers_of_ones_own_are_not_started(tmp_path: Path) -> None:
    chosen = environment(tmp_path, REDIS_URL="redis://r:1", MONGODB_URI="mongodb://m/x")
    specs = plan(ports(chosen), chosen)
    assert [spec.name for spec in specs] == ["app", "proxy"]
    assert specs[0].environment["REDIS_URL"] == specs[1].environment["REDIS_URL"] == "redis://r:1"
