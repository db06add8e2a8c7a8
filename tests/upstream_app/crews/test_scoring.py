"""The scores of the original: skills 30, availability 20, proximity 20, rating 15, workload 10, preference 5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream_app.crews.scoring import Candidate, choose, score

BEST = Candidate("a", frozenset({"piano"}), True, 0, 5.0, 5.0, True)


def test_the_best_has_a_hundred() -> None:
    assert score(BEST, ["Piano"]).total == 100


@pytest.mark.parametrize(("miles", "points"), [(0, 20), (9.9, 20), (10, 15), (25, 10), (50, 5), (500, 5), (None, 5)])
def test_proximity(miles: float | None, points: int) -> None:
    assert score(Candidate("a", frozenset(), True, 0, miles), []).parts["proximity"] == points


def test_half_the_skills_are_half_the_points() -> None:
    assert score(BEST, ["piano", "driving"]).parts["skills"] == 15


def test_who_is_not_there_is_not_chosen_and_ties_go_by_name() -> None:
    away = Candidate("z", frozenset(), False, 0)
    twins = [Candidate(name, frozenset(), True, 0) for name in "cab"]
    assert [one.member for one in choose([away, *twins], [], 3)] == ["a", "b", "c"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 200)), max_size=12), st.integers(1, 5))
def test_the_order_of_the_question_changes_nothing(people: list[tuple[bool, int, float]], size: int) -> None:
    candidates = [Candidate(f"{n:02d}", frozenset(), *one) for n, one in enumerate(people)]
    assert choose(candidates, [], size) == choose(candidates[::-1], [], size)
