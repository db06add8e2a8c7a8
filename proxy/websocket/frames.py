"""WebSocket frames (RFC 6455 section 5): bytes to whole frames, as strictly as the RFC allows, and frames of our own.

A frame is handed on as it came, head, mask and all; nobody pays for what nobody looks at. One that is larger than
`hold` is handed on in pieces, where its reader says so.
"""

from __future__ import annotations

import os
from typing import Protocol

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL = 125
RSV1 = 0x40
NORMAL, GOING_AWAY, PROTOCOL, INVALID, POLICY, TOO_BIG, INTERNAL, RESTART, AGAIN, BAD_GATEWAY = (
    1000, 1001, 1002, 1007, 1008, 1009, 1011, 1012, 1013, 1014,
)  # fmt: skip
WHOLE = (0x80 | TEXT, 0x80 | BINARY)
"""First bytes of messages of one frame: nearly all that comes."""
SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""Section 7.4, and the codes registered since; 1005, 1006 and 1015 never stand on the wire."""


class ProtocolError(Exception):
    """What came is against the protocol; `code` is how the connection is closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Sink(Protocol):
    """Where frames go; each call may raise ProtocolError, or set the reader's `paused`."""

    def on_frame(self, first: int, raw: bytes, head: int) -> None:
        """A whole frame: its first byte, all its bytes, and where the payload begins."""

    def on_large(self, first: int, length: int, raw: bytes, head: int) -> bool:
        """The beginning of a frame larger than `hold`; whether its rest may come in pieces (`on_piece`)."""

    def on_piece(self, data: bytes, ended: bool) -> None:
        """More of it, masked as it is."""


class FrameReader:
    """`masked` is what the frames have to be; `deflate` whether permessage-deflate was agreed on."""

    __slots__ = ("_deflate", "_kept", "_masked", "_need", "_parts", "_sink", "hold", "left", "message", "paused")

    def __init__(self, sink: Sink, *, masked: bool, deflate: bool = False, hold: int = 65536) -> None:
        self._sink = sink
        self._masked = 0x80 if masked else 0
        self._deflate = deflate
        self._parts: list[bytes] = []
        self._kept = 0
        self._need = 0
        """Bytes from which on another look is worth it: what is kept is joined once, not with each piece that comes."""
        self.left = 0
        """Bytes that are to come of a frame that goes on in pieces."""
        self.hold = hold
        self.message = 0
        """The opcode of the message whose fragments come; 0 between messages."""
        self.paused = False

    @property
    def held(self) -> int:
        """Bytes that wait here."""
        return self._kept

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError as soon as a head says enough. While `paused`, what comes is kept."""
        if not (self._parts or self.left or self.paused or self.message) and len(data) > 5 and data[0] in WHOLE:
            second = data[1]
            length, head = second & 0x7F, 2
            if length == 126:
                length, head = data[2] << 8 | data[3], 4
            if self._masked:
                head += 4
            shortest = length < 126 if head in (2, 6) else length > 125
            if shortest and head + length == len(data) and second & 0x80 == self._masked:
                self._sink.on_frame(data[0], data, head)
                return
        if self._parts:
            self._parts.append(data)
            self._kept += len(data)
            if self.paused or self._kept < self._need:
                return
            data = b"".join(self._parts)
            self._parts, self._kept = [], 0
        elif self.paused:
            self._keep(data, 0)
            return
        at, size = 0, len(data)
        if self.left:
            piece = data[: self.left]
            self.left -= len(piece)
            at = len(piece)
            self._sink.on_piece(piece, not self.left)
        need = 2
        while size - at >= 2 and not self.paused:
            need = 2
            first, second = data[at], data[at + 1]
            length, head = second & 0x7F, 2
            if length == 126:
                if size - at < 4:
                    self._check(first, second, 126)
                    need = 4
                    break
                length, head = int.from_bytes(data[at + 2 : at + 4]), 4
                if length < 126:
                    raise ProtocolError(PROTOCOL, "a length is not in its shortest form")
            elif length == 127:
                if size - at < 10:
                    self._check(first, second, 65536)
                    need = 10
                    break
                length, head = int.from_bytes(data[at + 2 : at + 10]), 10
                if length < 65536 or length >> 63:
                    raise ProtocolError(PROTOCOL, "a length is not in its shortest form, or too large")
            self._check(first, second, length)
            if self._masked:
                head += 4
            total = head + length
            if size - at < total:
                need = total if length <= self.hold else head
                if length > self.hold and size - at >= head:
                    if not self._sink.on_large(first, length, data[at:], head):
                        need = total
                        break
                    self._begun(first)
                    self.left = total - (size - at)
                    return
                break
            raw = data if total == size else data[at : at + total]
            at += total
            self._begun(first)
            self._sink.on_frame(first, raw, head)
        if at < size:
            self._keep(data[at:] if at else data, 0 if self.paused else need)

    def _keep(self, data: bytes, need: int) -> None:
        if data:
            self._parts, self._kept, self._need = [data], len(data), need

    def _check(self, first: int, second: int, length: int) -> None:
        opcode = first & 0x0F
        if second & 0x80 != self._masked:
            raise ProtocolError(PROTOCOL, "a frame is not masked" if self._masked else "a frame is masked")
        if opcode >= 8:
            if opcode > PONG or first & 0xF0 != 0x80 or length > MAX_CONTROL:
                raise ProtocolError(PROTOCOL, "a control frame is reserved, fragmented or too long")
            return
        if opcode > BINARY or first & 0x30 or (first & RSV1 and not (self._deflate and opcode)):
            raise ProtocolError(PROTOCOL, "a frame has reserved bits or a reserved opcode")
        if bool(opcode) == bool(self.message):
            raise ProtocolError(PROTOCOL, "fragments are out of order")

    def _begun(self, first: int) -> None:
        opcode = first & 0x0F
        if opcode < 8:
            if first & 0x80:
                self.message = 0
            elif opcode:
                self.message = opcode


def unmasked(raw: bytes, head: int, masked: bool) -> bytes:
    """A frame's payload."""
    payload = raw[head:]
    if not masked or not payload:
        return payload
    return mask(payload, raw[head - 4 : head])


def mask(payload: bytes, key: bytes) -> bytes:
    """Section 5.3; the same both ways."""
    size = len(payload)
    whole = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ whole).to_bytes(size, "little")


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One whole frame."""
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, bit | 127)) + size.to_bytes(8)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """`reason` is cut to what fits, between characters."""
    text = reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2) + text, masked=masked)


def closing(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame's payload; 1005 where it has none. Raises ProtocolError."""
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise ProtocolError(PROTOCOL, "a close frame has half a code")
    code = int.from_bytes(payload[:2])
    if code not in SENDABLE:
        raise ProtocolError(PROTOCOL, "a close frame has a code that may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(INVALID, "a close frame's reason is no UTF-8") from None
