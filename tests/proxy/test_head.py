"""Request heads: any cut of the bytes gives the same result, and nothing but a Rejection is ever raised."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.chunked import ChunkedDecoder
from proxy.http1.framing import RequestFacts, check_fields, request_framing
from proxy.http1.head import RequestHeadParser
from proxy.rejection import Rejection

HEADS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nPOST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n",
    b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
]


def parse(data: bytes, cuts: list[int]) -> object:
    parser = RequestHeadParser(max_size=4096, max_count=20)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    taken = 0
    try:
        for start, end in pairwise(edges):
            if start < end:
                used = parser.feed(data[start:end])
                if used:
                    taken = start + used
                    break
        else:
            return "incomplete"
        return parser.method, parser.target, parser.minor, tuple(parser.pairs), taken
    except Rejection as rejection:
        return type(rejection)


@given(st.sampled_from(HEADS), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_gives_the_same_result(head: bytes, cuts: list[int]) -> None:
    assert parse(head, cuts) == parse(head, [])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_rubbish_is_refused_the_same_way_at_any_cut(data: bytes, cuts: list[int]) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"
    assert parse(head, cuts) == parse(head, [])


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a\r\nHost: a",
        b"Host: a, b",
        b"Host: u@a",
        b"Host: a/b",
        b"Host:",
        b"X: 1",
        b"Host: a\r\nX_A: 1",
        b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"Host: a\r\nContent-Length: +1",
        b"Host: a\r\nContent-Length: 01",
        b"Host: a\r\nContent-Length: 1, 1",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked",
        b"Host: a\r\nTransfer-Encoding: chunked, chunked",
        b"Host: a\r\nTransfer-Encoding: gzip",
        b"Host: a\r\nExpect: something",
        b"Host: a\r\nX : 1",
        b"Host: a\r\nX: a\x00b",
        b"Host: a\r\nContent-Type: a/b\r\nContent-Type: c/d",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(fields: bytes) -> None:
    parser = RequestHeadParser(max_size=4096, max_count=20)
    with pytest.raises(Rejection):  # noqa: PT012  # any of the three steps may refuse
        parser.feed(b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n")
        check_fields(parser.headers, parser.minor, "refuse")
        request_framing(parser.headers, parser.minor)


def decode(data: bytes, cuts: list[int]) -> object:
    decoder = ChunkedDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    payload = b""
    try:
        for start, end in pairwise(edges):
            payload += decoder.feed(data[start:end])
            if decoder.done:
                return payload, tuple(decoder.trailers), decoder.rest + data[end:]
    except Rejection as rejection:
        return type(rejection)
    return "incomplete", payload


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.binary(max_size=20), st.lists(st.integers(0, 400)))
def test_chunks_at_any_cut(chunks: list[bytes], rest: bytes, cuts: list[int]) -> None:
    data = b"".join(b"%x;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-T: 1\r\n\r\n" + rest
    assert decode(data, cuts) == decode(data, []) == (b"".join(chunks), ((b"x-t", b"1"),), rest)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_broken_chunks_are_refused_at_any_cut(data: bytes, cuts: list[int]) -> None:
    whole, cut = decode(b"3\r\nabc\r\n" + data, []), decode(b"3\r\nabc\r\n" + data, cuts)
    assert whole == cut


@pytest.mark.parametrize(
    "body",
    [
        b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1 \r\na\r\n", b"1\na\r\n", b"1\r\nab\r\n", b"1;\r\na\r\n", b"1;a b\r\na\r\n",
        b"1\r\na\n", b"0\r\nContent-Length: 1\r\n\r\n", b"0\r\nbad\r\n\r\n", b"ffffffffffffffff\r\n", b"1\ra\r\n",
        b"1;" + b"a" * 70_000, b"\r\n",
    ],
)  # fmt: skip
def test_malformed_chunks(body: bytes) -> None:
    with pytest.raises(Rejection):
        ChunkedDecoder().feed(body)


def test_very_many_very_small_chunks_are_refused() -> None:
    honest = ChunkedDecoder()
    assert honest.feed(b"8\r\n12345678\r\n" * 5000 + b"0\r\n\r\n") == b"12345678" * 5000
    few = ChunkedDecoder()
    assert few.feed(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n") == b"a" * 1000
    with pytest.raises(Rejection, match="1024 chunks"):
        ChunkedDecoder().feed(b"1\r\na\r\n" * 1025)


LINES = [
    b"GET /a HTTP/1.1", b"POST /b HTTP/1.1", b"GET /c HTTP/1.0", b"HEAD / HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET http://a/ HTTP/1.1", b"GET /x?\x80 HTTP/1.1", b"PURGE / HTTP/1.1", b"GET / RTSP/1.0", b"GET /a  HTTP/1.1",
    b"GET / HTTP/1.1\r\nX: 1", b"CONNECT a:1 HTTP/1.1",
]  # fmt: skip
FIELDS = [
    b"Host: a", b"Connection: close", b"Connection: upgrade", b"Upgrade: h2c", b"Upgrade: websocket",
    b"Content-Length: 3", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Cookie: a",
    b"Cookie: b", b"GET / HTTP/1.1", b"X_a: 1",
]  # fmt: skip
BLOCKS = st.lists(st.sampled_from(FIELDS), max_size=4).map(lambda fields: b"\r\n".join([*fields, b"", b""]))


def understood(parser: RequestHeadParser, head: bytes) -> object:
    """All that is concluded from a head, as the listener concludes it."""
    try:
        used = parser.feed(head)
    except Rejection as rejection:
        return rejection.detail
    if not used:
        return "incomplete"
    if parser.facts is None:
        try:
            parser.facts = RequestFacts(parser.headers, parser.minor, "refuse")
        except Rejection as rejection:
            return rejection.detail
    parser.headers.encoded = b"sent on"
    facts = parser.facts
    seen = (facts.length, facts.expects, facts.upgrades, facts.persistent)
    return used, parser.method, parser.target, parser.minor, tuple(parser.headers.pairs), seen


@given(
    st.lists(BLOCKS, min_size=1, max_size=2),
    st.lists(st.tuples(st.sampled_from([b"", b"", b"\r\n"]), st.sampled_from(LINES), st.integers(0, 1)), max_size=6),
)
def test_a_head_means_the_same_whatever_came_before(blocks: list[bytes], heads: list[tuple[bytes, bytes, int]]) -> None:
    """Known fields are not read again: no head may ever be given another's."""
    parser = RequestHeadParser(65536, 100)
    for before, line, block in heads:
        head = before + line + b"\r\n" + blocks[block % len(blocks)]
        alone = understood(RequestHeadParser(65536, 100), head)
        assert understood(parser, head) == alone
        if not isinstance(alone, tuple):
            break


