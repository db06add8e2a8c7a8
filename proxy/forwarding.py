"""What the proxy asserts to the upstream about who asked: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 7.6.3).

Whatever a client says of itself is removed; only the trusted proxies' word is heard, from the nearest hop outwards.
"""

from __future__ import annotations

import re

from proxy.addresses import Networks, normalise
from proxy.exchange import Exchange
from proxy.headers import HOP_BY_HOP, Headers, with_named
from proxy.http1.framing import CHUNKED, check_host

PSEUDONYM = b"simplepro-proxy"
MAX_HOPS = 32

STRIPPED = HOP_BY_HOP | {
    b"expect", b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
    b"x-forwarded-port", b"x-forwarded-server", b"x-forwarded-prefix", b"x-forwarded-ssl", b"x-real-ip",
    b"x-client-ip", b"true-client-ip", b"x-cluster-client-ip", b"x-request-id", b"x-correlation-id", b"x-csp-nonce",
    b"traceparent", b"x-request-timeout", b"x-request-deadline",
}  # fmt: skip
"""Removed from every request before it goes on; what of it is true is asserted anew."""

_FORWARDED_FOR = re.compile(r'(?i)(?:^|[;,])\s*for="?(\[[0-9a-f:.]+\]|[0-9.]+)(?::\d+)?"?')
_PROTOCOLS = frozenset({b"http", b"https"})


class Peer:
    """The other end of one connection: its address, whether it is trusted, and the lines last asserted for it."""

    __slots__ = ("address", "host", "lines", "scheme", "trusted")

    def __init__(self, address: str, scheme: bytes, trusted: bool) -> None:
        self.address = address
        self.scheme = scheme
        self.trusted = trusted
        self.host: bytes | None = None
        self.lines = b""


def identify(exchange: Exchange, peer: Peer, trusted: Networks) -> None:
    """Set the exchange's client and scheme, and its forwarding lines."""
    if peer.trusted and not _VOUCHERS.isdisjoint(exchange.headers.index):
        exchange.asserted.append(_from_trusted(exchange, peer, trusted))
        return
    exchange.scheme = peer.scheme
    if exchange.host != peer.host:
        peer.host = exchange.host
        peer.lines = _lines(peer.address.encode(), _node(peer.address), peer.scheme, exchange.host, b"")
    exchange.asserted.append(peer.lines)


_VOUCHERS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"})


def _from_trusted(exchange: Exchange, peer: Peer, trusted: Networks) -> bytes:
    headers = exchange.headers
    hops = _hops(headers)
    client = peer.address
    kept: list[str] = []
    for hop in reversed(hops):
        address = normalise(hop)
        if address is None:
            break
        kept.insert(0, address)
        client = address
        if address not in trusted:
            break
    exchange.client = client
    scheme = headers.index.get(b"x-forwarded-proto", peer.scheme).lower()
    exchange.scheme = scheme if scheme in _PROTOCOLS else peer.scheme
    host = headers.index.get(b"x-forwarded-host", exchange.host)
    if not check_host(host):
        host = exchange.host
    chain = ", ".join([*kept, peer.address]).encode()
    nodes = b"".join(_node(address) + b", " for address in kept)
    return _lines(chain, _node(peer.address), exchange.scheme, host, nodes)


def _hops(headers: Headers) -> list[str]:
    """Addresses as the proxies in front appended them, the nearest last; at most MAX_HOPS of them."""
    values = headers.all(b"x-forwarded-for")
    if values:
        return [_without_port(hop) for hop in b",".join(values).decode("latin-1").split(",")][-MAX_HOPS:]
    text = b",".join(headers.all(b"forwarded")).decode("latin-1")
    return [hop.strip("[]") for hop in _FORWARDED_FOR.findall(text)][-MAX_HOPS:]


def _without_port(hop: str) -> str:
    hop = hop.strip()
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _node(address: str) -> bytes:
    return b'for="[%b]"' % address.encode() if ":" in address else b"for=" + address.encode()


def _lines(chain: bytes, node: bytes, scheme: bytes, host: bytes, earlier: bytes) -> bytes:
    lines = b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n" % (chain, scheme)
    if not host:
        return lines + b"forwarded: %b%b;proto=%b\r\n" % (earlier, node, scheme)
    return lines + b'x-forwarded-host: %b\r\nforwarded: %b%b;proto=%b;host="%b"\r\n' % (
        host,
        earlier,
        node,
        scheme,
        host,
    )


def request_head(exchange: Exchange, length: int, endpoint: str, extra: bytes = b"") -> bytes:
    """The head as the upstream gets it; `length` is the body's framing, `extra` lines of this attempt."""
    headers = exchange.headers
    index = headers.index
    encoded = headers.encoded
    if encoded is None:
        strip = with_named(STRIPPED, headers) if b"connection" in index else STRIPPED
        encoded = headers.encoded = b"".join([b"%b: %b\r\n" % pair for pair in headers.pairs if pair[0] not in strip])
    lines = [b"%b %b%b HTTP/1.1\r\n" % (exchange.method, exchange.path, exchange.query), encoded, *exchange.asserted]
    if b"via" in index:
        lines.append(b"via: %b, 1.%d %b\r\n" % (b", ".join(headers.all(b"via")), exchange.minor, PSEUDONYM))
    else:
        lines.append(_VIA[exchange.minor])
    if not exchange.host:
        lines.append(b"host: %b\r\n" % endpoint.encode())
    if extra:
        lines.append(extra)
    if length == CHUNKED:
        lines.append(b"transfer-encoding: chunked\r\n")
    if exchange.websocket:
        lines.append(b"connection: upgrade\r\nupgrade: websocket\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


_VIA = (b"via: 1.0 %b\r\n" % PSEUDONYM, b"via: 1.1 %b\r\n" % PSEUDONYM)
