"""One request's body on its way: held until there is a connection, kept for another attempt while it is small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.http1.chunked import encode_chunk, encode_last_chunk
from proxy.http1.framing import CHUNKED, NO_BODY

if TYPE_CHECKING:
    from proxy.headers import Pair
    from proxy.listener.http1 import Downstream
    from proxy.upstream.connection import UpstreamConnection

PENDING_LIMIT = 64 * 1024
"""Bytes held while no upstream connection is there yet; then the client is not read from."""


class Upload:
    """`length` is the framing (`http1.framing`); `replayable` whether all of it so far can be sent once more."""

    __slots__ = ("_client", "_connection", "_pieces", "_replay", "_size", "_trailers", "collecting", "ended", "expects",
                 "length", "progress", "progress_at", "replayable")  # fmt: skip

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self._pieces: list[bytes] = []

    def begin(self, length: int, replay: int, now: float, *, expects: bool, collecting: bool) -> None:
        """`replay` bytes may be kept; `collecting` holds the whole body for the policies that read it."""
        self.length = length
        self.expects = expects
        self.collecting = collecting
        self.ended = length == NO_BODY
        self.replayable = True
        self.progress = 0
        self.progress_at = now
        self._replay = replay
        self._connection: UpstreamConnection | None = None
        if self._pieces:
            self._pieces = []
        self._size = 0
        self._trailers: list[Pair] = []

    def feed(self, data: bytes) -> None:
        self.progress += len(data)
        connection = self._connection
        if connection is None or self.collecting or self.replayable:
            self._pieces.append(data)
            self._size += len(data)
        if self.collecting:
            return
        if connection is None:
            if self._size > PENDING_LIMIT:
                self._client.hold()
            return
        self._write(connection, data)
        self._forget_too_much()

    def finish(self, trailers: list[Pair]) -> None:
        self.ended = True
        self._trailers = trailers
        if not self.collecting and self._connection is not None:
            self._write_end(self._connection)

    def whole(self) -> bytes:
        return b"".join(self._pieces)

    def replace(self, data: bytes) -> None:
        """What was collected was judged, and is this now."""
        self.collecting = False
        self._pieces = [data] if data else []
        self.length = self._size = len(data)
        self._replay = max(self._replay, self._size)

    def attach(self, connection: UpstreamConnection) -> None:
        """Send what is there, and what comes, to this connection; only where there is a body."""
        self.say_continue()
        self._connection = connection
        for piece in self._pieces:
            self._write(connection, piece)
        self._forget_too_much()
        if self.ended:
            self._write_end(connection)
        elif connection.writable:
            self._client.read_on()

    def copy_to(self, connection: UpstreamConnection) -> None:
        """Send the whole, which is there, to one connection more."""
        if self.length != NO_BODY:
            for piece in self._pieces:
                self._write(connection, piece)
            self._write_end(connection)

    def detach(self) -> None:
        self._connection = None

    def say_continue(self) -> None:
        """Leave to send the body, once the policies have run (RFC 9110 section 10.1.1)."""
        if self.expects and not self.progress and self._client.speaks_11:
            self.expects = False
            self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _forget_too_much(self) -> None:
        if self.replayable and self._size > self._replay:
            self.replayable = False
            self._pieces = []

    def _write(self, connection: UpstreamConnection, data: bytes) -> None:
        connection.write(encode_chunk(data) if self.length == CHUNKED else data)

    def _write_end(self, connection: UpstreamConnection) -> None:
        if self.length == CHUNKED:
            connection.write(encode_last_chunk(self._trailers))
