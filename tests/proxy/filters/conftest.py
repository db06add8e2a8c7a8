"""Every filter is asked over HTTP and over a WebSocket handshake: no policy can be walked around by an upgrade."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from tests.conftest import Served
from tests.wire import Reader, Writer, read_request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, section 1.3."""
HANDSHAKE = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    lines: list[str]
    """Field lines as they came, repetitions included."""
    body: bytes


Ask = Callable[..., Awaitable[Answer]]


class Application:
    """An upstream that takes handshakes and answers requests, with the header lines that a test gives it."""

    def __init__(self) -> None:
        self.lines = ""
        self.status = b"200 OK"
        self.heads: list[str] = []

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            self.heads.append(head.decode())
            if b"\r\nupgrade: websocket\r\n" in head:
                lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{self.lines}"
                writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
                await reader.read()
                return
            writer.write(b"HTTP/1.1 %b\r\n%bContent-Length: 2\r\n\r\n" % (self.status, self.lines.encode()))
            writer.write(b"" if head.startswith(b"HEAD ") else b"ok")


@pytest.fixture
def application(upstream) -> Application:  # type: ignore[no-untyped-def]  # the fixture of tests.conftest
    made = Application()
    upstream.script = made
    return made


@pytest.fixture(params=["http", "websocket"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`await ask(served, *lines, method=, target=)`: one request with these header lines, by either protocol."""
    passed = 101 if request.param == "websocket" else 200

    async def ask_for(served: Served, *lines: str, method: str = "GET", target: str = "/a") -> Answer:
        wire = await served.connect()
        extra = HANDSHAKE if request.param == "websocket" else ""
        text = "".join(f"{line}\r\n" for line in lines)
        wire.send(f"{method} {target} HTTP/1.1\r\nHost: app.test\r\n{text}{extra}\r\n".encode())
        raw = await wire.reader.readuntil(b"\r\n\r\n")
        first, *rest = raw.decode().split("\r\n")[:-2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        status = int(first.split(" ")[1])
        body = await wire.reader.readexactly(int(fields.get("content-length", "0"))) if status != 101 else b""
        wire.close()
        return Answer(200 if status == passed else status, fields, rest, body)

    return ask_for
