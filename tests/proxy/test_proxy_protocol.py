"""PROXY heads: both versions, cut anywhere, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.proxy_protocol import LOCAL, MAX_HEAD, MAX_V1, SIGNATURE, Head, NoProxyHead, Source, parse, written

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
PORTS = st.integers(0, 65535)


def v2(family: int, body: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


@given(st.one_of(st.tuples(st.just(4), V4, V4), st.tuples(st.just(6), V6, V6)), PORTS, st.binary(max_size=40))
def test_a_line_is_read_to_its_end_and_not_further(ends: tuple[int, str, str], port: int, rest: bytes) -> None:
    version, source, target = ends
    line = f"PROXY TCP{version} {source} {target} {port} 443\r\n".encode()
    assert parse(line + rest) == Head(len(line), Source(source, port))
    assert all(parse(line[:cut]) is None for cut in range(1, len(line)))


@given(st.sampled_from(["v1", "v2"]), st.one_of(V4, V6), st.one_of(V4, V6, st.just("unix:/app.sock")), st.binary())
def test_what_we_write_we_read(version: str, client: str, server: str, rest: bytes) -> None:
    head = written(version, client, server)
    assert parse(head + rest) == Head(len(head), Source(client, 0))
    assert all(parse(head[:cut]) is None for cut in range(1, len(head)))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_balancer_speaks_for_itself(version: str) -> None:
    assert parse(LOCAL[version] + b"GET") == Head(len(LOCAL[version]), None)


def test_the_second_version_in_full() -> None:
    addresses = bytes((203, 0, 113, 9, 10, 0, 0, 1)) + (4321).to_bytes(2, "big") + (443).to_bytes(2, "big")
    extra = b"\x03\x00\x04\x00\x00\x00\x00"
    head = v2(0x11, addresses + extra)
    assert parse(head + b"GET / ") == Head(len(head), Source("203.0.113.9", 4321)), "TLVs are passed over"
    assert parse(v2(0x31, bytes(216))) == Head(232, None), "of a Unix socket there is no address"
    assert parse(v2(0x00, b"")) == Head(16, None)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 x 1\r\n", b"PROXY TCP4 1.2.3.444 1.2.3.4 1 1\r\n", b"PROXY UDP4 1.2.3.4 1 1 1\r\n",
        b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 " + b"1" * MAX_V1, b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 \xff 1.2.3.4 1 1\r\n", v2(0x11, bytes(11)), v2(0x21, bytes(35)), v2(0x11, bytes(12), command=0x22),
        v2(0x11, bytes(12), command=0x11), v2(0x11, bytes(MAX_HEAD)), SIGNATURE[:11] + b"x",
    ],
    ids=lambda data: repr(data[:24]),
)  # fmt: skip
def test_what_is_none_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NoProxyHead):
        parse(data)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    try:
        head = parse(data)
    except NoProxyHead:
        return
    assert head is None or 0 < head.length <= len(data)
