"""No byte sequence makes the proxy and the upstream disagree about where a request ends (RFC 9112 section 11.2).

Each case hides a request in what one of two readings takes for a body. The upstream may never see the hidden one, and
the client gets one answer a request that was refused or served.
"""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % (5 + len(HIDDEN))
ENDED = b"0\r\n\r\n" + HIDDEN

AMBIGUOUS = {
    "length then chunked": (LENGTH + CHUNKED, ENDED),
    "chunked then length": (CHUNKED + LENGTH, ENDED),
    "signed length": (b"Content-Length: +5\r\n" + CHUNKED, ENDED),
    "length with letters": (b"Content-Length: 5a\r\n" + CHUNKED, ENDED),
    "length alone with letters": (b"Content-Length: 5a\r\n", ENDED),
    "length in hexadecimal": (b"Content-Length: 0x5\r\n", ENDED),
    "length with leading zero": (b"Content-Length: 05\r\n", ENDED),
    "negative length": (b"Content-Length: -1\r\n", ENDED),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 0\r\n", ENDED),
    "two equal lengths": (b"Content-Length: 5\r\nContent-Length: 5\r\n", ENDED),
    "a list of lengths": (b"Content-Length: 5, 5\r\n", ENDED),
    "chunked twice": (CHUNKED + CHUNKED, ENDED),
    "chunked twice in a list": (b"Transfer-Encoding: chunked, chunked\r\n", ENDED),
    "chunked and something": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + LENGTH, ENDED),
    "something and chunked": (b"Transfer-Encoding: gzip, chunked\r\n", ENDED),
    "another case": (b"Transfer-Encoding: cHuNkEd\r\n" + LENGTH, ENDED),
    "a leading comma": (b"Transfer-Encoding: , chunked\r\n" + LENGTH, ENDED),
    "a trailing space": (b"Transfer-Encoding: chunked \r\n" + LENGTH, ENDED),
    "a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n" + LENGTH, ENDED),
    "quotes": (b'Transfer-Encoding: "chunked"\r\n' + LENGTH, ENDED),
    "a folded line": (b"Transfer-Encoding:\r\n chunked\r\n" + LENGTH, ENDED),
    "a folded line of something else": (b"X-A: b\r\n Transfer-Encoding: chunked\r\n" + LENGTH, ENDED),
    "a space before the colon": (b"Transfer-Encoding : chunked\r\n" + LENGTH, ENDED),
    "a bare line feed": (b"X-A: b\nTransfer-Encoding: chunked\r\n" + LENGTH, ENDED),
    "a bare carriage return": (b"X-A: b\rTransfer-Encoding: chunked\r\n" + LENGTH, ENDED),
    "a null": (b"Transfer-Encoding: chunked\x00\r\n" + LENGTH, ENDED),
    "an underscore": (b"Content_Length: 5\r\n" + CHUNKED, ENDED),
    "a signed chunk size": (CHUNKED, b"+0\r\n\r\n" + HIDDEN),
    "a hexadecimal prefix": (CHUNKED, b"0x0\r\n\r\n" + HIDDEN),
    "an empty chunk size": (CHUNKED, b"\r\n\r\n" + HIDDEN),
    "a huge chunk size": (CHUNKED, b"10000000000000005\r\nabcde\r\n0\r\n\r\n" + HIDDEN),
    "a chunk that is longer than it says": (CHUNKED, b"3\r\nabcde\r\n0\r\n\r\n" + HIDDEN),
    "a chunk line that ends bare": (CHUNKED, b"5\nabcde\r\n0\r\n\r\n" + HIDDEN),
    "a bare line feed in an extension": (CHUNKED, b"5;a\nabcde\r\n0\r\n\r\n" + HIDDEN),
}


class Seen:
    """An upstream that notes targets and bodies."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            head, body = await read_request(reader)
            self.requests.append((head.split(b" ")[1].decode(), body))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("case", AMBIGUOUS)
@pytest.mark.parametrize("method", [b"POST", b"GET", b"OPTIONS", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_what_is_ambiguous_is_refused_once_and_the_connection_ends(
    serve: Start, upstream: ScriptedUpstream, case: str, method: bytes, version: bytes
) -> None:
    seen = Seen()
    upstream.script = seen
    lines, body = AMBIGUOUS[case]
    wire = await (await serve(upstream.port)).connect()
    wire.send(method + b" /open HTTP/" + version + b"\r\nHost: a\r\n" + lines + b"\r\n" + body)
    answers = await wire.rest()
    assert "/hidden" not in [target for target, _ in seen.requests]
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answers)) == 1
    assert answers.split(b" ")[1] in (b"400", b"501")
    assert b"\r\nconnection: close\r\n" in answers.lower()


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "DELETE", "POST"])
@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
async def test_a_body_is_a_body_whatever_the_method(
    serve: Start, upstream: ScriptedUpstream, method: str, expect: str
) -> None:
    seen = Seen()
    upstream.script = seen
    wire = await (await serve(upstream.port)).connect()
    head = f"{method} /first HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: {len(HIDDEN)}\r\n\r\n"
    wire.send(head.encode() + HIDDEN + b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = await wire.rest()
    assert seen.requests == [("/first", HIDDEN), ("/second", b"")]
    assert answers.count(b"HTTP/1.1 200 ") == 2


async def test_bytes_after_an_empty_body_are_the_next_request(serve: Start, upstream: ScriptedUpstream) -> None:
    seen = Seen()
    upstream.script = seen
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGPOST / HTTP/1.1\r\nHost: a\r\n\r\n")
    answers = await wire.rest()
    assert [target for target, _ in seen.requests] == ["/first"]
    assert (answers.count(b"HTTP/1.1 200 "), answers.count(b"HTTP/1.1 501 ")) == (1, 1)


async def test_two_clean_requests(serve: Start, upstream: ScriptedUpstream) -> None:
    seen = Seen()
    upstream.script = seen
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (await wire.rest()).count(b"HTTP/1.1 200 ") == 2
    assert [target for target, _ in seen.requests] == ["/1", "/2"]


async def test_an_answer_to_head_has_no_body(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await wire.rest()
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1
