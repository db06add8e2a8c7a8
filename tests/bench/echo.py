"""WebSockets that echo, and clients that ask them: the upstream and the load of the WebSocket suite.

python -m tests.bench.echo serve PORT
python -m tests.bench.echo load PORT PATH SOCKETS WARM_SECONDS SECONDS INTERVAL   (INTERVAL 0: each asks again at once)

`load` says `steady` when its window begins, `done` when it ends, then a line of JSON: messages, p50_ms, p99_ms,
closed, closes by second of the window, codes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import cast

import uvloop

from proxy.websocket.frames import TEXT, frame

UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TEXT_OF_100 = b'{"type":"message.send","data":{"content":"%s"}}' % (b"x" * 54)
QUESTION = frame(TEXT, TEXT_OF_100, masked=True)
ANSWER = frame(TEXT, TEXT_OF_100, masked=False)


class Echo(asyncio.Protocol):
    """Answers each frame of exactly the question's size by the same payload; close and other frames end it."""

    def __init__(self) -> None:
        self._held = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._held += data
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if not end:
                return
            if b"pgrade: websocket" not in head and b"pgrade: WebSocket" not in head:
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                self._held = rest
                return
            self._open, self._held = True, b""
            self._transport.write(UPGRADED)
            data = rest
        held = self._held + data if self._held else data
        count, left = divmod(len(held), len(QUESTION))
        self._held = held[len(held) - left :] if left else b""
        if count:
            self._transport.write(ANSWER * count)


class Asking(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self.load = load
        self.opened = load.loop.create_future()
        self.asked = 0.0
        self._held = 0
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(
            f"GET {self.load.path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
        )

    def ask(self) -> None:
        if not self.transport.is_closing():
            self.asked = time.perf_counter()
            self.transport.write(QUESTION)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            if b" 101 " not in data[:20]:
                self.opened.set_exception(ConnectionError(data[:200].decode("latin-1")))
                return
            self._open = True
            self.opened.set_result(None)
            return
        if data[0] == 0x88:
            self.load.on_close(int.from_bytes(data[2:4]))
            return
        self._held += len(data)
        if self._held >= len(ANSWER):
            self._held -= len(ANSWER)
            self.load.answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.closed += 1
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed in the handshake"))


class Load:
    def __init__(self, path: str, interval: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.path = path
        self.interval = interval
        self.closed = 0
        self.counting = False
        self.times: list[float] = []
        self.began = 0.0
        self.closes: Counter[int] = Counter()
        self.codes: Counter[int] = Counter()

    def on_close(self, code: int) -> None:
        self.closes[int(time.perf_counter() - self.began)] += 1
        self.codes[code] += 1

    def answered(self, one: Asking) -> None:
        if self.counting:
            self.times.append(time.perf_counter() - one.asked)
        if self.interval:
            self.loop.call_later(self.interval, one.ask)
        else:
            one.ask()


async def load(port: int, path: str, sockets: int, warm: float, seconds: float, interval: float) -> None:
    made = Load(path, interval)
    clients = []
    for begin in range(0, sockets, 50):
        some = min(50, sockets - begin)
        opened = await asyncio.gather(
            *(made.loop.create_connection(lambda: Asking(made), "127.0.0.1", port) for _ in range(some))
        )
        clients += [protocol for _, protocol in opened]
        await asyncio.gather(*(protocol.opened for _, protocol in opened))
    for one in clients:
        made.loop.call_later(random.random() * interval, one.ask)
    await asyncio.sleep(warm)
    sys.stdout.write("steady\n")
    sys.stdout.flush()
    made.counting, made.began = True, time.perf_counter()
    await asyncio.sleep(seconds)
    made.counting = False
    sys.stdout.write("done\n")
    times = sorted(made.times)
    row = {
        "messages": len(times),
        "p50_ms": round(times[len(times) // 2] * 1000, 2) if times else 0.0,
        "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2) if times else 0.0,
        "closed": made.closed,
        "closes": dict(sorted(made.closes.items())),
        "codes": dict(made.codes),
    }
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
    for one in clients:
        one.transport.abort()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    if kind == "serve":
        uvloop.run(serve(int(port)))
    else:
        path, sockets, *times = rest
        uvloop.run(load(int(port), path, int(sockets), *(float(one) for one in times)))
