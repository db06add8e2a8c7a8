"""A refusal that is remembered says what the counters would have said, and only for as long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.throttle import denied
from proxy.throttle.charge import UNASKED, Charge, Decision, Outcome, Quota, Strategy
from proxy.throttle.local import LocalLimiter

WINDOW = 600
START = 1_700_000_000_000.0


class Clock:
    """Milliseconds."""

    def __init__(self) -> None:
        self.now = START

    def seconds(self) -> float:
        return self.now / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(denied, "monotonic", made.seconds)
    return made


STRATEGIES = [Strategy.FIXED, Strategy.MOVING, Strategy.SLIDING, Strategy.BUCKET]


@settings(max_examples=300, deadline=None)
@given(
    strategies=st.lists(st.sampled_from(STRATEGIES), min_size=1, max_size=3),
    amounts=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, WINDOW), st.integers(1, 3)), min_size=1, max_size=60),
    shadow=st.integers(0, 3),
)
def test_the_verdicts_are_those_of_the_counters_alone(
    strategies: list[Strategy], amounts: list[int], steps: list[tuple[int, int]], shadow: int
) -> None:
    """Two limiters, one asked always, one only where no refusal is known; charges of two costs share a counter."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denied, "monotonic", clock.seconds)
        asked, spared = LocalLimiter(lambda: clock.now), LocalLimiter(lambda: clock.now)
        quotas = [
            Quota(f"q{at}", strategy, amounts[at], WINDOW, shadow=at == shadow)
            for at, strategy in enumerate(strategies)
        ]
        charges = {cost: [Charge(quota, "1" * 24, cost) for quota in quotas] for cost in (1, 2, 3)}
        for wait, cost in steps:
            clock.now += wait
            truth = asked.decided(charges[cost], "-")
            known = denied.recall(charges[cost])
            if known is None:
                known = spared.decided(charges[cost], "-")
                assert known == truth
                if not known.admitted:
                    denied.remember(charges[cost], known, 0.0)
            else:
                assert not truth.admitted
                for mine, theirs in zip(known.outcomes, truth.outcomes, strict=True):
                    assert mine is UNASKED or (not theirs.admitted and mine.retry <= theirs.retry + 1)


def test_nothing_is_remembered_that_may_be_given_back(clock: Clock) -> None:
    quotas = [
        Quota("held", Strategy.FIXED, 1, WINDOW, reserve=True),
        Quota("at-once", Strategy.CONCURRENT, 1, 0),
        Quota("shadow", Strategy.FIXED, 1, WINDOW, shadow=True),
    ]
    charges = [Charge(quota, "1" * 24) for quota in quotas]
    denied.remember(charges, Decision(False, (Outcome(False, 0, 500, 500),) * 3, "redis"), 0.0)
    assert denied.recall(charges) is None


def test_a_day_is_remembered_for_a_second_less_what_the_answer_may_have_taken(clock: Clock) -> None:
    charge = Charge(Quota("daily", Strategy.FIXED, 1, 86_400_000), "1" * 24)
    refused = Decision(False, (Outcome(False, 0, 86_000_000, 86_000_000),), "redis")
    denied.remember([charge], refused, 0.02)
    clock.now += 999
    again = denied.recall([charge])
    assert again is not None
    assert again.outcomes[0].retry == 86_000_000 - 999
    clock.now += 2
    assert denied.recall([charge]) is None
    denied.remember([charge], Decision(False, (Outcome(False, 0, 20, 20),), "redis"), 0.02)
    assert denied.recall([charge]) is None
