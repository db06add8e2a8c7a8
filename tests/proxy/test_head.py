"""Request heads: any cut of the bytes gives the same result, and nothing but a Rejection is ever raised."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.chunked import ChunkedDecoder
from proxy.http1.framing import check_fields, request_framing
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
