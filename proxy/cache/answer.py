"""What becomes of answers: what of them is kept, and what is made of what is kept."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from proxy.cache.fields import byte_range, date_of, matches_any
from proxy.cache.store import Entry, Url
from proxy.cache.terms import NAME
from proxy.exchange import Response
from proxy.headers import ASSERTED, HOP_BY_HOP, Headers, Pair, with_named

if TYPE_CHECKING:
    from proxy.exchange import Exchange

_UNKEPT = (
    HOP_BY_HOP
    | (ASSERTED - {b"via"})
    | {
        b"age", b"surrogate-key", b"proxy-authentication-info", b"ratelimit", b"ratelimit-policy",
        b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset", b"trailer", b"cache-status",
    }
)  # fmt: skip
_NOT_MODIFIED = frozenset(
    {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"last-modified",
     b"cdn-cache-control"}
)  # fmt: skip
"""What a 304 tells (RFC 9110 section 15.4.5)."""


def unkept(headers: Headers) -> frozenset[bytes]:
    """RFC 9111 section 3.1."""
    return with_named(_UNKEPT, headers) if b"connection" in headers.index else _UNKEPT


def plainest(nonce: bytes) -> bytes:
    """The longest part of a nonce that no template escapes."""
    return max(re.split(rb"[^A-Za-z0-9]", nonce), key=len)


def validators(entry: Entry) -> list[Pair]:
    index = entry.headers.index
    pairs = []
    if b"etag" in index:
        pairs.append((b"if-none-match", index[b"etag"]))
    if b"last-modified" in index:
        pairs.append((b"if-modified-since", index[b"last-modified"]))
    return pairs


def conditional(headers: Headers, entry: Entry) -> Response | None:
    """304, where the client has it already (RFC 9110 section 13.2.2); only of answers that conditions are about."""
    if entry.status != 200:
        return None
    index, mine = headers.index, entry.headers.index
    if b"if-none-match" in index:
        met = matches_any(b",".join(headers.all(b"if-none-match")), mine.get(b"etag", b""))
    else:
        since = date_of(index.get(b"if-modified-since", b""))
        modified = date_of(mine.get(b"last-modified", b"") or mine.get(b"date", b""))
        met = since is not None and modified is not None and modified <= since
    if not met:
        return None
    pairs = [pair for pair in entry.headers.pairs if pair[0] in _NOT_MODIFIED]
    return Response(304, b"Not Modified", Headers(pairs))


def part(index: dict[bytes, bytes], entry: Entry) -> Response | None:
    """206 or 416 of a kept whole (RFC 9110 section 14), unless If-Range speaks of another."""
    condition = index.get(b"if-range")
    mine = entry.headers.index
    if condition is not None:
        strong = condition == mine.get(b"etag") and not condition.startswith(b"W/")
        dated = condition == mine.get(b"last-modified") and _is_strong(mine)
        if not strong and not dated:
            return None
    size = len(entry.body)
    found = byte_range(index[b"range"], size)
    if found is None:
        return None
    if isinstance(found, bool):
        pairs: list[Pair] = [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")]
        return Response(416, b"Range Not Satisfiable", Headers(pairs))
    first, last = found
    body = entry.body[first : last + 1]
    pairs = [pair for pair in entry.headers.pairs if pair[0] != b"content-length"]
    pairs += [(b"content-range", b"bytes %d-%d/%d" % (first, last, size)), (b"content-length", b"%d" % len(body))]
    return Response(206, b"Partial Content", Headers(pairs), body=body)


def _is_strong(mine: dict[bytes, bytes]) -> bool:
    """Whether nothing else can have had this Last-Modified: the answer is at least a second younger (RFC 9110 section
    8.8.2.2)."""
    modified, date = date_of(mine.get(b"last-modified", b"")), date_of(mine.get(b"date", b""))
    return modified is not None and date is not None and date - modified >= 1


_PORTS = {"http": 80, "https": 443}
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _plain(match: re.Match[str]) -> str:
    one = chr(int(match[1], 16))
    return one if one in _UNRESERVED else match[0].upper()


def same_host(exchange: Exchange, location: bytes) -> Url | None:
    """Where a Location leads, if that is on this host (RFC 9111 section 4.4)."""
    scheme = exchange.scheme.decode() or "http"
    base = f"{scheme}://{exchange.host.decode('latin-1')}{exchange.path.decode('latin-1')}"
    try:
        parts = urlsplit(urljoin(base + exchange.query.decode("latin-1"), location.decode("latin-1")))
        there = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        here = urlsplit(base)
    except ValueError:
        return None
    if parts.scheme not in _PORTS or there[0] != here.hostname:
        return None
    if there[1] not in (here.port, _PORTS[parts.scheme] if here.port is None else here.port):
        return None
    path = _ESCAPED.sub(_plain, parts.path or "/").encode("latin-1")
    return exchange.host, path, b"?" + parts.query.encode("latin-1") if parts.query else b""


def http_date(now: float) -> bytes:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()


def gateway_timeout() -> Response:
    """RFC 9111 section 5.2.1.7."""
    body = b"nothing is kept for this request, and only-if-cached forbids to ask the application\n"
    pairs: list[Pair] = [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"), (b"cache-status", NAME + b"; detail=only-if-cached"),
    ]  # fmt: skip
    return Response(504, b"Gateway Timeout", Headers(pairs), body=body, own=True)
