"""One route's use of the store: what of a request makes the key, what may be served for it, and what becomes of the
answer that comes instead."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from proxy.cache.fields import byte_range, date_of, directives, listed, matches_any, seconds
from proxy.cache.flight import Flight
from proxy.cache.freshness import RFC, Terms, dropped_fields, judge
from proxy.cache.second import SecondLevel
from proxy.cache.store import Entry, Key, Store, Url, size_of
from proxy.exchange import Response
from proxy.headers import ASSERTED, HOP_BY_HOP, Headers, Pair, with_named

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.filter import Rule

NAME = b"simplepro-proxy"
UNCACHEABLE_SECONDS = 5.0
"""So long nobody waits for another's answer of a key whose last answer could not be kept."""
MANY_UNCACHEABLE = 10_000
Soon = Callable[[Callable[[], None]], object]
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
ERRORS = frozenset({500, 502, 503, 504})
"""Answers that stale-if-error stands in for (RFC 5861 section 4)."""
CREDENTIALS = frozenset({b"x-api-key", b"api-key", b"x-auth-token", b"proxy-authorization"})

_UNKEPT = (
    HOP_BY_HOP
    | (ASSERTED - {b"via"})
    | {
        b"age", b"surrogate-key", b"proxy-authentication-info", b"ratelimit", b"ratelimit-policy",
        b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset", b"trailer", b"cache-status",
    }
)  # fmt: skip
_PASSED = frozenset({b"host", b"authorization"})
"""Request fields that go on though they are in no key: the upstream gets them from the proxy, or answers that hang on
them are not shared (RFC 9111 section 3.5)."""
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
_PRECONDITIONS = frozenset({b"if-match", b"if-unmodified-since"})
"""These are the origin's to judge (RFC 9110 section 13.2.1)."""
_RANGES = frozenset({b"range", b"if-range"})
_UNORDERED = frozenset({b"accept", b"accept-encoding", b"accept-language", b"accept-charset"})
"""Members are weighed by `q`, not by where they stand (RFC 9110 section 12.4)."""
_NOT_MODIFIED = frozenset(
    {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"last-modified",
     b"cdn-cache-control"}
)  # fmt: skip
"""What a 304 tells (RFC 9110 section 15.4.5)."""


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What of a request beside method, host and path makes its key.

    `parameters` None is the whole query, `cookies` None means that requests with cookies are passed by.
    """

    parameters: frozenset[bytes] | None = None
    headers: tuple[bytes, ...] = ()
    cookies: tuple[bytes, ...] | None = None
    user: bool = False
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EdgeTerms:
    """`strips`: what is in no key does not reach the upstream. `wait` is seconds for another's answer."""

    key: KeyTerms = KeyTerms()
    fresh: Terms = RFC
    strips: bool = True
    honours: bool = True
    """Whether a client's Cache-Control is heard."""
    wait: float = 5.0
    max_body: int = 1024 * 1024


@dataclass(slots=True)
class EdgeStats:
    """Of one route: requests by what they came to, stores, and how long answers took that were kept."""

    results: dict[str, int] = field(default_factory=lambda: {"hit": 0, "miss": 0})
    bytes_served: int = 0
    stored: int = 0
    unkept: dict[str, int] = field(default_factory=lambda: {"no-store": 0, "private": 0, "too large": 0})
    wrong: int = 0
    """In shadow: answers that differ from what would have been served."""
    same: int = 0
    fill_seconds: float = 0.0

    def count(self, result: str) -> None:
        self.results[result] = self.results.get(result, 0) + 1


