"""The state machine against a model, and the Python API with its six traps."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pybreaker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breaker import Breaker, BreakerOpen, Consecutive, ErrorRate, OpenTime, Settings, SlowRate, State


class Model:
    """The same rules, written naively: every call of the last seconds is kept."""

    def __init__(self, terms: Settings) -> None:
        self.terms, self.now = terms, 0.0
        self.state, self.generation = "closed", 0
        self.row: list[bool] = []
        self.calls: list[tuple[int, bool, bool]] = []
        self.probing = self.good = self.opened = 0
        self.until = self.seconds = 0.0
        self.closed_at = float("-inf")

    def change(self, state: str) -> None:
        self.state, self.row, self.calls, self.probing, self.good = state, [], [], 0, 0
        self.generation += 1

    def trip(self) -> None:
        if self.state == "closed" and self.now - self.closed_at > self.seconds:
            self.opened = 0
        self.seconds = min(self.terms.open_time.most, self.terms.open_time.first * 2**self.opened)
        self.until = self.now + self.seconds
        self.opened += 1
        self.change("open")

    def admit(self) -> int | None:
        if self.state == "open" and self.now >= self.until:
            self.change("half-open")
        if self.state == "open" or (self.state == "half-open" and self.probing >= self.terms.probes):
            return None
        self.probing += self.state == "half-open"
        return self.generation

    def end(self, token: int, failed: bool | None, seconds: float) -> None:
        if token != self.generation:
            return
        slow_terms, rate = self.terms.slow_rate, self.terms.error_rate
        assert slow_terms
        assert rate
        assert self.terms.consecutive
        slow = seconds > slow_terms.longer_than
        if self.state == "half-open":
            self.probing -= 1
            if failed or (slow and failed is False):
                self.trip()
            elif failed is False:
                self.good += 1
                if self.good >= self.terms.successes:
                    self.closed_at = self.now
                    self.change("closed")
            return
        if failed is None:
            return
        self.row = [*self.row, True] if failed else []
        self.calls.append((int(self.now), failed, slow))
        seen = [call for call in self.calls if call[0] > int(self.now) - 10]
        errors, slows = sum(call[1] for call in seen), sum(call[2] for call in seen)
        if (
            (len(seen) >= rate.of_at_least and errors > rate.above * len(seen))
            or (len(seen) >= slow_terms.of_at_least and slows > slow_terms.above * len(seen))
            or len(self.row) >= self.terms.consecutive.failures
        ):
            self.trip()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from([True, False, False, None]), st.sampled_from([0.1, 0.1, 2.0])),
        st.tuples(st.just("begin"), st.none(), st.just(0.0)),
        st.tuples(st.just("end"), st.sampled_from([True, False, None]), st.sampled_from([0.1, 2.0])),
        st.tuples(st.just("wait"), st.none(), st.sampled_from([0.3, 1.0, 4.9, 5.0, 11.0, 70.0])),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.integers(1, 3), st.integers(1, 3))
def test_any_order_of_events_is_as_the_model_has_it(
    steps: list[tuple[str, bool | None, float]], probes: int, successes: int
) -> None:
    terms = Settings(
        Consecutive(4), ErrorRate(0.5, 6, 10), SlowRate(1.0, 0.5, 6, 10), OpenTime(5, 60, 0), probes, successes
    )
    model = Model(terms)
    breaker = Breaker("b", terms, clock=lambda: model.now)
    running: list[int] = []

    def admit() -> int | None:
        wanted = model.admit()
        assert breaker.available is (wanted is not None)
        try:
            token: int | None = breaker.admit()
        except BreakerOpen:
            token = None
        assert token == wanted
        return token

    def end(token: int, failed: bool | None, seconds: float) -> None:
        model.end(token, failed, seconds)
        if failed is None:
            breaker.neutral(token)
        elif failed:
            breaker.failure(token, seconds)
        else:
            breaker.success(token, seconds)

    for what, failed, seconds in steps:
        if what == "wait":
            model.now += seconds
        elif what == "begin" and (token := admit()) is not None:
            running.append(token)
        elif what == "call" and (token := admit()) is not None:
            end(token, failed, seconds)
        elif what == "end" and running:
            end(running.pop(0), failed, seconds)
        assert breaker.state.value == model.state
        assert breaker.listeners.current_state == model.state
        assert breaker._probing == model.probing


@pytest.mark.parametrize("probes", [1, 3, 10])
async def test_a_thousand_calls_at_once_are_so_many_probes(probes: int) -> None:
    now = 0.0
    breaker = Breaker("b", Settings(Consecutive(1), probes=probes, successes=probes), clock=lambda: now)
    breaker.failure(breaker.admit())
    now = 60.0
    through = 0
    release = asyncio.Event()

    async def call() -> None:
        nonlocal through
        async with breaker.attempt():
            through += 1
            await release.wait()

    calls = [asyncio.create_task(call()) for _ in range(1000)]
    await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert through == probes
    assert sum(isinstance(one, BreakerOpen) for one in outcomes) == 1000 - probes
    assert breaker.state is State.CLOSED


async def test_a_cancelled_call_is_neutral_and_stays_cancelled() -> None:
    breaker = Breaker("b", Settings(Consecutive(1)))

    @breaker
    async def call() -> None:
        await asyncio.sleep(60)

    for task in [asyncio.create_task(call()) for _ in range(3)]:
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.state is State.CLOSED


async def test_a_cancelled_probe_closes_nothing_and_leaves_its_place() -> None:
    now = 0.0
    breaker = Breaker("b", Settings(Consecutive(1)), clock=lambda: now)
    breaker.trip("test")
    now = 60.0

    async def probe() -> None:
        async with breaker.attempt():
            await asyncio.sleep(60)

    task = asyncio.create_task(probe())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.state is State.HALF_OPEN
    with breaker.attempt():
        pass
    assert breaker.state.value == "closed"


async def test_a_deadline_inside_the_attempt_is_a_failure() -> None:
    breaker = Breaker("b", Settings(Consecutive(1)))
    with pytest.raises(TimeoutError):
        async with breaker.attempt(), asyncio.timeout(0.01):
            await asyncio.sleep(60)
    assert breaker.state is State.OPEN
    with pytest.raises(BreakerOpen) as refused, breaker.attempt():
        pass
    assert 3.9 <= refused.value.retry_after <= 5


def test_what_comes_back_may_say_that_it_failed() -> None:
    breaker = Breaker("b", Settings(Consecutive(1)), ignored=(KeyError,))
    with pytest.raises(KeyError), breaker.attempt():
        raise KeyError
    with contextlib.suppress(ValueError), breaker.attempt() as attempt:
        attempt.ignore()
        raise ValueError
    assert breaker.state is State.CLOSED
    with breaker.attempt() as attempt:
        attempt.failed()
    assert breaker.state.value == "open"


def test_a_detector_that_shadows_counts_once_and_trips_nothing() -> None:
    now = 0.0
    shadowed = Settings(Consecutive(3, enforced=False), ErrorRate(0.5, 4, 10, enforced=False))
    breaker = Breaker("b", shadowed, clock=lambda: now)
    for _ in range(8):
        breaker.failure(breaker.admit())
    assert breaker.state is State.CLOSED
    assert breaker.would_trip == {"consecutive": 1, "error_rate": 1}
    breaker.success(breaker.admit())
    for _ in range(3):
        breaker.failure(breaker.admit())
    assert breaker.would_trip["consecutive"] == 2


def test_open_times_grow_to_a_cap_with_jitter_and_begin_anew_after_a_good_while() -> None:
    now = 0.0
    breaker = Breaker("b", Settings(Consecutive(1), open_time=OpenTime(5, 30, 0.2)), clock=lambda: now, draw=lambda: 1)
    seconds = []
    for _ in range(5):
        breaker.failure(breaker.admit())
        seconds.append(breaker.open_seconds)
        now += breaker.open_seconds
    assert seconds == [4, 8, 16, 24, 24]
    breaker.success(breaker.admit())
    now += 1
    breaker.failure(breaker.admit())
    assert breaker.open_seconds == 24
    now += 24
    breaker.success(breaker.admit())
    now += 25
    breaker.failure(breaker.admit())
    assert breaker.open_seconds == 4


def test_forced_and_reset() -> None:
    breaker = Breaker("b", Settings(Consecutive(1)))
    breaker.force("open")
    with pytest.raises(BreakerOpen):
        breaker.admit()
    breaker.force("closed")
    for _ in range(5):
        breaker.failure(breaker.admit())
    assert breaker.state is State.CLOSED
    breaker.reset()
    breaker.failure(breaker.admit())
    assert breaker.state.value == "open"
    breaker.reset()
    assert breaker.available


def test_pybreakers_listeners_hear_every_change() -> None:
    heard: list[tuple[str, str]] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: object, old_state: object, new_state: object) -> None:
            heard.append((old_state.name, new_state.name))  # type: ignore[attr-defined]  # states have names

    now = 0.0
    breaker = Breaker("b", Settings(Consecutive(1)), clock=lambda: now)
    breaker.listeners.add_listener(Listener())
    breaker.failure(breaker.admit())
    now = 60
    breaker.success(breaker.admit())
    assert heard == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


def test_a_call_in_the_closed_state_costs_less_than_four_microseconds() -> None:
    breaker = Breaker("b", Settings(Consecutive(5), ErrorRate(), SlowRate(1.0)))
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(20_000):
            breaker.success(breaker.admit(), 0.01)
        best = min(best, (time.process_time() - began) / 20_000)
    assert best < 12e-6, "three times the bar, for machines under load; make bench-breaker tells the figure"
