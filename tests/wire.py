"""Bytes on loopback: a client that says exactly what a test wrote, and an upstream that answers exactly so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeAlias

DEADLINE = 10.0
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Script = Callable[[Reader, Writer], Awaitable[None]]


class Wire:
    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """Close with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(DEADLINE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *fields = raw.decode("latin-1").split("\r\n")[:-2]
        return int(line.split(" ")[1]), {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}

    async def answer(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One whole answer: status, fields, body (chunks joined)."""
        status, fields = await self.head()
        if head_only or status in (204, 304) or status < 200:
            return status, fields, b""
        async with asyncio.timeout(DEADLINE):
            if fields.get("transfer-encoding") == "chunked":
                return status, fields, await self._chunks()
            if "content-length" in fields:
                return status, fields, await self.reader.readexactly(int(fields["content-length"]))
            return status, fields, await self.reader.read()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return body

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()


async def read_request(reader: Reader) -> tuple[bytes, bytes]:
    """A request's head, and its body by Content-Length or chunks (raw)."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length: " in lower:
        return head, await reader.readexactly(int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]))
    if b"transfer-encoding: chunked" in lower:
        return head, await _raw_chunks(reader)
    return head, b""


async def _raw_chunks(reader: Reader) -> bytes:
    raw = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        raw += line
        if size := int(line, 16):
            raw += await reader.readexactly(size + 2)
            continue
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            raw += line
        return raw + line


async def echo(reader: Reader, writer: Writer) -> None:
    """Answer each request with its own head and body."""
    while True:
        head, body = await read_request(reader)
        said = head + body
        writer.write(b"HTTP/1.1 200 OK\r\nServer: x\r\nX-Powered-By: y\r\nContent-Length: %d\r\n\r\n" % len(said))
        writer.write(b"" if head.startswith(b"HEAD ") else said)


class ScriptedUpstream:
    """Runs `script` for each connection; `connections` and `requests` count."""

    def __init__(self, port: int = 0) -> None:
        self.script: Script = echo
        self.connections = 0
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedUpstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, reader: Reader, writer: Writer) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self.script(reader, writer)
        finally:
            writer.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
