"""WebSockets through a proxy, by exact frames on both sides."""

from __future__ import annotations

import asyncio

import pytest

from proxy.websocket.frames import CLOSE, TEXT, closing, frame, unmasked
from tests.conftest import Served
from tests.proxy.filters.conftest import ACCEPT, HANDSHAKE
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request


async def read_frame(reader: Reader) -> tuple[int, bytes]:
    """First byte and payload; fails where none comes in time."""
    async with asyncio.timeout(5):
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2))
        elif length == 127:
            length = int.from_bytes(await reader.readexactly(8))
        key = await reader.readexactly(4) if second & 0x80 else b""
        payload = await reader.readexactly(length)
        return first, unmasked(key + payload, 4, True) if key else payload


class Application:
    """Takes handshakes; keeps every frame that it gets, and answers by `say`."""

    def __init__(self) -> None:
        self.lines = ""
        self.heads: list[str] = []
        self.frames: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.bytes = b""
        """All that came after the handshakes, as it came."""
        self.echo = False
        self.writers: list[Writer] = []
        self.gone = asyncio.Event()

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        head, _ = await read_request(reader)
        self.heads.append(head.decode())
        lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{self.lines}"
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
        self.writers.append(writer)
        kept = asyncio.StreamReader()
        copying = asyncio.create_task(self._copy(reader, kept))
        try:
            while True:
                first, payload = await read_frame_forever(kept)
                self.frames.put_nowait((first, payload))
                if first & 0x0F == CLOSE:
                    writer.write(frame(CLOSE, payload, masked=False))
                    writer.write_eof()
                elif self.echo:
                    writer.write(frame(first & 0x0F, payload, masked=False))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)

    async def _copy(self, reader: Reader, kept: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(65536):
                self.bytes += data
                kept.feed_data(data)
        finally:
            kept.feed_eof()

    def say(self, data: bytes) -> None:
        self.writers[-1].write(data)

    async def heard(self) -> tuple[int, bytes]:
        async with asyncio.timeout(5):
            return await self.frames.get()


async def read_frame_forever(reader: Reader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2))
    elif length == 127:
        length = int.from_bytes(await reader.readexactly(8))
    key = await reader.readexactly(4)
    return first, unmasked(key + await reader.readexactly(length), 4, True)


class Socket:
    """A client's side."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def say(self, text: str | bytes, opcode: int = TEXT) -> None:
        self.wire.send(frame(opcode, text.encode() if isinstance(text, str) else text, masked=True))

    def raw(self, data: bytes) -> None:
        self.wire.send(data)

    async def heard(self) -> tuple[int, bytes]:
        return await read_frame(self.wire.reader)

    async def closed(self) -> tuple[int, str]:
        """The close frame that comes next but for what comes before it; answers it."""
        while True:
            first, payload = await self.heard()
            if first & 0x0F == CLOSE:
                self.say(payload, CLOSE)
                return closing(payload)


def handshake(*lines: str, target: str = "/") -> bytes:
    more = "".join(line + "\r\n" for line in lines)
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}{more}\r\n".encode()


async def connect(served: Served, *lines: str, target: str = "/") -> Socket:
    wire = await served.connect()
    wire.send(handshake(*lines, target=target))
    status, fields = await wire.head()
    assert status == 101, (status, fields)
    return Socket(wire)


@pytest.fixture
async def application(upstream: ScriptedUpstream) -> Application:
    made = Application()
    upstream.script = made
    return made


def part(opcode: int, payload: bytes, *, end: bool = False, rsv: int = 0) -> bytes:
    """One masked frame of several."""
    whole = frame(opcode, payload, masked=True)
    return bytes((opcode | rsv | (0x80 if end else 0),)) + whole[1:]
