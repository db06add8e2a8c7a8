"""The cache against a model of RFC 9111 with a clock of its own.

Nothing is served past its life, to another, or after it was written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache.edge import Edge
from proxy.cache.fields import date_of
from proxy.cache.freshness import Terms
from proxy.cache.store import Store
from proxy.cache.terms import EdgeStats, EdgeTerms, KeyTerms
from proxy.cache.ticket import Ticket
from proxy.exchange import Exchange, Response, Verdict
from proxy.filter import Mode, Rule
from proxy.headers import Headers, Pair


class World:
    """An origin that counts its versions, and a cache before it, by one clock."""

    def __init__(self, terms: EdgeTerms, memory: int = 10**6) -> None:
        self.now = 1000.0
        self.store = Store(memory, 8, lambda: self.now)
        self._soon: list[Callable[[], None]] = []

        def told(exchange: Exchange, verdict: Verdict) -> None:
            raise AssertionError("nothing is refused here")

        rule = Rule("a.cache", Mode.ENFORCE, told)
        self.edge = Edge("r", rule, terms, self.store, {}, EdgeStats(), self._soon.append, shadow=False)

    def exchange(self, path: bytes, method: bytes = b"GET", user: str = "", *pairs: Pair) -> Exchange:
        made = Exchange(method, 1, Headers([(b"host", b"a"), *pairs]), "192.0.2.1", self.now)
        made.path, made.user = path, user
        return made

    def get(self, exchange: Exchange, answer: Callable[[], tuple[int, list[Pair], bytes]]) -> tuple[bytes, bool]:
        """The body that the client gets, and whether the origin was asked."""
        found = self.edge.ask(exchange, bodyless=True, now=self.now)
        if isinstance(found, Response):
            return found.body, False
        status, pairs, body = answer()
        response = Response(status, b"OK", Headers(list(pairs)))
        assert found is None or isinstance(found, Ticket), "nothing is under way between two requests"
        if found is not None:
            served = found.on_head(response, self.now)
            if served is not None:
                return served.body, True
            found.feed(body[:2], False)
            found.feed(body[2:], True)
            found.fail()
        return body, True


def fixed(pairs: list[Pair], body: bytes) -> Callable[[], tuple[int, list[Pair], bytes]]:
    return lambda: (200, pairs, body)


STEP = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.0, 90.0)),
    st.tuples(st.just("get"), st.integers(0, 2)),
    st.tuples(st.just("change"), st.integers(0, 2)),
    st.tuples(st.just("write"), st.integers(0, 2)),
)
CONTROLS = st.sampled_from([b"max-age=60", b"s-maxage=30, max-age=500", b"no-store", b"private, max-age=60",
                            b"max-age=60, no-cache", b"max-age=0", b"public, max-age=45"])  # fmt: skip
LIVES = {b"max-age=60": 60, b"s-maxage=30, max-age=500": 30, b"public, max-age=45": 45}


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=40), st.lists(CONTROLS, min_size=3, max_size=3), st.booleans())
def test_nothing_is_served_past_its_life_or_after_a_write(
    steps: list[tuple[str, float]], controls: list[bytes], validates: bool
) -> None:
    world = World(EdgeTerms())
    versions = [0, 0, 0]
    served: list[dict[int, float]] = [{}, {}, {}]
    born = time.time() - world.now
    for step, value in steps:
        if step == "wait":
            world.now += value
            continue
        at = int(value)
        path = b"/%d" % at
        if step == "change":
            versions[at] += 1
        elif step == "write":
            versions[at] += 1
            exchange = world.exchange(path, b"POST")
            assert world.edge.ask(exchange, bodyless=True, now=world.now) is None
            world.edge.invalidated(exchange, Response(200, b"OK", Headers([])))
            served[at].clear()
        else:
            fields: list[Pair] = [(b"cache-control", controls[at])]
            if validates:
                fields.append((b"etag", b'"%d"' % versions[at]))
            exchange = world.exchange(path)

            def answer(
                exchange: Exchange = exchange, at: int = at, fields: list[Pair] = fields
            ) -> tuple[int, list[Pair], bytes]:
                sent = exchange.sent
                known = sent.index.get(b"if-none-match") if sent is not None else None
                if known == b'"%d"' % versions[at] and validates:
                    return 304, fields, b""
                return 200, fields, b"v%d" % versions[at]

            body, asked = world.get(exchange, answer)
            version = int(body[1:])
            if asked:
                assert version == versions[at], "who asks gets what is there"
                served[at] = {version: world.now}
            else:
                life = LIVES[controls[at]]
                assert version in served[at], "no write lies between"
                assert world.now - served[at][version] < life
    assert born > 0
    assert world.store.pending == 0


def test_no_answer_crosses_identities() -> None:
    world = World(EdgeTerms(key=KeyTerms(user=True, claims=("role",), headers=(b"accept-language",))), 300_000)
    chance = random.Random(7)
    hits = 0
    for number in range(100_000):
        user = f"u{chance.randrange(20)}"
        role, tongue = chance.choice(["admin", "sales"]), chance.choice([b"en", b"de"])
        path = b"/%d" % chance.randrange(30)
        exchange = world.exchange(path, b"GET", user, (b"accept-language", tongue), (b"authorization", b"Bearer x"))
        exchange.claims = {"role": role}
        whose = b"%b %b %b %b" % (user.encode(), role.encode(), tongue, path)
        pairs: list[Pair] = [(b"cache-control", b"public, max-age=%d" % chance.randrange(100))]
        body, asked = world.get(exchange, fixed(pairs, whose))
        assert body == whose
        hits += not asked
        world.now += 0.01
        if number % 1000 == 0:
            assert world.store.size + world.store.pending <= 300_000
    assert hits > 2000


@pytest.mark.parametrize("terms", [EdgeTerms(), EdgeTerms(key=KeyTerms(user=True)), EdgeTerms(strips=False)])
def test_unverified_tokens_share_nothing(terms: EdgeTerms) -> None:
    world = World(terms)
    pairs: list[Pair] = [(b"cache-control", b"max-age=60")]
    for name in (b"one", b"two"):
        exchange = world.exchange(b"/", b"GET", "", (b"authorization", b"Bearer " + name))
        body, asked = world.get(exchange, fixed(pairs, name))
        assert (body, asked) == (name, True)


def test_heuristics_and_negative_answers_are_the_policys() -> None:
    modified = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - 1000)).encode()
    assert date_of(modified) is not None
    world = World(EdgeTerms(fresh=Terms(heuristic=0.1, negative=((404, 10.0),))))
    assert world.get(world.exchange(b"/a"), lambda: (200, [(b"last-modified", modified)], b"11"))[1]
    assert not world.get(world.exchange(b"/a"), lambda: (200, [], b"22"))[1]
    world.now += 110
    assert world.get(world.exchange(b"/a"), lambda: (200, [], b"22"))[1]
    assert world.get(world.exchange(b"/b"), lambda: (404, [], b"33"))[1]
    assert not world.get(world.exchange(b"/b"), lambda: (404, [], b"44"))[1]
    world.now += 11
    assert world.get(world.exchange(b"/b"), lambda: (404, [], b"44"))[1]
