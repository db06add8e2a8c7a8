"""The summary of who charged most: its error bound, its memory, its windows."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.throttle.heavy import HeavyKeys


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=300), st.integers(1, 20))
def test_never_too_much_and_never_further_off_than_stated(charges: list[tuple[int, int]], capacity: int) -> None:
    heavy = HeavyKeys(60, capacity)
    true: Counter[str] = Counter()
    for key, units in charges:
        heavy.add(str(key), units, 1.0)
        true[str(key)] += units
    told = dict(heavy.heaviest(1000, 1.0))
    assert len(told) <= capacity
    for name, units in true.items():
        assert units - sum(true.values()) / (capacity + 1) <= told.get(name, 0) <= units


def test_the_last_whole_window_is_shown() -> None:
    heavy = HeavyKeys(60)
    heavy.add("a", 5, 0.0)
    assert list(heavy.heaviest(5, 1.0)) == [("a", 5)]
    heavy.add("b", 1, 61.0)
    assert list(heavy.heaviest(5, 62.0)) == [("a", 5)]
    assert list(heavy.heaviest(5, 122.0)) == [("b", 1)]
    assert list(heavy.heaviest(5, 900.0)) == []
