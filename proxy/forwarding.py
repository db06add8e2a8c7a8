"""What the proxy asserts to the upstream about who asked: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 7.6.3).

Whatever a client says of itself is removed; only the trusted proxies' word is heard, from the nearest hop outwards.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.addresses import Networks, holder, normalise
from proxy.exchange import Exchange
from proxy.headers import ASSERTED, HOP_BY_HOP, Headers, with_named
from proxy.http1.framing import CHUNKED, check_host
from proxy.tls import ClientCertificate

PSEUDONYM = b"simplepro-proxy"
MAX_HOPS = 32

STRIPPED = HOP_BY_HOP | ASSERTED | {b"expect"}
"""Removed from every request before it goes on; what of it is true is asserted anew."""

_PAIR = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*([;,]|$)')
_PROTOCOLS = frozenset({b"http", b"https"})


class Peer:
    """The other end of one connection: its address, whether it is trusted, and the lines last asserted for it."""

    __slots__ = ("address", "certificate", "holder", "host", "lines", "scheme", "trusted")

    def __init__(self, address: str, scheme: bytes, trusted: bool) -> None:
        self.address = address
        self.holder = holder(address)
        self.scheme = scheme
        self.trusted = trusted
        self.host: bytes | None = None
        self.lines = b""
        self.certificate: ClientCertificate | None = None


def identify(exchange: Exchange, peer: Peer, trusted: Networks) -> None:
    """Set the exchange's client, scheme and certificate, and its forwarding lines."""
    if peer.certificate is not None:
        exchange.certificate = peer.certificate.name
        exchange.asserted.append(b"x-forwarded-client-cert: %b\r\n" % peer.certificate.element)
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
    """Hop by hop from the nearest outwards, as far as each is trusted; one that says no address ends the walk."""
    client = peer.address
    scheme, host = peer.scheme, exchange.host
    kept: list[str] = []
    for hop in reversed(_hops(exchange.headers)):
        if hop.scheme in _PROTOCOLS:
            scheme = hop.scheme
        if hop.host and check_host(hop.host):
            host = hop.host
        address = normalise(hop.address)
        if address is None:
            break
        kept.insert(0, address)
        client = address
        if address not in trusted:
            break
    exchange.client = client
    exchange.scheme = scheme
    if host != exchange.host:
        exchange.public_host = host
    chain = ", ".join([*kept, peer.address]).encode()
    nodes = b"".join(_node(address) + b", " for address in kept)
    return _lines(chain, _node(peer.address), exchange.scheme, host, nodes)


class Hop(NamedTuple):
    """What one proxy said of the connection that it had: the other end's address, and what it was asked for."""

    address: str
    scheme: bytes = b""
    host: bytes = b""


def _hops(headers: Headers) -> list[Hop]:
    """As the proxies in front appended them, the nearest last; at most MAX_HOPS of them."""
    addresses = _listed(headers, b"x-forwarded-for")
    if not addresses and (given := headers.all(b"forwarded")):
        return _forwarded(b",".join(given).decode("latin-1"))[-MAX_HOPS:]
    schemes, hosts = _listed(headers, b"x-forwarded-proto"), _listed(headers, b"x-forwarded-host")
    count = max(len(addresses), 1 if schemes or hosts else 0)
    said = zip(_aligned(addresses, count), _aligned(schemes, count), _aligned(hosts, count), strict=True)
    return [Hop(_without_port(address), scheme.lower().encode(), host.encode()) for address, scheme, host in said]


def _listed(headers: Headers, name: bytes) -> list[str]:
    values = headers.all(name)
    return [one.strip() for one in b",".join(values).decode("latin-1").split(",")][-MAX_HOPS:] if values else []


def _aligned(values: list[str], count: int) -> list[str]:
    """One value for each hop, from the nearest on; a single one was said by the nearest, of the outermost."""
    if len(values) == 1:
        return values * count
    return ([""] * count + values)[-count:] if count else []


def _forwarded(text: str) -> list[Hop]:
    """RFC 7239 section 4; what does not follow its grammar says nothing at all."""
    hops: list[Hop] = []
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return []
        name, value, end = pair[1].lower(), pair[2], pair[3]
        found[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = pair.end()
        if end != ";":
            address = _without_port(found.get("for", ""))
            hops.append(Hop(address, found.get("proto", "").lower().encode(), found.get("host", "").encode("latin-1")))
            found = {}
    return hops


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
    headers = exchange.sent or exchange.headers
    index = headers.index
    encoded = headers.encoded
    if encoded is None:
        strip = with_named(STRIPPED, headers) if b"connection" in index else STRIPPED
        encoded = headers.encoded = b"".join([b"%b: %b\r\n" % pair for pair in headers.pairs if pair[0] not in strip])
    query = exchange.query if exchange.sent_query is None else exchange.sent_query
    lines = [b"%b %b%b HTTP/1.1\r\n" % (exchange.method, exchange.path, query), encoded, *exchange.asserted]
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
