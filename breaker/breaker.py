"""Admission and outcome. A call asks `admit`, and tells its outcome once, with the token that it was given.

A token is the generation that admitted it: every change of state begins a new one, and what an earlier one tells is
dropped, so that a slow call from before an outage neither closes nor opens anything.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import Enum
from math import log2
from typing import Literal

import pybreaker

from breaker.attempt import Attempt, F, guarded
from breaker.settings import Settings
from breaker.window import Window

OnChange = Callable[["Breaker", "State", "State", str], None]
"""Breaker, old state, new state, and why."""
Forced = Literal["open", "closed", ""]


class State(Enum):
    CLOSED = pybreaker.STATE_CLOSED
    OPEN = pybreaker.STATE_OPEN
    HALF_OPEN = pybreaker.STATE_HALF_OPEN


class BreakerOpen(Exception):
    """Not let through; `retry_after` seconds from now the breaker will probe."""

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(f"the breaker {name} is open; it probes in {retry_after:.1f} s")
        self.name = name
        self.retry_after = retry_after


class Breaker:
    """`clock` gives seconds, `draw` numbers from 0 to 1. Not for several threads; for any number of tasks.

    `ignored` are exceptions that an attempt may end with and that say nothing about what is called.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        ignored: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name = name
        self.settings = settings
        self.ignored = ignored
        self.on_change: list[OnChange] = []
        self.would_trip: dict[str, int] = {}
        """Times that a detector which only shadows would have tripped it."""
        self.trips: dict[str, int] = {}
        self.refused = 0
        self.stale = 0
        self.forced: Forced = ""
        self.held = False
        """Whether somebody else says when it may probe (the fleet); it stays open until then."""
        self._clock = clock
        self._draw = draw
        self._state = State.CLOSED
        self._generation = 0
        self._failures = 0
        self._probing = 0
        self._successes = 0
        self._opened = 0
        """Times in a row that it opened, which its open time grows with."""
        self._open_seconds = 0.0
        self._open_until = 0.0
        self._closed_at = float("-inf")
        rate, slow = settings.error_rate, settings.slow_rate
        self._errors = Window(rate.within) if rate else None
        self._slows = Window(slow.within) if slow else None
        self._slow_after = slow.longer_than if slow else float("inf")
        self._over: set[str] = set()
        self._pybreaker = pybreaker.CircuitBreaker(name=name)

    # looking

    @property
    def state(self) -> State:
        return self._state

    @property
    def retry_after(self) -> float:
        """Seconds until it probes; 0 where it lets calls through."""
        return max(0.0, self._open_until - self._clock()) if self._state is State.OPEN else 0.0

    @property
    def open_seconds(self) -> float:
        """How long it opened for, the last time."""
        return self._open_seconds

    @property
    def listeners(self) -> pybreaker.CircuitBreaker:
        """pybreaker's own object, for its listeners and storage (`add_listener`); it follows every change."""
        return self._pybreaker

    @property
    def available(self) -> bool:
        """Whether `admit` would let a call through now; changes nothing."""
        if self.forced:
            return self.forced == "closed"
        if self._state is State.OPEN:
            return not self.held and self._clock() >= self._open_until
        return self._state is State.CLOSED or self._probing < self.settings.probes

    @property
    def has_probed(self) -> bool:
        """Whether it is half-open, and probes run or went well."""
        return self._state is State.HALF_OPEN and self._probing + self._successes > 0

    # calls

    def admit(self) -> int:
        """The token for the call's outcome. Raises BreakerOpen."""
        if self._state is State.CLOSED and not self.forced:
            return self._generation
        if self.forced == "closed":
            return self._generation
        if self.forced == "open":
            self.refused += 1
            raise BreakerOpen(self.name, self.settings.open_time.most)
        if self._state is State.OPEN:
            if self.held or self._clock() < self._open_until:
                self.refused += 1
                raise BreakerOpen(self.name, self.retry_after)
            self._change(State.HALF_OPEN, "open time over")
        if self._probing >= self.settings.probes:
            self.refused += 1
            raise BreakerOpen(self.name, 1.0)
        self._probing += 1
        return self._generation

    def success(self, token: int, seconds: float = 0.0) -> None:
        """The call went well and took so long."""
        if token != self._generation:
            self.stale += 1
        elif self._state is State.CLOSED:
            self._failures = 0
            if self._errors is not None or self._slows is not None:
                self._observe(failed=False, slow=seconds > self._slow_after)
        elif self._state is State.HALF_OPEN:
            slow = self.settings.slow_rate
            if slow is not None and slow.enforced and seconds > slow.longer_than:
                self.trip("slow probe")
                return
            self._probing -= 1
            self._successes += 1
            if self._successes >= self.settings.successes:
                self._change(State.CLOSED, "probes succeeded")

    def failure(self, token: int, seconds: float = 0.0) -> None:
        """The call failed."""
        if token != self._generation:
            self.stale += 1
        elif self._state is State.CLOSED:
            self._failures += 1
            self._observe(failed=True, slow=seconds > self._slow_after)
            consecutive = self.settings.consecutive
            if consecutive is not None and token == self._generation:
                self._detect("consecutive", self._failures >= consecutive.failures, consecutive.enforced)
        elif self._state is State.HALF_OPEN:
            self.trip("probe failed")

    def neutral(self, token: int) -> None:
        """The call ended without saying anything: its caller went away."""
        if token == self._generation and self._state is State.HALF_OPEN:
            self._probing -= 1

    def _observe(self, *, failed: bool, slow: bool) -> None:
        now, generation = self._clock(), self._generation
        rate, window = self.settings.error_rate, self._errors
        if rate is not None and window is not None:
            window.add(now, failed=failed, slow=False)
            over = window.calls >= rate.of_at_least and window.failures > rate.above * window.calls
            self._detect("error_rate", over, rate.enforced)
        slows, window = self.settings.slow_rate, self._slows
        if slows is not None and window is not None and generation == self._generation:
            window.add(now, failed=False, slow=slow)
            over = window.calls >= slows.of_at_least and window.slows > slows.above * window.calls
            self._detect("slow_rate", over, slows.enforced)

    def _detect(self, detector: str, over: bool, enforced: bool) -> None:
        """A detector that shadows counts once, when it begins to be over."""
        if not over:
            if self._over:
                self._over.discard(detector)
        elif enforced:
            self.trip(detector)
        elif detector not in self._over:
            self._over.add(detector)
            self.would_trip[detector] = self.would_trip.get(detector, 0) + 1

    # changes

    def trip(self, reason: str, seconds: float | None = None) -> None:
        """Open, for so long or for what its settings say; also where it is open already."""
        now = self._clock()
        if self.forced == "closed":
            return
        if self._state is State.CLOSED and now - self._closed_at > self._open_seconds:
            self._opened = 0
        if seconds is None:
            times = self.settings.open_time
            seconds = min(times.most, times.first * 2.0 ** min(self._opened, 30)) * (1 - times.jitter * self._draw())
        self._opened += 1
        self._open_seconds = seconds
        self._open_until = now + seconds
        self.trips[reason] = self.trips.get(reason, 0) + 1
        self._change(State.OPEN, reason)

    def hold(self, seconds: float) -> None:
        """Be open for so long from now, and until somebody says that it may probe."""
        if self._state is not State.OPEN:
            opened = self._opened
            self.trip("held", seconds)
            self._opened = opened
        self._open_until = self._clock() + seconds
        self._open_seconds = max(seconds, self._open_seconds)
        self.held = True

    def grow_from(self, seconds: float) -> None:
        """Somebody else's open time, so long, was this one's too: the next is longer than that."""
        times = self.settings.open_time
        if seconds > 0:
            self._opened = max(self._opened, 1 + round(log2(max(1.0, min(seconds, times.most) / times.first))))

    def probe(self, reason: str) -> None:
        """Let probes in now, whatever the open time says."""
        self.held = False
        if self._state is State.OPEN:
            self._change(State.HALF_OPEN, reason)

    def close(self, reason: str) -> None:
        self.held = False
        if self._state is not State.CLOSED:
            self._change(State.CLOSED, reason)

    def reset(self) -> None:
        """As new: closed, nothing counted, not forced."""
        forced, self.forced = self.forced, ""
        self._opened = 0
        self._open_seconds = 0.0
        if self._state is not State.CLOSED:
            self.close("reset")
        else:
            self._forget()
            if forced:
                self._told(State.CLOSED, "reset")

    def force(self, state: Forced) -> None:
        """Hold it open or closed whatever happens, until reset."""
        self.forced = state
        if state == "closed" and self._state is not State.CLOSED:
            self.close("forced closed")
        else:
            self._told(self._state, f"forced {state}")

    def _forget(self) -> None:
        self._failures = self._probing = self._successes = 0
        self._over.clear()
        for window in (self._errors, self._slows):
            if window is not None:
                window.clear()

    def _change(self, state: State, reason: str) -> None:
        old, self._state = self._state, state
        self._generation += 1
        self._forget()
        if state is State.CLOSED:
            self._closed_at = self._clock()
            self._pybreaker.close()
        elif state is State.OPEN:
            self._pybreaker.open()
        else:
            self._pybreaker.half_open()
        self._told(old, reason)

    def _told(self, old: State, reason: str) -> None:
        for told in self.on_change:
            told(self, old, self._state, reason)

    # the Python API

    def attempt(self) -> Attempt:
        """`with` or `async with`: BreakerOpen where it lets nothing through, else the block's end is the outcome."""
        return Attempt(self)

    def __call__(self, function: F) -> F:
        """A decorator, for functions and coroutine functions."""
        return guarded(self, function)
