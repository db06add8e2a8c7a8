"""Message heads through llhttp, one head at a time, and the checks that llhttp leaves to its caller.

A head is handed over alone, never with what follows it, so that pipelined requests wait as bytes and bodies are framed
by `http1.framing` and `http1.chunked`. RFC 9112 sections 2 to 6.
"""

from __future__ import annotations

import re

import httptools

from proxy.headers import Headers, Pair
from proxy.http1.framing import RequestFacts
from proxy.rejection import HeadTooLarge, MalformedRequest, Rejection, TargetTooLong, UnknownMethod, UnsupportedVersion

_END = b"\r\n\r\n"
_KNOWN_VERSIONS = {"1.1": 1, "1.0": 0}
_ENDS_MESSAGE_ODDLY = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_PLAIN_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [\x21-\x7e\x80-\xff]+ HTTP/\d\.\d")
"""RFC 9112 section 3: single spaces, and no other protocol; llhttp takes RTSP and ICE, too."""
MAX_BLOCK_KEPT = 4096
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [!-~]+ HTTP/1\.[01]\r\n")
_VERSION = re.compile(rb" HTTP/(\d)\.(\d)\r\n")


class RequestHeadParser:
    """Feeds llhttp until a head is complete; then `method`, `target`, `minor`, `pairs` describe it.

    One parser serves a connection, head after head. Clients repeat themselves: where the fields of a head are byte for
    byte those of the one before, they mean the same, and only the request line is read (16.5 µs an exchange with, 19
    without). `facts` is for who draws conclusions from the fields: None where they are new.
    """

    __slots__ = (
        "_block",
        "_complete",
        "_half",
        "_line",
        "_llhttp",
        "_max_count",
        "_max_size",
        "_tail",
        "begun",
        "facts",
        "headers",
        "method",
        "minor",
        "pairs",
        "size",
        "target",
    )  # fmt: skip

    def __init__(self, max_size: int, max_count: int) -> None:
        self._max_size = max_size
        self._max_count = max_count
        self.pairs: list[Pair] = []
        self.target = b""
        self.method = b""
        self.minor = 1
        self.size = 0
        self.headers = Headers([])
        self.begun = False
        self._llhttp = httptools.HttpRequestParser(self)
        self._tail = b""
        self._complete = False
        self._block = b""
        self._half = False
        """Whether half of the one empty line that is let pass is there."""
        self._line = bytearray()
        """What is there of a request line that came in pieces."""
        self.facts: RequestFacts | None = None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._complete = True

    def feed(self, data: bytes) -> int:
        """Take bytes of a head; return how many of them belong to it once it is complete, 0 while it isn't.

        Raises a Rejection that says what is wrong. The parser is then of no further use.
        """
        begun = self.begun
        start = 0
        if self._block and self.facts is not None and not begun and data.endswith(self._block):
            used = self._feed_known(data)
            if used:
                return used
        if begun:
            if self._half:
                self._half = False
                start = 1
                if data[0] != 0x0A:
                    raise MalformedRequest("a carriage return stands alone before the request line")
            joined = self._tail + data
            end = joined.find(_END)
            used = end + 4 - len(self._tail)
        else:
            if data[0] <= 0x0D:
                start = self._leading_line(data)
            self._half = data == b"\r"
            self.begun = True
            self._complete = False
            self.size = 0
            self.pairs = []
            self.target = b""
            end = data.find(_END, start)
            used = end + 4
            joined = data
        head = data if end < 0 or used == len(data) else data[:used]
        if begun or end < 0:
            self._keep_line(head, start, fresh=not begun)
        allowed = self._max_size - self.size
        self.size += len(head)
        if len(head) > allowed:
            head = head[:allowed]
        try:
            self._llhttp.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._check_line(head, start, whole=not begun)
            self._finish(reusable=False)
            self._block = b""
            return used
        except httptools.HttpParserError as error:
            raise self._diagnose(error, bytes(self._line) if begun else data) from None
        if self._complete:
            self._check_line(head, start, whole=not begun)
            self._finish(reusable=True)
            self._block = b""
            if self.size <= MAX_BLOCK_KEPT and not begun and self.minor:
                self._block = head[head.index(b"\r\n", start) :]
            return used
        if self.size > self._max_size:
            raise self._too_large()
        if end >= 0:
            raise MalformedRequest("the request head has an empty line where none may be")
        self._tail = joined[-3:]
        return 0

    def _feed_known(self, data: bytes) -> int:
        """`data` ends with the known fields: take it where a plain request line is all that stands before them."""
        match = _PLAIN_LINE.fullmatch(data, 0, len(data) - len(self._block))
        if match is None or len(data) > self._max_size or self.headers.encoded is None:
            return 0
        self.method, self.target = match.groups()
        return len(data)

    def _leading_line(self, data: bytes) -> int:
        """RFC 9112 section 2.2: one empty line before a request line is let pass, no more."""
        if data.startswith(b"\r\n") and data[2:3] not in (b"\r", b"\n"):
            return 2
        if data == b"\r":
            return 1
        raise MalformedRequest("more than one empty line, or a control character, before the request line")

    def _keep_line(self, head: bytes, start: int, *, fresh: bool) -> None:
        line = self._line
        if fresh:
            line.clear()
        if not line.endswith(b"\r\n"):
            seen = max(0, len(line) - 1)
            line += head[start:]
            end = line.find(b"\r\n", seen)
            if end >= 0:
                del line[end + 2 :]

    def _check_line(self, head: bytes, start: int, *, whole: bool) -> None:
        """Raises MalformedRequest."""
        line = head[start : head.index(b"\r\n", start)] if whole else bytes(self._line[:-2])
        if not _LINE.fullmatch(line):
            raise MalformedRequest("the request line is not METHOD TARGET HTTP/1.1 with single spaces")

    def _finish(self, *, reusable: bool) -> None:
        if len(self.pairs) > self._max_count:
            raise HeadTooLarge(f"more than {self._max_count} header fields")
        llhttp = self._llhttp
        version = llhttp.get_http_version()
        if version not in _KNOWN_VERSIONS:
            raise UnsupportedVersion("only HTTP/1.1 and HTTP/1.0 are spoken here")
        self.method = llhttp.get_method()
        self.minor = _KNOWN_VERSIONS[version]
        self.headers = headers = Headers(self.pairs)
        self.facts = None
        self.begun = False
        self._tail = b""
        if not reusable or self.minor == 0 or not _ENDS_MESSAGE_ODDLY.isdisjoint(headers.index):
            self._llhttp = httptools.HttpRequestParser(self)

    def _too_large(self) -> Rejection:
        if len(self.target) > self._max_size // 2:
            return TargetTooLong(f"the request head exceeds {self._max_size} bytes, most of them the target")
        return HeadTooLarge(f"the request head exceeds {self._max_size} bytes")

    def _diagnose(self, error: Exception, data: bytes) -> Rejection:
        """llhttp stopped: say it in words that help the sender."""
        text = str(error)
        version = _VERSION.search(data)
        if "HTTP version" in text and version and version[0] not in (b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"):
            return UnsupportedVersion("only HTTP/1.1 and HTTP/1.0 are spoken here")
        if "Invalid method" in text and _METHOD.match(data):
            return UnknownMethod("this method is not known here", rule="http.method")
        return MalformedRequest(f"not a valid HTTP/1.1 request head: {_plain(text)}")


def _plain(message: str) -> str:
    """llhttp's message without its code points: short, and never an echo of what was sent."""
    return re.sub(r"[^A-Za-z0-9 ,./:_-]", "", message)[:120].strip() or "unreadable"
