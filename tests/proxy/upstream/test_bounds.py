"""The arithmetic of limits: the gradient, the budget, backoff, the overload guard."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.listener.overload import CALM, OVERLOADED, STRAINED, OverloadGuard, OverloadTerms
from proxy.telemetry.stats import WINDOW, Fastest, Histogram, Recent
from proxy.upstream.adaptive import AdaptiveLimit, AdaptiveTerms
from proxy.upstream.retry import RetryBudget, RetryTerms, seconds_of


def settle(limit: AdaptiveLimit, capacity: int, seconds: float, now: float, rounds: int) -> float:
    """An upstream that serves `capacity` at once in so many seconds, and queues the rest; always asked to the limit."""
    for _ in range(rounds):
        running = int(limit.limit)
        for _ in range(30):
            now += 0.004
            limit.sample(seconds * max(1.0, running / capacity), running, now)
    return now


def test_the_limit_finds_what_the_upstream_takes_and_follows_it() -> None:
    limit = AdaptiveLimit(AdaptiveTerms(start=10), 0.0)
    now = settle(limit, 100, 0.01, 0.0, 60)
    assert 90 <= limit.limit <= 170
    now = settle(limit, 20, 0.01, now, 60)
    assert limit.limit <= 45
    settle(limit, 100, 0.01, now, 60)
    assert limit.limit >= 90


def test_an_idle_upstream_does_not_raise_the_limit() -> None:
    limit = AdaptiveLimit(AdaptiveTerms(start=50), 0.0)
    for number in range(1000):
        limit.sample(0.01, 1, number * 0.01)
    assert limit.limit == 50


def test_the_fastest_answer_is_of_the_last_windows() -> None:
    """Else requests whose deadlines are shorter than one slow spell would be refused for ever."""
    fastest = Fastest()
    assert fastest.seconds == 0
    fastest.roll(100.0)
    fastest.now = 0.02
    fastest.roll(100.0 + WINDOW)
    assert fastest.seconds == 0.02
    fastest.now = 0.5
    assert fastest.seconds == 0.02
    fastest.roll(100.0 + 2 * WINDOW)
    assert fastest.seconds == 0.5
    fastest.roll(100.0 + 4 * WINDOW)
    fastest.roll(100.0 + 5 * WINDOW)
    assert fastest.seconds == 0


def test_a_percentile_is_of_the_last_windows() -> None:
    histogram = Histogram((0.01, 0.1, 1.0))
    recent = Recent(histogram)
    for now in range(5):
        for _ in range(1000):
            histogram.observe(0.5)
        recent.roll(100 + now * WINDOW)
    assert recent.quantile(0.95) == 1.0
    for now in range(5, 8):
        for _ in range(200):
            histogram.observe(0.005)
        recent.roll(100 + now * WINDOW)
    assert recent.quantile(0.95) == 0.01, "what was slow an hour ago does not count"


@given(st.lists(st.tuples(st.floats(0.0001, 10), st.integers(1, 2000)), max_size=300))
def test_the_limit_stays_within_its_bounds(samples: list[tuple[float, int]]) -> None:
    limit = AdaptiveLimit(AdaptiveTerms(least=3, most=200, samples=1, window=0), 0.0)
    for at, (seconds, running) in enumerate(samples):
        limit.sample(seconds, running, float(at))
        assert 3 <= limit.limit <= 200


@given(st.lists(st.booleans(), max_size=500), st.integers(0, 5))
def test_retries_are_never_more_than_the_share_and_the_floor(wishes: list[bool], floor: int) -> None:
    budget = RetryBudget(0.2, floor)
    retries = 0
    for requests, wants in enumerate(wishes, 1):
        budget.deposit()
        if wants and budget.take(100):
            retries += 1
            budget.give_back()
        assert retries <= max(floor, 0.2 * requests + 1e-6)


def test_backoff_grows_to_its_cap_and_heeds_retry_after() -> None:
    terms = RetryTerms(5, backoff_base=0.025, backoff_max=0.1, longest_wait=2)
    assert [terms.pause(n, None, lambda: 1.0) for n in range(1, 5)] == [0.025, 0.05, 0.1, 0.1]
    assert terms.pause(1, None, lambda: 0.0) == 0
    assert terms.pause(1, b"1", lambda: 1.0) == 1
    assert terms.pause(1, b"3", lambda: 1.0) is None
    assert terms.pause(1, b"Wed, 21 Oct 2026 07:28:00 GMT", lambda: 1.0) == 0.025


def test_a_quantile_is_the_bound_under_which_the_share_lies() -> None:
    seen = Histogram((0.01, 0.1, 1.0))
    for _ in range(95):
        seen.observe(0.05)
    assert seen.quantile(0.5) == 0
    for _ in range(5):
        seen.observe(5.0)
    assert (seen.quantile(0.5), seen.quantile(0.95), seen.quantile(0.99)) == (0.1, 0.1, 1.0)


def test_the_guard_strains_before_it_refuses_and_calms_down() -> None:
    guard = OverloadGuard(OverloadTerms(1000, 1.0, 0.8))
    guard.measure(0, 799)
    assert guard.level == CALM
    guard.measure(0, 800)
    assert guard.level == STRAINED
    guard.measure(0, 1000)
    assert guard.level == OVERLOADED
    guard.measure(2.0, 0)
    assert guard.level == CALM, "one late wake is no overload"
    for _ in range(20):
        guard.measure(2.0, 0)
    assert guard.level == OVERLOADED
    for _ in range(20):
        guard.measure(0.0, 0)
    assert guard.level == CALM


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (b"3", 3.0),
        (b"Wed, 25 Nov 2026 12:00:05 GMT", 5.0),
        (b"Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        (b"soon", None),
        (b"-1", None),
        (b"9" * 20, None),
        (b"\xff", None),
        (b"Wed, 99 Nov 2026 12:00:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(said: bytes, seconds: float | None) -> None:
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
    assert seconds_of(said, lambda: noon) == seconds
