"""An upstream's answer: its head parsed strictly, its body framed (RFC 9112 sections 4, 5, 6.3).

Whoever stands behind the proxy is read as strictly as who stands before it: what a client could read otherwise than
the proxy does is no answer. Header lines that recur are looked up, not parsed (as HPACK does on the wire): a lookup
costs a tenth of llhttp's callback with its two new objects.
"""

from __future__ import annotations

import re

from proxy.headers import Headers, Pair, tokens
from proxy.http1.chunked import ChunkedDecoder
from proxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE
from proxy.rejection import InvalidUpstreamResponse, Rejection

MAX_HEAD = 64 * 1024
MAX_FIELDS = 200
MAX_LINES_KEPT = 2048
MAX_LINE_KEPT = 96
MAX_HEADS_KEPT = 256
MAX_HEAD_KEPT = 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")
_SINGLE = frozenset({b"content-length", b"transfer-encoding", b"content-type", b"location", b"content-range"})
_PERSONAL = frozenset({b"set-cookie", b"location", b"etag", b"authorization", b"www-authenticate"})


class FieldLines(dict[bytes, Pair]):
    """Header lines that were seen and found good, and what they say; bounded, and nothing personal is kept."""

    def __missing__(self, line: bytes) -> Pair:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise InvalidUpstreamResponse("a header line of the upstream's answer is malformed")
        pair = (match[1].lower(), match[2].strip(b" \t"))
        if len(line) <= MAX_LINE_KEPT and pair[0] not in _PERSONAL:
            if len(self) >= MAX_LINES_KEPT:
                self.clear()
            self[line] = pair
        return pair


class StatusLines(dict[bytes, tuple[int, int, bytes]]):
    """Status lines that were seen, as minor version, status and reason; bounded."""

    def __missing__(self, line: bytes) -> tuple[int, int, bytes]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise InvalidUpstreamResponse("the upstream's answer has no status line of HTTP/1.1")
        said = (int(match[1]), int(match[2]), match[3] or b"")
        if len(line) <= MAX_LINE_KEPT and len(self) < MAX_LINES_KEPT:
            self[line] = said
        return said


class Head:
    """An answer's head; `length` is the body's framing where the request was no HEAD, `keeps` whether the upstream
    keeps the connection (RFC 9112 sections 6.3 and 9.3)."""

    __slots__ = ("headers", "keeps", "length", "minor", "reason", "status")

    def __init__(self, minor: int, status: int, reason: bytes, headers: Headers) -> None:
        self.minor = minor
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length = framing(minor, status, headers)
        self.keeps = persistent(minor, headers)


class Heads(dict[bytes, Head]):
    """Whole heads that were seen, by their bytes: an upstream says the same all through a second. Bounded; nothing
    personal is kept."""

    def keep(self, data: bytes, head: Head) -> None:
        if len(data) <= MAX_HEAD_KEPT and _PERSONAL.isdisjoint(head.headers.index):
            if len(self) >= MAX_HEADS_KEPT:
                self.clear()
            self[data] = head


def framing(minor: int, status: int, headers: Headers) -> int:
    """The body's length in bytes, NO_BODY, CHUNKED or UNTIL_CLOSE.

    Raises InvalidUpstreamResponse where it could be read in two ways.
    """
    index = headers.index
    if len(index) != len(headers.pairs):
        for name in _SINGLE & index.keys():
            if len(headers.all(name)) > 1:
                raise InvalidUpstreamResponse(f"the upstream sent {name.decode()} more than once")
    coding = index.get(b"transfer-encoding")
    length = index.get(b"content-length")
    if coding is not None and (length is not None or not minor or coding.lower() != b"chunked"):
        raise InvalidUpstreamResponse("the upstream's answer has ambiguous framing")
    if length is not None and not (length.isdigit() and len(length) <= 18):
        raise InvalidUpstreamResponse("the upstream's Content-Length is no number")
    if status < 200 or status == 204 or status == 304:
        return NO_BODY
    if coding is not None:
        return CHUNKED
    return UNTIL_CLOSE if length is None else int(length)


def persistent(minor: int, headers: Headers) -> bool:
    """Whether the upstream keeps the connection after this answer (RFC 9112 section 9.3)."""
    index = headers.index
    connection = index.get(b"connection")
    if connection is None or (connection == b"keep-alive" and len(index) == len(headers.pairs)):
        return bool(minor) or connection is not None
    wishes = {token for value in headers.all(b"connection") for token in tokens(value)}
    return b"close" not in wishes and (bool(minor) or b"keep-alive" in wishes)


class Body:
    """The bytes after a head, as far as they are the message's; `clean` turns false where more came than belongs."""

    __slots__ = ("_chunked", "_left", "clean", "ended")

    def __init__(self, length: int) -> None:
        self._left = length
        self._chunked = ChunkedDecoder() if length == CHUNKED else None
        self.clean = True
        self.ended = length == NO_BODY

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises InvalidUpstreamResponse."""
        if self.ended:
            self.clean = self.clean and not data
            return b""
        left = self._left
        if left > 0:
            size = len(data)
            if size > left:
                data = data[:left]
                self.clean = False
            self._left = left - len(data)
            self.ended = not self._left
            return data
        return data if self._chunked is None else self._feed_chunks(self._chunked, data)

    def _feed_chunks(self, chunked: ChunkedDecoder, data: bytes) -> bytes:
        try:
            payload = chunked.feed(data)
        except Rejection as rejection:
            raise InvalidUpstreamResponse(f"the upstream's answer: {rejection.detail}") from None
        if chunked.done:
            self.ended = True
            self.clean = not chunked.rest
        return payload

    @property
    def trailers(self) -> list[Pair]:
        return self._chunked.trailers if self._chunked else []


class HeadReader:
    """Bytes to heads: `feed` gives one head (or None while it is not all there) and `rest`, what follows it."""

    __slots__ = ("_fields", "_known", "_partial", "_statuses", "rest")

    def __init__(self, known: Heads, statuses: StatusLines, fields: FieldLines) -> None:
        self._known = known
        self._statuses = statuses
        self._fields = fields
        self._partial = b""
        self.rest = b""

    def feed(self, data: bytes) -> Head | None:
        """Raises InvalidUpstreamResponse, as early as it can."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        end = data.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(data) > MAX_HEAD):
            raise InvalidUpstreamResponse(f"the upstream's response head exceeds {MAX_HEAD} bytes")
        if end < 0:
            self._check_partial(data)
            self._partial = data
            return None
        self.rest = data[end + 4 :]
        text = data[:end]
        head = self._known.get(text)
        if head is not None:
            return head
        lines = text.split(b"\r\n")
        minor, status, reason = self._statuses[lines[0]]
        del lines[0]
        if len(lines) > MAX_FIELDS:
            raise InvalidUpstreamResponse(f"the upstream's answer has more than {MAX_FIELDS} fields")
        fields = self._fields
        head = Head(minor, status, reason, Headers([fields[line] for line in lines]))
        self._known.keep(text, head)
        return head

    def _check_partial(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/"[: len(data)]) or data.count(b"\n") != data.count(b"\r\n"):
            raise InvalidUpstreamResponse("the upstream's answer is no HTTP/1.1")
