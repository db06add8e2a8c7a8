"""Counts that workers share: exact for each, cleared for who died."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.workers.counts import SharedCounts, memory

KEYS = st.sampled_from([f"203.0.113.{number}" for number in range(40)])


@pytest.fixture
def fd() -> Iterator[int]:
    made = memory(4)
    yield made
    os.close(made)


@given(st.lists(st.tuples(st.integers(0, 2), KEYS, st.booleans()), max_size=200))
def test_a_count_is_what_all_added(steps: list[tuple[int, str, bool]]) -> None:
    fd = memory(3)
    workers = [SharedCounts(fd, 3, column) for column in range(3)]
    model: Counter[tuple[int, str]] = Counter()
    for worker, key, more in steps:
        if more or model[worker, key]:
            change = 1 if more else -1
            workers[worker].add(key, change)
            model[worker, key] += change
    for key in {key for _, key, _ in steps}:
        assert workers[0].count(key) == sum(count for (_, name), count in model.items() if name == key)
    for one in workers:
        one.close()
    os.close(fd)


def test_what_a_dead_worker_held_is_given_back(fd: int) -> None:
    one, other, parent = SharedCounts(fd, 4, 0), SharedCounts(fd, 4, 1), SharedCounts(fd, 4)
    one.add("a", 3)
    other.add("a", 2)
    parent.clear(0)
    assert other.count("a") == 2
    for each in (one, other, parent):
        each.close()
