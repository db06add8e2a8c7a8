"""The PROXY protocol (HAProxy's specification of 2020): who connected to the balancer in front, before anything else.

`parse` reads heads of versions 1 and 2, `written` and `LOCAL` are what an upstream is sent.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107
MAX_HEAD = 4096


class Source(NamedTuple):
    address: str
    port: int


class Head(NamedTuple):
    """`source` is None where the balancer speaks for itself (a health check)."""

    length: int
    source: Source | None


class NoProxyHead(ValueError):
    """What came is no head of the PROXY protocol."""


def parse(data: bytes) -> Head | None:
    """None where more is needed. Raises NoProxyHead."""
    if data[:1] == b"P":
        return _v1(data)
    if data[:12] == SIGNATURE[: len(data[:12])]:
        return _v2(data)
    raise NoProxyHead("the connection does not begin with a PROXY head")


def _v1(data: bytes) -> Head | None:
    if data[:6] != b"PROXY "[: len(data[:6])]:
        raise NoProxyHead("the connection does not begin with a PROXY head")
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise NoProxyHead(f"a PROXY line has at most {MAX_V1} bytes")
        return None
    parts = data[:end].split(b" ")
    if len(parts) > 1 and parts[1] == b"UNKNOWN":
        return Head(end + 2, None)
    if len(parts) != 6 or parts[1] not in (b"TCP4", b"TCP6"):
        raise NoProxyHead("a PROXY line says TCP4, TCP6 or UNKNOWN, two addresses and two ports")
    return Head(end + 2, Source(_address(parts[2], 4 if parts[1] == b"TCP4" else 6), _port(parts[4])))


def _address(text: bytes, version: int) -> str:
    try:
        found = ip_address(text.decode("ascii"))
    except ValueError:
        raise NoProxyHead("a PROXY line names an address that is none") from None
    if found.version != version:
        raise NoProxyHead("a PROXY line's address is of another family than it says")
    return str(found)


def _port(text: bytes) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise NoProxyHead("a PROXY line names a port that is none")
    return int(text)


def _v2(data: bytes) -> Head | None:
    if len(data) < 16:
        return None
    kind, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if kind >> 4 != 2 or kind & 15 > 1:
        raise NoProxyHead("the PROXY head is of another version, or an unknown command")
    if 16 + length > MAX_HEAD:
        raise NoProxyHead(f"a PROXY head has at most {MAX_HEAD} bytes")
    if len(data) < 16 + length:
        return None
    size = {1: 4, 2: 16}.get(family >> 4)
    if not kind & 15 or size is None:
        return Head(16 + length, None)
    if length < 2 * size + 4:
        raise NoProxyHead("the PROXY head is too short for its addresses")
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size], "big")
    return Head(16 + length, Source(str(ip_address(data[16 : 16 + size])), port))


def written(version: str, client: str, server: str) -> bytes:
    """A head for an upstream; ports are not known, and told as 0."""
    source = ip_address(client)
    try:
        target = ip_address(server)
    except ValueError:
        target = source
    if source.version != target.version:
        target = source
    if version == "v1":
        return f"PROXY TCP{source.version} {source} {target} 0 0\r\n".encode()
    family = 0x11 if source.version == 4 else 0x21
    body = source.packed + target.packed + bytes(4)
    return SIGNATURE + bytes((0x21, family)) + len(body).to_bytes(2, "big") + body


LOCAL = {"v1": b"PROXY UNKNOWN\r\n", "v2": SIGNATURE + b"\x20\x00\x00\x00"}
"""The balancer's own connections."""
