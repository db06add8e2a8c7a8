"""Bytes from strangers, on both sides: no exception, no hang, nothing left, and what is sent on is well-formed."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conftest import Start
from tests.wire import Reader, ScriptedUpstream, Writer

REQUESTS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"PUT /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"GET /s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi",
]
BYTES = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\x00", b"\xff", b" ", b"\t", b":", b",", b"0", b"-", b"+", b";", b"%00",
         b"A" * 300, b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]  # fmt: skip


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One or two messages, cut, repeated, swapped and sprinkled."""
    data = b"".join(chance.choices(seeds, k=chance.randint(1, 2)))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(data) + 1)
        act = chance.randrange(5)
        if act == 0:
            data = data[:at] + chance.choice(BYTES) + data[at:]
        elif act == 1:
            data = data[:at] + data[at + chance.randint(1, 20) :]
        elif act == 2:
            data = data[:at] + data[max(0, at - 30) :]
        elif act == 3:
            data = data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]
        else:
            data = data[:at]
    return data


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(0, 3)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


TIMES = "{head: 300ms, idle: 300ms, body_progress: 300ms, write_stall: 300ms}"
ROUTE = "{request: 2s, per_try: 300ms, stream_idle: 300ms, websocket_idle: 300ms}"


@pytest.mark.parametrize("seed", range(12))
async def test_both_sides(
    serve: Start, upstream: ScriptedUpstream, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    heads: list[bytes] = []
    """What the upstream read as heads; those without Via are bodies, or what came through a tunnel."""

    async def hostile(reader: Reader, writer: Writer) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces(chance, mutated(chance, ANSWERS)):
                if writer.transport.is_closing():
                    return
                writer.write(piece)
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                return

    upstream.script = hostile
    served = await serve(upstream.port, timeouts=TIMES, route_timeouts=ROUTE)

    async def client() -> None:
        wire = await served.connect()
        try:
            for piece in pieces(chance, mutated(chance, REQUESTS)):
                if wire.writer.transport.is_closing():
                    return
                wire.send(piece)
                await asyncio.sleep(0)
            if chance.random() < 0.5 and not wire.writer.transport.is_closing():
                wire.half_close()
            async with asyncio.timeout(8):
                while await wire.reader.read(65536):
                    pass
        except ConnectionError:
            return
        finally:
            wire.close()

    for _ in range(6):
        await asyncio.gather(*(client() for _ in range(25)))
    await served.settled()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
    assert not served.proxy.listener.stats.rejections.get(("builtin.internal-error", "internal-error", "enforce"))
    written = [head.split(b"\r\n") for head in heads if b"\r\nvia: 1." in head]
    assert len(written) > 20
    for line, *fields in written:
        assert line.endswith(b" HTTP/1.1")
        assert b"\n" not in b"".join(fields)
        names = [field.partition(b":")[0] for field in fields]
        assert names.count(b"host") == 1
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
