"""The chunked transfer coding, decoded as it arrives (RFC 9112 section 7.1).

Strict where recipients differ: sizes are plain hexadecimal, lines end in CRLF, extensions and trailers have bounds,
and a trailer may not carry what frames, routes or authenticates a message (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

import re

from proxy.headers import ASSERTED, HOP_BY_HOP, Pair
from proxy.rejection import MalformedRequest, Rejection

MAX_LINE = 1024
MAX_EXTENSIONS = 16 * 1024
MAX_TRAILERS = 8 * 1024
FREE_CHUNKS, MIN_AVERAGE = 1024, 8
"""Past so many chunks they have to hold so many bytes on average: less is work made for its own sake."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e]|\\[\t\x20-\x7e])*"'
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER = re.compile(rb"([!#$%&'*+\-.^`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_NOT_IN_TRAILERS = HOP_BY_HOP | ASSERTED | {
    b"host", b"content-length", b"content-type", b"content-encoding", b"content-range", b"authorization", b"cookie",
    b"set-cookie", b"cache-control", b"expect", b"max-forwards", b"range", b"trailer", b"forwarded", b"via", b"te",
    b"location", b"www-authenticate", b"age", b"expires", b"date", b"vary", b"origin", b"traceparent",
    b"x-api-key", b"server", b"x-powered-by", b"strict-transport-security", b"x-frame-options",
    b"x-content-type-options", b"referrer-policy", b"permissions-policy", b"retry-after",
}  # fmt: skip
_NOT_IN_TRAILERS_PREFIXES = (
    b"x-forwarded-", b"x-request-", b"x-correlation-", b"sec-", b"access-control-", b"if-",
    b"content-security-policy", b"cross-origin-", b"proxy-", b"ratelimit",
)  # fmt: skip

_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """`feed` returns the payload in what it was given; `done` and `rest` tell when the message has ended."""

    __slots__ = ("_chunks", "_extensions", "_left", "_line", "_size", "_state", "_trailer_size", "rest", "trailers")

    def __init__(self) -> None:
        self._state = _SIZE_LINE
        self._left = 0
        self._line = b""
        self._extensions = 0
        self._chunks = self._size = 0
        self._trailer_size = 0
        self.trailers: list[Pair] = []
        self.rest = b""

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> bytes:
        """Payload bytes found in `data`; once `done`, `rest` holds what follows the message."""
        pieces: list[bytes] = []
        position, size = 0, len(data)
        while position < size:
            state = self._state
            if state == _DATA:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if not self._left:
                    self._state = _DATA_END
            elif state == _DONE:
                self.rest = data[position:]
                break
            else:
                position = self._line_at(data, position)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line_at(self, data: bytes, position: int) -> int:
        """Complete one line, if it is all there, and act on it; return where reading goes on."""
        end = data.find(b"\n", position)
        if end < 0:
            self._line += data[position:]
            self._check_line(self._line)
            return len(data)
        line = self._line + data[position : end + 1]
        self._line = b""
        self._check_line(line)
        if line[-2:] != b"\r\n":
            raise _malformed("a line of the chunked body does not end in CRLF")
        line = line[:-2]
        if self._state == _SIZE_LINE:
            self._on_size(line)
        elif self._state == _DATA_END:
            if line:
                raise _malformed("a chunk is longer than its size says")
            self._state = _SIZE_LINE
        else:
            self._on_trailer(line)
        return end + 1

    def _check_line(self, line: bytes) -> None:
        if self._state == _DATA_END and line[:2] not in (b"\r\n", b"\r", b""):
            raise _malformed("a chunk is longer than its size says")
        if len(line) > (MAX_TRAILERS if self._state == _TRAILERS else MAX_LINE):
            raise _malformed("a line of the chunked body is too long")
        carriage = line.find(b"\r")
        if 0 <= carriage < len(line) - 1 and line[carriage + 1] != 0x0A:
            raise _malformed("a line of the chunked body does not end in CRLF")

    def _on_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if not match:
            raise _malformed("a chunk size is no plain hexadecimal number")
        digits = match.group(1)
        self._extensions += len(line) - len(digits)
        if self._extensions > MAX_EXTENSIONS:
            raise _malformed(f"chunk extensions exceed {MAX_EXTENSIONS} bytes")
        self._left = int(digits, 16)
        self._chunks += 1
        self._size += self._left
        if self._left and self._chunks > FREE_CHUNKS and self._size < self._chunks * MIN_AVERAGE:
            raise _malformed(f"more than {FREE_CHUNKS} chunks hold less than {MIN_AVERAGE} bytes each")
        self._state = _DATA if self._left else _TRAILERS

    def _on_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            return
        self._trailer_size += len(line)
        if self._trailer_size > MAX_TRAILERS:
            raise _malformed(f"trailers exceed {MAX_TRAILERS} bytes")
        match = _TRAILER.fullmatch(line)
        if not match:
            raise _malformed("a trailer is no header field")
        name = match.group(1).lower()
        if name in _NOT_IN_TRAILERS or name.startswith(_NOT_IN_TRAILERS_PREFIXES):
            raise _malformed("a trailer carries a field that may not be in trailers")
        self.trailers.append((name, match.group(2)))


def _malformed(detail: str) -> Rejection:
    return MalformedRequest(detail, rule="http.chunked")


def encode_chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def encode_last_chunk(trailers: list[Pair]) -> bytes:
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % pair for pair in trailers])