class Edge:
    """One route's cache. `ask` says what a request gets."""

    def __init__(
        self, route: str, rule: Rule | None, terms: EdgeTerms, store: Store, flights: dict[Key, Flight],
        stats: EdgeStats, soon: Soon, *, shadow: bool,
    ) -> None:  # fmt: skip
        """Without a rule it only hears of what is written; `soon` calls something in the loop's next tick."""
        self.route = route
        self.rule = rule
        self.terms = terms
        self.store = store
        self.stats = stats
        self.soon = soon
        self.shadow = shadow
        self._flights = flights
        self.on_written: Callable[[Url], None] = lambda url: None
        self._uncacheable: dict[Key, float] = {}
        parameters = terms.key.parameters
        self._shape = (
            route, None if parameters is None else tuple(sorted(parameters)), terms.key.headers, terms.key.cookies,
            terms.key.claims, terms.strips,
        )  # fmt: skip
        self.second: SecondLevel | None = None

    # the request

    def ask(
        self, exchange: Exchange, *, bodyless: bool, now: float, may_wait: bool = True
    ) -> Response | Ticket | Flight | None:
        """What is served, or who sees the answer that the upstream gives, or whose answer is waited for; None where the
        cache has nothing to do with this request."""
        if self.rule is None:
            return None
        why = self._bypass(exchange, bodyless)
        if why:
            self._pass(exchange, f"bypass-{why}")
            return None
        key = self._key(exchange)
        index = exchange.headers.index
        asked = self._asked(exchange)
        entry = self._select(key, exchange)
        if entry is not None and self._may_serve(entry, asked, now):
            self.store.touch(entry)
            if not self.shadow:
                return self._hit(exchange, entry, now)
        if not self.shadow and b"only-if-cached" in asked:
            exchange.cached = "miss"
            self.stats.count("miss")
            return _gateway_timeout()
        if b"no-store" in asked:
            self._pass(exchange, "bypass-no-store")
            return None
        if b"range" in index or (exchange.method == b"HEAD"):
            return Ticket(self, exchange, key, None, None, now, watches=exchange.method == b"HEAD")
        if self.shadow:
            return Ticket(self, exchange, key, None, None, now)
        if entry is None and not _CONDITIONS.isdisjoint(index):
            return Ticket(self, exchange, key, None, None, now)
        stale = entry is not None and self._may_be_stale(entry, asked, now, entry.kept.stale)
        flight = self._flights.get(key)
        if flight is not None and not flight.ended:
            if stale and entry is not None:
                return self._hit(exchange, entry, now, "stale")
            if may_wait and self._uncacheable.get(key, 0.0) <= now:
                return flight
            return Ticket(self, exchange, key, entry, None, now)
        flight = self._flights[key] = Flight(lambda: self._landed(key, flight), self.soon)
        ticket = Ticket(self, exchange, key, entry, flight, now)
        if stale and entry is not None:
            self.store.touch(entry)
            ticket.refreshes = self._hit(exchange, entry, now, "stale")
        return ticket

    def _landed(self, key: Key, flight: Flight | None) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _pass(self, exchange: Exchange, result: str) -> None:
        exchange.cached = result
        self.stats.count(result)

    def _bypass(self, exchange: Exchange, bodyless: bool) -> str:
        """Why the request is none for the cache."""
        index, key = exchange.headers.index, self.terms.key
        if exchange.method not in (b"GET", b"HEAD") or not bodyless:
            return "method"
        known = bool(exchange.user or exchange.api_key)
        if b"cookie" in index and key.cookies is None:
            return "cookie"
        if key.user and b"authorization" in index and not known:
            return "credentials"
        if not known and not CREDENTIALS.isdisjoint(index) and CREDENTIALS.isdisjoint(key.headers):
            return "credentials"
        if exchange.certificate and not key.user:
            return "certificate"
        if not _PRECONDITIONS.isdisjoint(index):
            return "precondition"
        return ""

    def _key(self, exchange: Exchange) -> Key:
        key, index = self.terms.key, exchange.headers.index
        query = exchange.query if key.parameters is None else _chosen(exchange.query, key.parameters)
        parts: list[object] = [self._shape, exchange.scheme, exchange.host, exchange.path, query]
        if key.headers:
            parts += [_normal(name, exchange.headers.all(name)) if name in index else None for name in key.headers]
        if key.cookies:
            jar = _cookies(exchange.headers, key.cookies)
            parts += [jar.get(name) for name in key.cookies]
        if key.user:
            parts += [exchange.user, exchange.api_key, exchange.certificate]
        if key.claims:
            claims = exchange.claims or {}
            parts += [repr(claims.get(name)) for name in key.claims]
        return tuple(parts)

    def _asked(self, exchange: Exchange) -> dict[bytes, bytes | None]:
        if not self.terms.honours:
            return {}
        index = exchange.headers.index
        if b"cache-control" in index:
            return directives(exchange.headers.all(b"cache-control"))
        return {b"no-cache": None} if b"no-cache" in index.get(b"pragma", b"").lower() else {}

    def _select(self, key: Key, exchange: Exchange) -> Entry | None:
        """RFC 9111 section 4.1: the newest whose request fields are the same."""
        for entry in self.store.all_of(key):
            if all(value == self._said(exchange, name) for name, value in entry.varies):
                return entry
        return None

    def _said(self, exchange: Exchange, name: bytes) -> bytes | None:
        """A field as the upstream would hear it, normalised."""
        if self.terms.strips and not self.shadow and not self._goes_on(name):
            return None
        return _normal(name, exchange.headers.all(name)) if name in exchange.headers.index else None

    def _goes_on(self, name: bytes) -> bool:
        return name in _PASSED or name in self.terms.key.headers or (name == b"cookie" and bool(self.terms.key.cookies))

    def _may_serve(self, entry: Entry, asked: dict[bytes, bytes | None], now: float) -> bool:
        if not asked:
            return entry.fresh(now)
        if b"no-cache" in asked:
            return False
        if not entry.fresh(now):
            return b"max-stale" in asked and self._may_be_stale(entry, asked, now, _most_stale(asked[b"max-stale"]))
        if b"max-age" in asked and entry.age(now) > seconds(asked[b"max-age"]):
            return False
        return b"min-fresh" not in asked or entry.ttl(now) >= seconds(asked[b"min-fresh"])

    def _may_be_stale(self, entry: Entry, asked: dict[bytes, bytes | None], now: float, most: float) -> bool:
        if entry.kept.strict or b"no-cache" in asked or most <= 0:
            return False
        if b"max-age" in asked and entry.age(now) > seconds(asked[b"max-age"]):
            return False
        return -entry.ttl(now) <= most

    def shares(self, entry: Entry) -> bool:
        """Whether the key alone says whom the answer is for, so that other sidecars may have it."""
        return all(value is None or name in self.terms.key.headers for name, value in entry.varies)

    def taken(self, exchange: Exchange, key: Key, now: float) -> Response | None:
        """What another sidecar had kept, and is here now; None where it is not for this request, or fresh no more."""
        entry = self._select(key, exchange)
        if entry is None or not entry.fresh(now):
            return None
        self.store.touch(entry)
        return self._hit(exchange, entry, now)

    def passed(self, exchange: Exchange, response: Response) -> None:
        """The request was none for the cache: say why (RFC 9211 section 2.2)."""
        reason = exchange.cached.removeprefix("bypass-")
        if self.rule is not None and not self.shadow and reason != exchange.cached:
            said = b"fwd=method" if reason == "method" else b"fwd=bypass; detail=%b" % reason.encode()
            response.blocks.append(b"cache-status: %b; %b\r\n" % (NAME, said))

    # what is served

    def _hit(self, exchange: Exchange, entry: Entry, now: float, result: str = "hit") -> Response:
        self.stats.count(result)
        exchange.cached = result
        return self.served(exchange, entry, now, b"hit; ttl=%d" % entry.ttl(now))

    def served(self, exchange: Exchange, entry: Entry, now: float, said: bytes) -> Response:
        """The kept answer for this request: whole, a part of it, or that what the client has is good."""
        block = b"age: %d\r\ncache-status: %b; %b\r\n" % (entry.age(now), NAME, said)
        index = exchange.headers.index
        response = None
        if not _CONDITIONS.isdisjoint(index):
            response = _conditional(index, entry)
        if response is None and b"range" in index and entry.status == 200 and exchange.method == b"GET":
            response = _part(index, entry)
        if response is None:
            response = Response(entry.status, entry.reason, Headers.like(entry.headers), body=entry.body)
        response.blocks.append(block)
        self.stats.bytes_served += len(response.body)
        return response

    # what is asked of the upstream

    def sent(self, exchange: Exchange, entry: Entry | None) -> Headers | None:
        """The request fields for the upstream, where they are others than the client's."""
        headers, strips = exchange.headers, self.terms.strips
        if not strips and entry is None:
            return None
        ranges = _RANGES if b"range" in headers.index else frozenset()
        pairs = [pair for pair in headers.pairs if not strips or self._goes_on(pair[0]) or pair[0] in ranges]
        if strips and self.terms.key.cookies and b"cookie" in headers.index:
            jar = _cookies(headers, self.terms.key.cookies)
            pairs = [pair for pair in pairs if pair[0] != b"cookie"]
            if jar:
                pairs.append((b"cookie", b"; ".join(b"%b=%b" % one for one in jar.items())))
        if entry is not None:
            pairs = [pair for pair in pairs if pair[0] not in _CONDITIONS]
            pairs += _validators(entry)
        return Headers(pairs)

    def sent_query(self, exchange: Exchange) -> bytes | None:
        parameters = self.terms.key.parameters
        return None if parameters is None or not self.terms.strips else _chosen(exchange.query, parameters)

    # the answer

    def mark_uncacheable(self, key: Key, now: float) -> None:
        if len(self._uncacheable) >= MANY_UNCACHEABLE:
            self._uncacheable.clear()
        self._uncacheable[key] = now + UNCACHEABLE_SECONDS

    def mark_cacheable(self, key: Key) -> None:
        self._uncacheable.pop(key, None)

    def invalidated(self, exchange: Exchange, response: Response) -> None:
        """After an unsafe request that went well (RFC 9111 section 4.4)."""
        if exchange.method in SAFE or not 200 <= response.status < 400:
            return
        urls = [(exchange.host, exchange.path, exchange.query)]
        told = [response.headers.index.get(name) for name in (b"location", b"content-location")]
        urls += [url for one in told if one is not None and (url := _same_host(exchange, one)) is not None]
        for url in urls:
            self.store.invalidate(url)
            self.on_written(url)


