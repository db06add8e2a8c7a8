"""Follows one request to the upstream, and keeps the answer or takes it for what is kept."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import TYPE_CHECKING

from proxy.cache.answer import http_date, plainest, unkept
from proxy.cache.fields import listed
from proxy.cache.flight import Flight
from proxy.cache.freshness import dropped_fields, judge
from proxy.cache.request import identified, unaddressed
from proxy.cache.store import Entry, Key, size_of
from proxy.cache.terms import NAME
from proxy.exchange import Response
from proxy.headers import Headers

if TYPE_CHECKING:
    from proxy.cache.edge import Edge
    from proxy.exchange import Exchange

ERRORS = frozenset({500, 502, 503, 504})
"""Answers that stale-if-error stands in for (RFC 5861 section 4)."""


def _speaks_of_another(told: dict[bytes, bytes], mine: dict[bytes, bytes]) -> bool:
    """Whether a 304's validators are not the kept answer's (RFC 9111 section 4.3.4)."""
    for name in (b"etag", b"last-modified"):
        if name in told and name in mine:
            return told[name].removeprefix(b"W/") != mine[name].removeprefix(b"W/")
    return False


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
            if edge.terms.strips:
                exchange.asserted = unaddressed(exchange.asserted, exchange)

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
            return edge.served(exchange, fresh, now, b"fwd=stale; fwd-status=304; ttl=%d" % fresh.ttl(now))
        self.asks_anew = False
        if response.status in ERRORS and (stale := self.stale(now)) is not None:
            return stale
        why = self._keep(response, now) if measured else "no length"
        said = self._why(entry, now)
        if why:
            if entry is not None and response.status < 500 and entry in edge.store.all_of(entry.key):
                edge.store.drop(entry)
            edge.stats.unkept[why] = edge.stats.unkept.get(why, 0) + 1
            said += b'; detail="not kept: %b"' % why.encode()
            self._release()
        else:
            said += b"; stored"
        self._told(response, "miss", said)
        return None

    def _why(self, entry: Entry | None, now: float) -> bytes:
        """It went on (RFC 9211 section 2.2)."""
        if entry is None:
            return b"fwd=vary-miss" if self._edge.store.all_of(self.key) else b"fwd=uri-miss"
        return b"fwd=request" if entry.fresh(now) else b"fwd=stale"

    def _told(self, response: Response, result: str, said: bytes) -> None:
        self.exchange.cached = result
        self._edge.stats.count(result)
        if not self._edge.shadow:
            self._edge.conceal(response)
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
        authorized = identified(exchange, terms.key)
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
        gone = unkept(headers) | dropped_fields(headers, terms.fresh.targets)
        targets = terms.fresh.targets
        pairs = [
            pair for pair in headers.pairs
            if pair[0] not in gone and pair[0] not in targets and pair[0] != b"content-length"
        ]  # fmt: skip
        if b"date" not in headers.index:
            pairs.append((b"date", http_date(time.time())))
        names = dict.fromkeys(listed(headers.all(b"vary")))
        if not edge.unknowable.isdisjoint(names):
            return "vary on what the proxy says"
        varies = tuple((name, edge.said(exchange, name)) for name in names)
        tags = tuple(dict.fromkeys(b" ".join(headers.all(b"surrogate-key")).split()))
        self._kept = Entry(
            self.key, (exchange.host, exchange.path, exchange.query), varies, response.status, response.reason,
            Headers(pairs), b"", kept, now, tags, 0, edge.route,
            tuple(pair for pair in headers.pairs if pair[0] in targets), parameters=terms.key.parameters,
            arrived=edge.store.arrival(),
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
        if exchange.nonce and plainest(exchange.nonce) in body:
            edge.stats.unkept["nonce"] = edge.stats.unkept.get("nonce", 0) + 1
        elif self._is_newest(kept) and not store.outlived(self._purges, kept.url, kept.tags, kept.parameters):
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
            self.flight.kept = True
            self.flight.end()

    def _is_newest(self, kept: Entry) -> bool:
        """Another's answer may have come later, and been whole sooner (RFC 9111 section 4)."""
        there = self._edge.store.all_of(self.key)
        return all(one.arrived < kept.arrived for one in there if one.varies == kept.varies)

    def _compare_bodies(self, body: bytes, now: float) -> None:
        """In shadow: would what is kept have been the right answer?"""
        edge = self._edge
        before = edge.select(self.key, self.exchange)
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
        alive = entry in store.all_of(entry.key)
        if _speaks_of_another(response.headers.index, entry.headers.index):
            if alive:
                store.drop(entry)
            return None
        headers = response.headers
        gone = unkept(headers) | dropped_fields(headers, edge.terms.fresh.targets)
        gone |= {b"content-length", b"content-encoding", b"content-range"}
        new = [pair for pair in headers.pairs if pair[0] not in gone]
        if b"date" not in headers.index:
            new.append((b"date", http_date(time.time())))
        names = {name for name, _ in new}
        targets = edge.terms.fresh.targets
        known = [pair for pair in (*entry.headers.pairs, *entry.targeted) if pair[0] not in names]
        told = Headers([*known, *new])
        merged = Headers([pair for pair in told.pairs if pair[0] not in targets])
        aged = Headers([*told.pairs, *[(b"age", one) for one in headers.all(b"age")]])
        authorized = identified(self.exchange, edge.terms.key)
        delay = now - self._began
        kept, _ = judge(entry.status, aged, edge.terms.fresh, authorized=authorized, delay=delay, now=time.time())
        body, outlived = entry.body, store.outlived(self._purges, entry.url, entry.tags, entry.parameters)
        named = dict.fromkeys(listed(told.all(b"vary")))
        chosen_by = dict(entry.varies)
        varies = tuple([(name, chosen_by.get(name, edge.said(self.exchange, name))) for name in named])
        fresh = Entry(
            entry.key, entry.url, varies, entry.status, entry.reason, merged, body, kept or entry.kept, now,
            entry.tags, 0, entry.route, tuple(pair for pair in told.pairs if pair[0] in targets), entry.hits,
            parameters=entry.parameters, arrived=store.arrival(),
        )  # fmt: skip
        fresh.size = size_of(fresh.url, merged, body, fresh.tags)
        if alive and (kept is not None or not authorized):
            store.drop(entry)
        if alive and kept is not None and not outlived and edge.unknowable.isdisjoint(named):
            store.put(fresh)
            store.touch(fresh)
        if self.flight is not None:
            self.flight.kept = True
            self.flight.end()
        return fresh

    def _compare(self, response: Response, now: float) -> None:
        """A HEAD's answer that differs tells that the kept one is out of date (RFC 9111 section 4.3.5)."""
        entry = self._edge.select(self.key, self.exchange)
        if entry is None or response.status != 200 or entry.status != 200:
            return
        for name in (b"etag", b"last-modified", b"content-length"):
            told, mine = response.headers.index.get(name), entry.headers.index.get(name)
            if told is not None and mine is not None and told != mine:
                entry.outdated = min(entry.outdated, now)

    def stale(self, now: float) -> Response | None:
        """The kept answer in place of an error, where it may stand in."""
        edge, entry = self._edge, self.entry
        if entry is None or not edge.may_be_stale(entry, edge.asked(self.exchange), now, entry.kept.errors):
            return None
        if self.flight is not None:
            self.flight.erred = True
        self.fail()
        return edge.stale_if_error(self.exchange, entry, now)

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
