"""Upstreams' answers: any cut of the bytes gives the same result, and nothing but a Rejection is ever raised."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.response import Body, FieldLines, HeadReader, Heads, StatusLines
from proxy.rejection import InvalidUpstreamResponse, Rejection

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: 1\n\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 300 + b"\r\n",
]


def read(data: bytes, cuts: list[int]) -> object:
    """Status, headers and payload, whether the message ended and only its own bytes came; or the refusal's class."""
    heads, statuses, fields = Heads(), StatusLines(), FieldLines()
    reader = HeadReader(heads, statuses, fields)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    head = body = None
    payload = b""
    try:
        for start, end in pairwise(edges):
            piece = data[start:end]
            if not piece:
                continue
            if body is None:
                head = reader.feed(piece)
                if head is None:
                    continue
                body = Body(head.length)
                piece = reader.rest
            payload += body.feed(piece)
    except Rejection as rejection:
        return type(rejection)
    if head is None or body is None:
        return "incomplete"
    return head.status, tuple(head.headers.pairs), payload, body.ended, body.clean, tuple(body.trailers)


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 100_000), max_size=12))
def test_any_cut_gives_the_same_result(answer: bytes, cuts: list[int]) -> None:
    assert read(answer, cuts) == read(answer, [])


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5), st.booleans())
def test_rubbish_is_refused_the_same_way_at_any_cut(data: bytes, cuts: list[int], chunked: bool) -> None:
    kind = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b""
    answer = b"HTTP/1.1 200 OK\r\n" + kind + data + b"\r\n\r\n"
    assert read(answer, cuts) == read(answer, [])


def test_what_is_good_is_read_and_what_is_not_is_refused() -> None:
    found = [read(answer, []) for answer in ANSWERS]
    assert found[0] == (200, ((b"content-length", b"5"),), b"hello", True, True, ())
    assert found[2] == (200, ((b"transfer-encoding", b"chunked"),), b"abc0123456789", True, True, ((b"t", b"1"),))
    refused = [index for index, one in enumerate(found) if one is InvalidUpstreamResponse]
    assert refused == [3, 7, 8, 9, 10, 11, 12, 13]
