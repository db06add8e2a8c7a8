"""The store's bound, its indexes and what it forgets, over any sequence of what may happen to it."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.freshness import Kept
from proxy.cache.store import Entry, Purge, Store, size_of
from proxy.headers import Headers, encode

KEPT = Kept(60.0, 0.0, 0.0, 0.0, validates=False, strict=False)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def entry(name: int, size: int = 100, tags: tuple[bytes, ...] = (), varies: bytes | None = None) -> Entry:
    url = (b"a", b"/%d" % name, b"")
    headers = Headers([(b"content-type", b"x")])
    body = b"x" * size
    vary = () if varies is None else ((b"foo", varies),)
    return Entry((name,), url, vary, 200, b"OK", headers, body, KEPT, 0.0, tags, size_of(url, headers, body, tags))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "touch", "tag", "url", "hold", "vary"]), st.integers(0, 20),
        st.integers(0, 9000),
    ),
    max_size=80,
)  # fmt: skip


@given(STEPS)
def test_the_bound_and_the_indexes_hold(steps: list[tuple[str, int, int]]) -> None:
    store = Store(60_000, 3, Clock())
    held: list[int] = []
    for step, name, size in steps:
        if step == "put":
            store.put(entry(name, size, (b"t%d" % (name % 3), b"all")))
        elif step == "vary":
            store.put(entry(name, size, (), b"%d" % (size % 5)))
        elif step == "touch":
            for one in store.all_of((name,)):
                store.touch(one)
        elif step == "tag":
            store.purge(Purge("tag", f"t{name % 3}"))
            assert not any(b"t%d" % (name % 3) in one.tags for one in store.entries())
        elif step == "url":
            store.invalidate((b"a", b"/%d" % name, b""))
            assert not store.all_of((name,))
        elif store.hold(size):
            held.append(size)
        every = list(store.entries())
        assert store.size == sum(one.size for one in every)
        assert store.pending == sum(held)
        assert store.size + store.pending <= 60_000
        assert len(every) == len(set(every)) == len(store)
        assert all(one in store.all_of(one.key) for one in every)
        assert all(len(store.all_of((number,))) <= 3 for number in range(21))
    for size in held:
        store.let_go(size)
    store.purge(Purge("all", "1"))
    assert (store.size, store.pending, len(store)) == (0, 0, 0)
    assert not store._paths
    assert not store._tags
    assert store._protected_size == 0


def test_what_is_asked_for_twice_outlives_what_nobody_asks_for() -> None:
    store = Store(30_000, 3, Clock())
    for name in range(3):
        store.put(entry(name, 1000))
        store.touch(store.all_of((name,))[0])
    for name in range(100, 400):
        store.put(entry(name, 1000))
    assert all(store.all_of((name,)) for name in range(3))


def test_an_answer_under_way_is_held_against_the_purges_since() -> None:
    store = Store(30_000, 3, Clock())
    since = store.purges
    url = (b"a", b"/1", b"?x=1")
    assert not store.outlived(since, url, (b"t",))
    store.purge(Purge("tag", "other"))
    assert not store.outlived(since, url, (b"t",))
    store.purge(Purge("prefix", "a/1"))
    assert store.outlived(since, url, (b"t",))
    later = store.purges
    for _ in range(5000):
        store.purge(Purge("tag", "other"))
    assert store.outlived(later, url, (b"t",)), "what can't be told any more counts as purged"


def test_purges_of_urls_and_prefixes() -> None:
    url = (b"a", b"/x/y", b"?q=1")
    assert Purge("url", "a/x/y?q=1").hits(url, ())
    assert Purge("url", "/x/y?q=1").hits(url, ())
    assert not Purge("url", "a/x/y").hits(url, ())
    assert not Purge("url", "b/x/y?q=1").hits(url, ())
    assert Purge("prefix", "a/x").hits(url, ())
    assert Purge("prefix", "/x/").hits(url, ())
    assert not Purge("prefix", "b/").hits(url, ())


@pytest.mark.parametrize("body", [200, 2_000, 50_000])
def test_what_is_counted_is_what_it_takes(body: int) -> None:
    """Within five in a hundred, objects and indexes included."""
    store = Store(6_000_000, 3, Clock())
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(2 * 6_000_000 // body):
        url = (b"a.example", b"/api/customers/%d" % number, b"?page=%d" % number)
        headers = Headers([(b"x-%d" % at, b"value %d" % number) for at in range(10)])
        headers.encoded = encode(headers.pairs)
        tags = (b"customer:%d" % number, b"everything")
        kept = b"x" * body
        key = (("route", None), b"http", *url, f"user {number}", "", "")
        made = Entry(key, url, (), 200, b"OK", headers, kept, KEPT, 0.0, tags, size_of(url, headers, kept, tags))
        store.put(made)
        if store.stats.evictions > 50:
            break
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.9 * store.size < used < 1.05 * store.most
