"""What of a request makes its key, what it asks of a cache, and what of it reaches the upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.cache.fields import Directives, directives, seconds
from proxy.cache.store import Key, chosen
from proxy.cache.terms import KeyTerms
from proxy.headers import Headers, Pair

if TYPE_CHECKING:
    from proxy.exchange import Exchange

PASSED = frozenset({b"host", b"authorization"})
"""They go on though they are in no key of their own: host is, and answers that hang on credentials are not shared (RFC
9111 section 3.5)."""
CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
PRECONDITIONS = frozenset({b"if-match", b"if-unmodified-since"})
"""These are the origin's to judge (RFC 9110 section 13.2.1)."""
RANGES = frozenset({b"range", b"if-range"})
_UNORDERED = frozenset({b"accept", b"accept-encoding", b"accept-language", b"accept-charset"})
"""Members are weighed by `q`, not by where they stand (RFC 9110 section 12.4)."""


def bypass(exchange: Exchange, key: KeyTerms, *, bodyless: bool) -> str:
    """Why the request is none for the cache; empty where it is one."""
    index = exchange.headers.index
    if exchange.method not in (b"GET", b"HEAD") or not bodyless:
        return "method"
    if b"cookie" in index and key.cookies is None:
        return "cookie"
    if key.user and b"authorization" in index and not (exchange.user or exchange.api_key):
        return "credentials"
    if not key.credentials.isdisjoint(index) and not _all_known(exchange, key):
        return "credentials"
    if exchange.certificate and not key.user:
        return "certificate"
    if not PRECONDITIONS.isdisjoint(index):
        return "precondition"
    return ""


def _all_known(exchange: Exchange, key: KeyTerms) -> bool:
    """Whether of each field that an application may know somebody by we know whom it names, or it is in the key."""
    return all(
        name in key.headers or (name == key.api_key and exchange.api_key)
        for name in key.credentials
        if name in exchange.headers.index
    )


def identified(exchange: Exchange, key: KeyTerms) -> bool:
    """Whether the answer is one to credentials that are in no key: shared only where it says so (RFC 9111 section
    3.5)."""
    index = exchange.headers.index
    return b"authorization" in index or (bool(exchange.api_key) and not key.user)


def unaddressed(asserted: list[bytes], exchange: Exchange) -> list[bytes]:
    """What is asserted of a request, without what is in no key: who the client is, and what hosts others spoke of."""
    line = b"x-forwarded-proto: %b\r\n" % exchange.scheme
    if exchange.host:
        line += b"x-forwarded-host: %b\r\n" % exchange.host
    return [line if one.startswith(b"x-forwarded-for:") else one for one in asserted]


def key_of(exchange: Exchange, key: KeyTerms, shape: tuple[object, ...]) -> Key:
    """What the answer may hang on; `shape` tells keys of other routes and terms apart."""
    index = exchange.headers.index
    query = exchange.query if key.parameters is None else chosen(exchange.query, key.parameters)
    parts: list[object] = [shape, exchange.scheme, exchange.host, exchange.path, query]
    if key.headers:
        parts += [normal(name, exchange.headers.all(name)) if name in index else None for name in key.headers]
    if key.cookies:
        jar = cookies(exchange.headers, key.cookies)
        parts += [jar.get(name) for name in key.cookies]
    if key.user:
        parts += [exchange.user, exchange.api_key, exchange.certificate]
    if key.claims:
        claims = exchange.claims or {}
        parts += [repr(claims.get(name)) for name in key.claims]
    return tuple(parts)


def asked_of(exchange: Exchange) -> Directives:
    """The client's Cache-Control, or its Pragma where there is none (RFC 9111 section 5.4)."""
    index = exchange.headers.index
    if b"cache-control" in index:
        return directives(exchange.headers.all(b"cache-control"))
    return {b"no-cache": None} if b"no-cache" in index.get(b"pragma", b"").lower() else {}


def goes_on(name: bytes, key: KeyTerms) -> bool:
    """Whether a field reaches the upstream where what is in no key is stripped."""
    return name in PASSED or name == key.api_key or name in key.headers or (name == b"cookie" and bool(key.cookies))


def sent(exchange: Exchange, key: KeyTerms, validators: list[Pair] | None, *, strips: bool) -> Headers | None:
    """The request fields for the upstream, where they are others than the client's.

    Where something is kept, its `validators` stand for the client's conditions, also where it has none.
    """
    headers = exchange.headers
    if not strips and validators is None:
        return None
    ranges: frozenset[bytes] = RANGES if b"range" in headers.index else frozenset()
    pairs = [pair for pair in headers.pairs if not strips or goes_on(pair[0], key) or pair[0] in ranges]
    if strips and key.cookies and b"cookie" in headers.index:
        jar = cookies(headers, key.cookies)
        pairs = [pair for pair in pairs if pair[0] != b"cookie"]
        if jar:
            pairs.append((b"cookie", b"; ".join(b"%b=%b" % one for one in jar.items())))
    if validators is not None:
        pairs = [pair for pair in pairs if pair[0] not in CONDITIONS] + validators
    return Headers(pairs)


def most_stale(argument: bytes | None) -> float:
    return float("inf") if argument is None else float(seconds(argument))


def normal(name: bytes, values: list[bytes]) -> bytes:
    """So that what means the same is the same: space about commas, case and order where neither matters."""
    members = [one.strip(b" \t") for one in b",".join(values).split(b",")]
    if name in _UNORDERED:
        members = sorted({one.replace(b" ", b"").lower() for one in members})
    return b",".join(members)


def cookies(headers: Headers, names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for part in b";".join(headers.all(b"cookie")).split(b";"):
        name, sign, value = part.strip(b" \t").partition(b"=")
        if sign and name in names:
            found.setdefault(name, value)
    return {name: found[name] for name in names if name in found}
