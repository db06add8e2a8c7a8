"""The proxy's own log: nothing that happens to its file stops who writes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.telemetry.logs import MAX_QUEUED, Sink
from stack.servers import free_port


def test_lines_come_whole_and_in_order() -> None:
    reader, writer = os.pipe()
    sink = Sink(writer)
    for number in range(100):
        assert sink.write(f"{number}\n") == len(f"{number}\n")
    assert sink.close()
    assert os.read(reader, 65536).decode().split() == [str(number) for number in range(100)]
    assert sink.dropped == 0
    os.close(reader)
    os.close(writer)


def test_a_full_disk_costs_its_lines_alone() -> None:
    with open("/dev/full", "wb") as full:
        sink = Sink(full.fileno())
        sink.write("one\n")
        assert sink.close()
    assert sink.dropped == 1


def test_who_stops_reading_blocks_nobody() -> None:
    reader, writer = os.pipe()
    sink = Sink(writer)
    line = "a" * 1023 + "\n"
    for _ in range(2 * MAX_QUEUED // 1024):
        sink.write(line)
    assert sink.dropped >= MAX_QUEUED // 1024 - 64
    assert not sink.close(0.05)
    os.close(reader)
    assert sink.close(5)
    os.close(writer)


@pytest.mark.parametrize("where", ["/dev/full", "a pipe that nobody reads"])
async def test_a_proxy_serves_whatever_becomes_of_its_output(tmp_path: Path, where: str) -> None:
    port, admin = free_port(), free_port()
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f'version: 1\nlistener: {{address: "127.0.0.1:{port}"}}\nadmin: {{address: "127.0.0.1:{admin}"}}\n'
        'clusters: {app: {endpoints: ["127.0.0.1:9"]}}\nroutes: {all: {match: {prefix: /}, to: app}}\n'
    )
    command = [sys.executable, "-m", "proxy", "run", "--policy", str(policy), "--log-level", "DEBUG"]
    reader, writer = os.pipe()
    with open("/dev/full", "wb") as full:
        target = full.fileno() if where == "/dev/full" else writer
        process = subprocess.Popen(command, stdout=target, stderr=target)
    os.close(writer)
    if where == "/dev/full":
        os.close(reader)
    try:
        async with aiohttp.ClientSession() as session:
            await _ready(session, admin)
            for _ in range(700):
                async with session.get(f"http://127.0.0.1:{port}/{'a' * 200}") as answer:
                    assert answer.status in (502, 503)
            if where == "/dev/full":
                async with session.get(f"http://127.0.0.1:{admin}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                assert [one for one in lines if one.startswith("proxy_log_dropped_total ")] != []
        process.terminate()
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.kill()
        process.wait()
        if where != "/dev/full":
            os.close(reader)


async def _ready(session: aiohttp.ClientSession, admin: int) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{admin}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
