"""What the rules on messages look at: one whole message, its text and its JSON only where somebody asks."""

from __future__ import annotations

import zlib
from typing import Any

import orjson

from proxy.inspect.json_check import has_name_twice
from proxy.rejection import InvalidPayload, MessageTooLarge
from proxy.websocket.frames import RSV1, TEXT, frame, unmasked

TAIL = b"\x00\x00\xff\xff"
"""RFC 7692 section 7.2.2."""
_ENDS = (b"", TAIL, b"\x00" + TAIL)
"""What may come after a block that says that it is the last (section 7.2.3.4)."""
LEAST_INFLATED = 4096
"""Bytes that anything may inflate to."""


class Message:
    """`raws` are its frames as they came, with where each payload begins; `size` is of the payloads as they came."""

    __slots__ = (
        "_inflation",
        "_json",
        "_masked",
        "_payload",
        "_replaced",
        "fragments",
        "opcode",
        "raws",
        "size",
        "type",
    )

    def __init__(self, opcode: int, masked: bool, inflation: tuple[int, int]) -> None:
        """`inflation` is what it may inflate to: bytes, and times of what came."""
        self.opcode = opcode
        self.raws: list[tuple[bytes, int]] = []
        self.size = 0
        self.fragments = 0
        self.type = ""
        """What the rule that reads types found, for others and for who looks at refusals."""
        self._masked = masked
        self._inflation = inflation
        self._payload: bytes | None = None
        self._json: Any = None
        self._replaced = False

    @classmethod
    def of(cls, opcode: int, raw: bytes, head: int, masked: bool, inflation: tuple[int, int]) -> Message:
        """One of a single frame."""
        made = cls(opcode, masked, inflation)
        made.raws.append((raw, head))
        made.size = len(raw) - head
        made.fragments = 1
        return made

    def add(self, raw: bytes, head: int) -> None:
        self.raws.append((raw, head))
        self.size += len(raw) - head
        self.fragments += 1

    @property
    def whole(self) -> bytes:
        """As it came, or in one frame where a rule changed it."""
        if self._replaced:
            return frame(self.opcode, self.payload, masked=self._masked)
        raws = self.raws
        return raws[0][0] if len(raws) == 1 else b"".join([raw for raw, _ in raws])

    def replace(self, payload: bytes) -> None:
        self._payload = payload
        self._json = None
        self.type = ""
        self._replaced = True

    @property
    def compressed(self) -> bool:
        return bool(self.raws[0][0][0] & RSV1)

    @property
    def is_text(self) -> bool:
        return self.opcode == TEXT

    @property
    def payload(self) -> bytes:
        """Unmasked, inflated. Raises MessageTooLarge, InvalidPayload."""
        if self._payload is None:
            pieces = [unmasked(raw, head, self._masked) for raw, head in self.raws]
            payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self.compressed:
                most, ratio = self._inflation
                payload = inflated(payload, min(most, max(LEAST_INFLATED, ratio * len(payload))))
            if self.is_text and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    raise InvalidPayload("a text message is no UTF-8", rule="websocket.utf8") from None
            self._payload = payload
        return self._payload

    @property
    def json(self) -> Any:
        """Raises InvalidPayload where it is none."""
        if self._json is None:
            try:
                self._json = orjson.loads(self.payload)
            except orjson.JSONDecodeError:
                raise InvalidPayload("a message is no JSON") from None
            if has_name_twice(self.payload, self._json):
                self._json = None
                raise InvalidPayload("a name stands twice in an object of a message")
        return self._json


def inflated(payload: bytes, most: int) -> bytes:
    """One message without context (RFC 7692 section 7.1.1), up to so many bytes."""
    stream = zlib.decompressobj(-15)
    try:
        found = stream.decompress(payload + TAIL, most + 1)
    except zlib.error:
        raise InvalidPayload("a message is not compressed as it says", rule="websocket.deflate") from None
    if len(found) > most:
        raise MessageTooLarge(f"a message inflates to more than {most} bytes", rule="websocket.deflate")
    if stream.unused_data not in _ENDS:
        raise InvalidPayload("a message goes on after its last block", rule="websocket.deflate")
    return found