class Ticket:
    """Follows one request to the upstream: keeps the answer, takes a 304 for the kept one, has it stand in for errors.

    `entry` is what would be served if the upstream finds it good still, `flight` who waits for this answer.
    `refreshes` is an answer to serve at once while this request runs on its own.
    """

    __slots__ = (
        "_began", "_edge", "_held", "_kept", "_pieces", "_purges", "_since", "asks_anew", "entry", "exchange", "flight",
        "key", "lease", "refreshes", "watches",
    )  # fmt: skip

    def __init__(
        self, edge: Edge, exchange: Exchange, key: Key, entry: Entry | None, flight: Flight | None, now: float, *,
        watches: bool = False,
    ) -> None:  # fmt: skip
        self._edge = edge
        self.exchange = exchange
        self.key = key
        self.entry = entry
        self.flight = flight
        self.watches = watches
        self.refreshes: Response | None = None
        self.asks_anew = False
        """What was found good is not what is kept (RFC 9111 section 4.3.3): the request goes out without conditions."""
        self._began = now
        self._purges = edge.store.purges
        self._pieces: list[bytes] | None = None
        self._held = 0
        self._kept: Entry | None = None
        self._since = time.time()
        self.lease = ""
        """What makes this one ask for all sidecars."""
        if not edge.shadow:
            exchange.sent = edge.sent(exchange, entry)
            query = edge.sent_query(exchange)
            if query is not None:
                exchange.sent_query = query

    def on_head(self, response: Response, now: float, *, measured: bool = True) -> Response | None:
        """What is served in its place; None where it goes on, and `feed` gets its body. `measured` is whether it can be
        told when the body is whole."""
        edge, exchange, entry = self._edge, self.exchange, self.entry
        if self.watches:
            self._compare(response, now)
            self._told(response, "miss", b"fwd=method")
            return None
        if response.status == 304 and entry is not None:
            fresh = self._validated(entry, response, now)
            if fresh is None:
                self.entry, self.asks_anew = None, True
                exchange.sent = edge.sent(exchange, None)
                return None
            edge.stats.count("revalidated")
            exchange.cached = "revalidated"
            return edge.served(exchange, fresh, now, b"hit; fwd=stale; fwd-status=304; ttl=%d" % fresh.ttl(now))
        self.asks_anew = False
        if response.status in ERRORS and (stale := self.stale(now)) is not None:
            return stale
        why = self._keep(response, now) if measured else "no length"
        said = b"fwd=stale" if entry is not None else b"fwd=uri-miss"
        if why:
            edge.stats.unkept[why] = edge.stats.unkept.get(why, 0) + 1
            said += b'; detail="not kept: %b"' % why.encode()
            self._release()
        else:
            said += b"; stored"
        self._told(response, "miss", said)
        return None

    def _told(self, response: Response, result: str, said: bytes) -> None:
        self.exchange.cached = result
        self._edge.stats.count(result)
        if not self._edge.shadow:
            if b"surrogate-key" in response.headers.index:
                response.headers.remove((b"surrogate-key",))
            response.blocks.append(b"cache-status: %b; %b\r\n" % (NAME, said))

    def _release(self) -> None:
        """Nobody is to wait for what is not kept."""
        if self.flight is not None:
            self._edge.mark_uncacheable(self.key, self._edge.store.clock())
            self.flight.end()

    def _keep(self, response: Response, now: float) -> str:
        """Begin to keep the answer; else why not."""
        edge, exchange = self._edge, self.exchange
        terms = edge.terms
        if exchange.method != b"GET" or b"range" in exchange.headers.index:
            return "partial"
        authorized = b"authorization" in exchange.headers.index
        kept, why = judge(
            response.status, response.headers, terms.fresh, authorized=authorized, delay=now - self._began,
            now=time.time(),
        )  # fmt: skip
        if kept is None:
            return why
        length = response.headers.index.get(b"content-length", b"")
        if length.isdigit() and int(length) > terms.max_body:
            return "too large"
        headers = response.headers
        unkept = _unkept(headers) | dropped_fields(headers, terms.fresh.targets)
        pairs = [pair for pair in headers.pairs if pair[0] not in unkept and pair[0] != b"content-length"]
        if b"date" not in headers.index:
            pairs.append((b"date", _date(time.time())))
        names = dict.fromkeys(listed(headers.all(b"vary")))
        varies = tuple((name, edge._said(exchange, name)) for name in names)
        tags = tuple(dict.fromkeys(b" ".join(headers.all(b"surrogate-key")).split()))
        self._kept = Entry(
            self.key, (exchange.host, exchange.path, exchange.query), varies, response.status, response.reason,
            Headers(pairs), b"", kept, now, tags, 0, edge.route,
        )  # fmt: skip
        self._pieces = []
        return ""

    def feed(self, data: bytes, ended: bool) -> None:
        """A piece of the body, as it goes to the client."""
        pieces, kept, store = self._pieces, self._kept, self._edge.store
        if pieces is None or kept is None:
            return
        if data:
            if self._held + len(data) > self._edge.terms.max_body or not store.hold(len(data)):
                self.fail()
                return
            self._held += len(data)
            pieces.append(data)
        if ended:
            self._commit(kept, b"".join(pieces))

    def _commit(self, kept: Entry, body: bytes) -> None:
        edge, store, exchange = self._edge, self._edge.store, self.exchange
        self._let_go()
        self._pieces = None
        now = store.clock()
        if exchange.nonce and _plainest(exchange.nonce) in body:
            edge.stats.unkept["nonce"] = edge.stats.unkept.get("nonce", 0) + 1
        elif not store.outlived(self._purges, kept.url, kept.tags):
            if edge.shadow:
                self._compare_bodies(body, now)
            kept.body = body
            if kept.status not in (204, 304):
                kept.headers.add(b"content-length", b"%d" % len(body))
            kept.size = size_of(kept.url, kept.headers, body, kept.tags)
            store.put(kept)
            edge.mark_cacheable(self.key)
            edge.stats.stored += 1
            edge.stats.fill_seconds += now - self._began
            second = edge.second
            if second is not None and second.available() and edge.shares(kept):
                second.keep(kept, self.lease, self._since)
                self.lease = ""
        if self.flight is not None:
            self.flight.end()

    def _compare_bodies(self, body: bytes, now: float) -> None:
        """In shadow: would what is kept have been the right answer?"""
        edge = self._edge
        before = edge._select(self.key, self.exchange)
        if before is None or not before.fresh(now):
            return
        if blake2b(before.body).digest() == blake2b(body).digest():
            edge.stats.same += 1
        else:
            edge.stats.wrong += 1
            if edge.rule is not None:
                edge.rule.enforces(self.exchange)

    def _validated(self, entry: Entry, response: Response, now: float) -> Entry | None:
        """The kept answer with the 304's fields (RFC 9111 sections 3.2, 4.3.4); None where it speaks of another one."""
        edge, store = self._edge, self._edge.store
        tag, mine = response.headers.index.get(b"etag", b""), entry.headers.index.get(b"etag", b"")
        if tag and mine and tag.removeprefix(b"W/") != mine.removeprefix(b"W/"):
            store.drop(entry)
            return None
        headers = response.headers
        unkept = _unkept(headers) | {b"content-length", b"content-encoding", b"content-range"}
        new = [pair for pair in headers.pairs if pair[0] not in unkept]
        names = {name for name, _ in new}
        merged = Headers([*(pair for pair in entry.headers.pairs if pair[0] not in names), *new])
        kept, _ = judge(
            entry.status, merged, edge.terms.fresh, authorized=b"authorization" in self.exchange.headers.index,
            delay=now - self._began, now=time.time(),
        )  # fmt: skip
        body, outlived = entry.body, store.outlived(self._purges, entry.url, entry.tags)
        alive = entry in store.all_of(entry.key)
        fresh = Entry(
            entry.key, entry.url, entry.varies, entry.status, entry.reason, merged, body, kept or entry.kept, now,
            entry.tags, 0, entry.route, entry.hits,
        )  # fmt: skip
        fresh.size = size_of(fresh.url, merged, body, fresh.tags)
        if alive:
            store.drop(entry)
        if kept is not None and not outlived:
            store.put(fresh)
            store.touch(fresh)
        if self.flight is not None:
            self.flight.end()
        return fresh

    def _compare(self, response: Response, now: float) -> None:
        """A HEAD's answer that differs tells that the kept one is out of date (RFC 9111 section 4.3.5)."""
        entry = self._edge._select(self.key, self.exchange)
        if entry is None or response.status != 200 or entry.status != 200:
            return
        for name in (b"etag", b"last-modified", b"content-length"):
            told, mine = response.headers.index.get(name), entry.headers.index.get(name)
            if told is not None and mine is not None and told != mine:
                entry.outdated = min(entry.outdated, now)

    def stale(self, now: float) -> Response | None:
        """The kept answer in place of an error, where it may stand in."""
        edge, entry = self._edge, self.entry
        if entry is None or not edge._may_be_stale(entry, edge._asked(self.exchange), now, entry.kept.errors):
            return None
        edge.stats.count("stale-if-error")
        self.exchange.cached = "stale-if-error"
        self.fail()
        return edge.served(self.exchange, entry, now, b"hit; ttl=%d; detail=stale-if-error" % entry.ttl(now))

    @property
    def gave_up(self) -> bool:
        """Nothing of what still comes is of use."""
        return self._pieces is None

    def _let_go(self) -> None:
        if self._held:
            self._edge.store.let_go(self._held)
            self._held = 0

    def fail(self) -> None:
        """The answer will not be kept: it broke off, is too large, or there was none. Who waits asks for itself."""
        self._let_go()
        self._pieces = self._kept = None
        if self.lease and self._edge.second is not None:
            self._edge.second.let_go(self.key, self.lease)
            self.lease = ""
        if self.flight is not None:
            self.flight.end()


