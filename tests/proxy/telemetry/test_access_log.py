"""One line an exchange, with what an operator needs and nothing that is anybody's business."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from proxy.exchange import Exchange
from proxy.headers import Headers
from proxy.telemetry.access_log import MAX_QUEUED, AccessLog
from tests.conftest import Start
from tests.wire import ScriptedUpstream

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
async def log() -> AsyncIterator[tuple[AccessLog, Lines]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def lines() -> list[dict[str, Any]]:
        data = b""
        try:
            while piece := os.read(reading, 1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return [orjson.loads(line) for line in data.splitlines()]

    yield AccessLog(1.0, fd=writing, now=lambda: 1_764_000_000.123), lines
    os.close(writing)
    os.close(reading)


def exchange(**changes: object) -> Exchange:
    made = Exchange(b"GET", 1, Headers([(b"authorization", b"Bearer hunter2")]), "192.0.2.1", 0.0)
    made.path, made.query, made.status = b"/a", b"?token=hunter2", 200
    for name, value in changes.items():
        setattr(made, name, value)
    return made


async def test_a_line_says_what_happened(log: tuple[AccessLog, Lines]) -> None:
    writer, lines = log
    writer.emit(exchange(request_id=b"r1", bytes_out=5, endpoint="127.0.0.1:1"), 0.0125)
    await writer.close()
    (line,) = lines()
    assert line["time"] == "2025-11-24T16:00:00.123Z"
    assert (line["method"], line["path"], line["status"], line["duration_ms"]) == ("GET", "/a", 200, 12.5)
    assert (line["request_id"], line["endpoint"], line["bytes_out"]) == ("r1", "127.0.0.1:1", 5)
    assert "hunter2" not in str(line)
    assert "192.0.2.1" not in str(line)


async def test_hostile_paths_stay_one_line(log: tuple[AccessLog, Lines]) -> None:
    writer, lines = log
    hostile = b'/"},{"event":"forged"}\n\x00\xff\\'
    writer.emit(exchange(path=hostile), 0.0)
    await writer.close()
    (line,) = lines()
    assert line["event"] == "request"
    assert line["path"] == hostile.decode("latin-1")


async def test_methods_and_routes_that_never_were(log: tuple[AccessLog, Lines]) -> None:
    writer, lines = log
    writer.emit(exchange(method=b"M-SEARCH", path=b"", status=0), 0.0)
    await writer.close()
    assert lines()[0]["method"] == "M-SEARCH"


async def test_sampling_keeps_refusals_and_failures(log: tuple[AccessLog, Lines]) -> None:
    writer, lines = log
    writer._every = 10
    for _ in range(100):
        writer.emit(exchange(), 0.0)
    writer.emit(exchange(rejection="forbidden"), 0.0)
    writer.emit(exchange(failure="client-gone"), 0.0)
    await writer.close()
    assert len(lines()) == 12


async def test_past_its_bound_it_drops_and_counts() -> None:
    writer = AccessLog(1.0, fd=-1)
    writer.emit(exchange(path=b"/" + b"a" * MAX_QUEUED), 0.0)
    for _ in range(5):
        writer.emit(exchange(), 0.0)
    assert writer.dropped == 5


async def test_a_file_that_is_full_costs_its_lines_alone() -> None:
    with open("/dev/full", "wb") as full:
        writer = AccessLog(1.0, fd=full.fileno())
        writer.emit(exchange(), 0.0)
        await writer.close()
    assert writer.dropped == 1


async def test_over_the_proxy(serve: Start, upstream: ScriptedUpstream, log: tuple[AccessLog, Lines]) -> None:
    writer, lines = log
    served = await serve(upstream.port, access_log="true", policies="{ip: {mode: shadow, deny: [127.0.0.0/8]}}")
    assert served.proxy.access_log is not None
    served.proxy.access_log._fd = writer._fd
    _, fields, _ = await served.ask(b"GET /a?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    await served.ask(b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n")
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        while len(found) < 2:
            await asyncio.sleep(0.01)
            found += lines()
    passed, refused = found
    assert passed["request_id"] == fields["x-request-id"]
    assert passed["verdicts"] == [
        {"rule": "all.ip", "reason": "forbidden", "enforced": False, "detail": "this client address has no access"}
    ]
    assert passed["upstream_ms"] >= 0
    assert "secret" not in str(passed)
    assert (refused["status"], refused["rejection"]) == (400, "ambiguous-target")
