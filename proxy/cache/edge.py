"""One route's use of the store: what a request is served, and who follows it to the upstream where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.cache.answer import conditional, gateway_timeout, part, same_host, validators
from proxy.cache.fields import Directives, seconds
from proxy.cache.flight import Flight
from proxy.cache.request import (
    CONDITIONS,
    PRECONDITIONS,
    asked_of,
    bypass,
    goes_on,
    key_of,
    most_stale,
    normal,
    sent,
)
from proxy.cache.second import SecondLevel
from proxy.cache.store import Entry, Key, Store, Url, chosen
from proxy.cache.terms import NAME, EdgeStats, EdgeTerms
from proxy.cache.ticket import Ticket
from proxy.exchange import Response
from proxy.headers import ASSERTED, Headers

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.filter import Rule

UNCACHEABLE_SECONDS = 5.0
"""So long nobody waits for another's answer of a key whose last answer could not be kept."""
MANY_UNCACHEABLE = 10_000
_HIT = b"age: %d\r\ncache-status: %b; hit; ttl=%d\r\n"
Soon = Callable[[Callable[[], None]], object]
SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


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
        self.unknowable = ASSERTED - ({b"x-forwarded-proto", b"x-forwarded-host"} if terms.strips else set())
        """What the proxy says itself and no key has: an answer that varies with it is not kept."""
        marks = CONDITIONS | PRECONDITIONS | terms.key.credentials | {b"range"}
        marks |= {b"cache-control", b"pragma"} if terms.honours else set()
        self._marks = marks | {b"cookie"} if terms.key.cookies is None else marks

    # the request

    def ask(
        self, exchange: Exchange, *, bodyless: bool, now: float, may_wait: bool = True, after: Flight | None = None
    ) -> Response | Ticket | Flight | None:
        """What is served, or who sees the answer that the upstream gives, or whose answer is waited for; None where the
        cache has nothing to do with this request. `after` is the flight that it has waited for: what that brought and
        can't be served to this one, it does not wait for again."""
        if self.rule is None:
            return None
        if after is None and bodyless and exchange.method == b"GET" and self._marks.isdisjoint(exchange.headers.index):
            served = self._plain_hit(exchange, now)
            if served is not None:
                return served
        why = bypass(exchange, self.terms.key, bodyless=bodyless)
        if why:
            self._pass(exchange, f"bypass-{why}")
            return None
        key = key_of(exchange, self.terms.key, self._shape)
        index = exchange.headers.index
        asked = self.asked(exchange)
        entry = self.select(key, exchange)
        if entry is not None and self._may_serve(entry, asked, now):
            self.store.touch(entry)
            if not self.shadow:
                return self._hit(exchange, entry, now, collapsed=after is not None and after.kept)
        if not self.shadow and b"only-if-cached" in asked:
            exchange.cached = "miss"
            self.stats.count("miss")
            return gateway_timeout()
        if b"no-store" in asked:
            self._pass(exchange, "bypass-no-store")
            return None
        if b"range" in index or (exchange.method == b"HEAD"):
            return Ticket(self, exchange, key, None, None, now, watches=exchange.method == b"HEAD")
        if self.shadow:
            return Ticket(self, exchange, key, None, None, now)
        if entry is None and not CONDITIONS.isdisjoint(index):
            return Ticket(self, exchange, key, None, None, now)
        stale = entry is not None and self.may_be_stale(entry, asked, now, entry.kept.stale)
        if after is not None:
            if after.erred and entry is not None and self.may_be_stale(entry, asked, now, entry.kept.errors):
                return self.stale_if_error(exchange, entry, now)
            may_wait = may_wait and not after.kept
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

    def _plain_hit(self, exchange: Exchange, now: float) -> Response | None:
        """The short way to what `ask` finds for a request that has nothing to say to a cache; None where it is long."""
        terms = self.terms.key
        if self.shadow or exchange.certificate:
            return None
        if terms.user and not exchange.user and not exchange.api_key and b"authorization" in exchange.headers.index:
            return None
        entry = self.select(key_of(exchange, terms, self._shape), exchange)
        if entry is None or not entry.fresh(now):
            return None
        self.store.touch(entry)
        self.stats.count("hit")
        exchange.cached = "hit"
        response = Response(entry.status, entry.reason, Headers.like(entry.headers), body=entry.body)
        age = entry.age(now)
        response.blocks.append(_HIT % (age, NAME, min(entry.kept.lifetime - age, entry.outdated - now)))
        self.stats.bytes_served += len(entry.body)
        return response

    def _landed(self, key: Key, flight: Flight | None) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _pass(self, exchange: Exchange, result: str) -> None:
        exchange.cached = result
        self.stats.count(result)

    def asked(self, exchange: Exchange) -> Directives:
        """What the client asks of the cache, where it is heard."""
        return asked_of(exchange) if self.terms.honours else {}

    def select(self, key: Key, exchange: Exchange) -> Entry | None:
        """RFC 9111 section 4.1: the newest whose request fields are the same."""
        for entry in self.store.all_of(key):
            if not entry.varies or all(value == self.said(exchange, name) for name, value in entry.varies):
                return entry
        return None

    def said(self, exchange: Exchange, name: bytes) -> bytes | None:
        """A field as the upstream would hear it, normalised."""
        if self.terms.strips and not self.shadow and not goes_on(name, self.terms.key):
            return None
        return normal(name, exchange.headers.all(name)) if name in exchange.headers.index else None

    def _may_serve(self, entry: Entry, asked: Directives, now: float) -> bool:
        if not asked:
            return entry.fresh(now)
        if b"no-cache" in asked:
            return False
        if not entry.fresh(now):
            return b"max-stale" in asked and self.may_be_stale(entry, asked, now, most_stale(asked[b"max-stale"]))
        if b"max-age" in asked and entry.age(now) > seconds(asked[b"max-age"]):
            return False
        return b"min-fresh" not in asked or entry.ttl(now) >= seconds(asked[b"min-fresh"])

    def may_be_stale(self, entry: Entry, asked: Directives, now: float, most: float) -> bool:
        if entry.kept.strict or b"no-cache" in asked or most <= 0:
            return False
        if b"min-fresh" in asked or (b"max-age" in asked and entry.age(now) > seconds(asked[b"max-age"])):
            return False
        return -entry.ttl(now) <= most

    def shares(self, entry: Entry) -> bool:
        """Whether the key alone says whom the answer is for, so that other sidecars may have it."""
        return all(value is None or name in self.terms.key.headers for name, value in entry.varies)

    def taken(self, exchange: Exchange, key: Key, now: float) -> Response | None:
        """What another sidecar had kept, and is here now; None where it is not for this request, or fresh no more."""
        entry = self.select(key, exchange)
        if entry is None or not entry.fresh(now):
            return None
        self.store.touch(entry)
        return self._hit(exchange, entry, now)

    def conceal(self, response: Response) -> None:
        """What the application says to this cache is nobody else's: a cache in front knows nothing of its keys."""
        named = [name for name in (b"surrogate-key", *self.terms.fresh.targets) if name in response.headers.index]
        if named:
            response.headers.remove(named)

    def passed(self, exchange: Exchange, response: Response) -> None:
        """The request was none for the cache: say why (RFC 9211 section 2.2)."""
        reason = exchange.cached.removeprefix("bypass-")
        if self.rule is not None and not self.shadow and reason != exchange.cached:
            self.conceal(response)
            said = b"fwd=method" if reason == "method" else b"fwd=bypass; detail=%b" % reason.encode()
            response.blocks.append(b"cache-status: %b; %b\r\n" % (NAME, said))

    # what is served

    def _hit(
        self, exchange: Exchange, entry: Entry, now: float, result: str = "hit", *, collapsed: bool = False
    ) -> Response:
        """`collapsed` where it waited for what another's request brought (RFC 9211 section 2.6)."""
        self.stats.count(result)
        exchange.cached = result
        said = b"fwd=uri-miss; collapsed; ttl=%d" if collapsed else b"hit; ttl=%d"
        return self.served(exchange, entry, now, said % entry.ttl(now))

    def stale_if_error(self, exchange: Exchange, entry: Entry, now: float) -> Response:
        self.stats.count("stale-if-error")
        exchange.cached = "stale-if-error"
        return self.served(exchange, entry, now, b"hit; ttl=%d; detail=stale-if-error" % entry.ttl(now))

    def served(self, exchange: Exchange, entry: Entry, now: float, said: bytes) -> Response:
        """The kept answer for this request: whole, a part of it, or that what the client has is good."""
        block = b"age: %d\r\ncache-status: %b; %b\r\n" % (entry.age(now), NAME, said)
        index = exchange.headers.index
        response = None
        if not CONDITIONS.isdisjoint(index):
            response = conditional(exchange.headers, entry)
        if response is None and b"range" in index and entry.status == 200 and exchange.method == b"GET":
            response = part(index, entry)
        if response is None:
            response = Response(entry.status, entry.reason, Headers.like(entry.headers), body=entry.body)
        response.blocks.append(block)
        self.stats.bytes_served += len(response.body)
        return response

    # what is asked of the upstream

    def sent(self, exchange: Exchange, entry: Entry | None) -> Headers | None:
        """The request fields for the upstream; None where they are the client's."""
        found = validators(entry) if entry is not None else None
        return sent(exchange, self.terms.key, found, strips=self.terms.strips)

    def sent_query(self, exchange: Exchange) -> bytes | None:
        parameters = self.terms.key.parameters
        return None if parameters is None or not self.terms.strips else chosen(exchange.query, parameters)

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
        urls += [url for one in told if one is not None and (url := same_host(exchange, one)) is not None]
        for url in urls:
            self.store.invalidate(url)
            self.on_written(url)