def test_an_upgrade_is_never_the_head_that_is_known() -> None:
    parser = RequestHeadParser(65536, 100)
    plain = b"GET /%b HTTP/1.1\r\nHost: a\r\nCookie: mine\r\n\r\n"
    upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nCookie: another's\r\n\r\n"
    for head in (plain % b"1", upgrade, plain % b"2"):
        understood(parser, head)
    assert (parser.target, parser.headers.get(b"cookie")) == (b"/2", b"mine")


@pytest.mark.parametrize(
    "line", [b"POST / RTSP/1.0", b"SOURCE / ICE/1.0", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1"]
)
@pytest.mark.parametrize("cut", [0, 3, 12, 18])
def test_request_lines_of_other_protocols_and_shapes(line: bytes, cut: int) -> None:
    parser = RequestHeadParser(65536, 100)
    head = line + b"\r\nHost: a\r\n\r\n"
    pieces = [head[:cut], head[cut:]] if cut else [head]
    with pytest.raises(Rejection):
        assert [parser.feed(piece) for piece in pieces] == []


@pytest.mark.parametrize("pieces", [(b"\r", b"GET / HTTP/1.1\r\n\r\n"), (b"\r\n", b"\nGET / HTTP/1.1\r\n\r\n")])
def test_what_is_refused_whole_is_refused_in_pieces(pieces: tuple[bytes, ...]) -> None:
    for sent in (pieces, (b"".join(pieces),)):
        parser = RequestHeadParser(4096, 20)
        with pytest.raises(Rejection):
            assert [parser.feed(piece) for piece in sent] == []
