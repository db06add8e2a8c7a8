"""Calls, failures and slow calls of the last seconds, in a ring of slices."""

from __future__ import annotations

SLICES = 10


class Window:
    """Counts are exact to a slice: a tenth of `within` seconds."""

    __slots__ = ("_calls", "_failures", "_last", "_slows", "_width", "calls", "failures", "slows")

    def __init__(self, within: float) -> None:
        self._width = within / SLICES
        self.clear()

    def clear(self) -> None:
        self._calls = [0] * SLICES
        self._failures = [0] * SLICES
        self._slows = [0] * SLICES
        self._last = 0
        self.calls = self.failures = self.slows = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        number = int(now / self._width)
        if number != self._last:
            self._advance(number)
        at = number % SLICES
        self._calls[at] += 1
        self.calls += 1
        if failed:
            self._failures[at] += 1
            self.failures += 1
        if slow:
            self._slows[at] += 1
            self.slows += 1

    def _advance(self, number: int) -> None:
        """Empty the slices that have passed since the last call."""
        for passed in range(self._last + 1, min(number, self._last + SLICES) + 1):
            at = passed % SLICES
            self.calls -= self._calls[at]
            self.failures -= self._failures[at]
            self.slows -= self._slows[at]
            self._calls[at] = self._failures[at] = self._slows[at] = 0
        self._last = number
