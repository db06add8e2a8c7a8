"""What a parent and its workers say to each other: tuples, each after its length, over a socket pair that nobody else
has. Many of one tick go in one write."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
from collections.abc import Callable
from typing import Any, cast

MAX_FRAME = 64 * 1024 * 1024
MAX_UNREAD = 16 * 1024 * 1024
UNREAD_SECONDS = 10.0
"""The other side is taken for dead that has not taken so many bytes for so long."""
CLOSE_SECONDS = 3.0

Message = tuple[Any, ...]


class Channel(asyncio.Protocol):
    """`heard` gets each message, `lost` is told once of the end."""

    def __init__(self, heard: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._out: list[bytes] = []
        self._full_since = 0.0
        self._ended = asyncio.Event()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Raises ValueError where what came is no message, which ends the connection."""
        self._data += data
        at, end = 0, len(self._data)
        while end - at >= 4:
            size = int.from_bytes(self._data[at : at + 4], "big")
            if size > MAX_FRAME:
                raise ValueError(f"a message of {size} bytes")
            if end - at < 4 + size:
                break
            message = marshal.loads(self._data[at + 4 : at + 4 + size])  # noqa: S302  # nosec B302  # our own process
            at += 4 + size
            self._heard(message)
        del self._data[:at]

    def send(self, *message: Any) -> None:
        data = marshal.dumps(message)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(len(data).to_bytes(4, "big") + data)

    def _flush(self) -> None:
        if self._transport is None or not self._out:
            return
        self._transport.write(b"".join(self._out))
        self._out.clear()
        if self._transport.get_write_buffer_size() <= MAX_UNREAD:
            self._full_since = 0.0
        elif not self._full_since:
            self._full_since = self._loop.time()
        elif self._loop.time() - self._full_since > UNREAD_SECONDS:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()

    async def closed(self) -> None:
        """Close, and wait until what was said is on its way; CLOSE_SECONDS at most."""
        self.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._transport is not None:
                    await self._ended.wait()