# what requests and answers say


def _unkept(headers: Headers) -> frozenset[bytes]:
    """RFC 9111 section 3.1."""
    return with_named(_UNKEPT, headers) if b"connection" in headers.index else _UNKEPT


def _plainest(nonce: bytes) -> bytes:
    """The longest part of a nonce that no template escapes."""
    return max(re.split(rb"[^A-Za-z0-9]", nonce), key=len)


def _most_stale(argument: bytes | None) -> float:
    return float("inf") if argument is None else float(seconds(argument))


def _normal(name: bytes, values: list[bytes]) -> bytes:
    """So that what means the same is the same: space about commas, case and order where neither matters."""
    members = [one.strip(b" \t") for one in b",".join(values).split(b",")]
    if name in _UNORDERED:
        members = sorted({one.replace(b" ", b"").lower() for one in members})
    return b",".join(members)


def _chosen(query: bytes, parameters: frozenset[bytes]) -> bytes:
    """Of a query (with its question mark) the parameters of these names, in their order."""
    kept = [one for one in query[1:].split(b"&") if one.partition(b"=")[0] in parameters]
    return b"?" + b"&".join(kept) if kept else b""


def _cookies(headers: Headers, names: tuple[bytes, ...]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for part in b";".join(headers.all(b"cookie")).split(b";"):
        name, sign, value = part.strip(b" \t").partition(b"=")
        if sign and name in names:
            found.setdefault(name, value)
    return {name: found[name] for name in names if name in found}


def _validators(entry: Entry) -> list[Pair]:
    index = entry.headers.index
    pairs = []
    if b"etag" in index:
        pairs.append((b"if-none-match", index[b"etag"]))
    if b"last-modified" in index:
        pairs.append((b"if-modified-since", index[b"last-modified"]))
    return pairs


def _conditional(index: dict[bytes, bytes], entry: Entry) -> Response | None:
    """304, where the client has it already (RFC 9110 section 13.2.2); only of answers that conditions are about."""
    if entry.status != 200:
        return None
    mine = entry.headers.index
    none = index.get(b"if-none-match")
    if none is not None:
        met = matches_any(none, mine.get(b"etag", b""))
    else:
        since = date_of(index.get(b"if-modified-since", b""))
        modified = date_of(mine.get(b"last-modified", b"") or mine.get(b"date", b""))
        met = since is not None and modified is not None and modified <= since
    if not met:
        return None
    pairs = [pair for pair in entry.headers.pairs if pair[0] in _NOT_MODIFIED]
    return Response(304, b"Not Modified", Headers(pairs))


def _part(index: dict[bytes, bytes], entry: Entry) -> Response | None:
    """206 or 416 of a kept whole (RFC 9110 section 14), unless If-Range speaks of another."""
    condition = index.get(b"if-range")
    mine = entry.headers.index
    if condition is not None:
        strong = condition == mine.get(b"etag") and not condition.startswith(b"W/")
        dated = condition == mine.get(b"last-modified")
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


def _same_host(exchange: Exchange, location: bytes) -> Url | None:
    """Where a Location leads, if that is on this host (RFC 9111 section 4.4)."""
    location = location.partition(b"#")[0]
    if b"://" in location:
        scheme, _, rest = location.partition(b"://")
        host, slash, rest = rest.partition(b"/")
        if scheme.lower() not in (b"http", b"https") or host.lower() != exchange.host:
            return None
        location = slash + rest or b"/"
    elif location.startswith(b"//"):
        return None
    elif not location.startswith(b"/"):
        location = exchange.path.rpartition(b"/")[0] + b"/" + location
    path, mark, query = location.partition(b"?")
    return exchange.host, path, mark + query


def _date(now: float) -> bytes:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()


def _gateway_timeout() -> Response:
    """RFC 9111 section 5.2.1.7."""
    body = b"nothing is kept for this request, and only-if-cached forbids to ask the application\n"
    pairs: list[Pair] = [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"), (b"cache-status", NAME + b"; fwd=request; detail=only-if-cached"),
    ]  # fmt: skip
    return Response(504, b"Gateway Timeout", Headers(pairs), body=body, own=True)
