"""Who charged most, and whose quota was nearest to full, over two windows; memory is bounded whatever comes."""

from __future__ import annotations

from collections.abc import Iterator


class Fullest:
    """Whose quota was used furthest in this window and the one before; `share` is of the quota, and 1 is all of it."""

    __slots__ = ("_before", "_window", "ends", "key", "share")

    def __init__(self, window: float = 60.0) -> None:
        self._window = window
        self._before = (0.0, "")
        self.share, self.key = 0.0, ""
        self.ends = 0.0

    def see(self, share: float, key: str, now: float) -> None:
        if now >= self.ends:
            self._before = (self.share, self.key) if now < self.ends + self._window else (0.0, "")
            self.share, self.key, self.ends = 0.0, "", now + self._window
        if share > self.share:
            self.share, self.key = share, key

    def seen(self, now: float) -> tuple[float, str]:
        self.see(0.0, "", now)
        return max(self._before, (self.share, self.key))


class HeavyKeys:
    """The frequent-items summary of Misra and Gries (1982); `window` is seconds of the clock that `add` is told.

    With `capacity` counters and n charges in a window, a count is at most n / (capacity + 1) too small, never too
    large.
    """

    __slots__ = ("_before", "_capacity", "_counts", "_ends", "_window")

    def __init__(self, window: float = 60.0, capacity: int = 256) -> None:
        self._window = window
        self._capacity = capacity
        self._counts: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._ends = 0.0

    def add(self, key: str, units: int, now: float) -> None:
        if now >= self._ends:
            self._roll(now)
        counts = self._counts
        if key in counts:
            counts[key] += units
        elif len(counts) < self._capacity:
            counts[key] = units
        else:
            self._make_room(key, units)

    def _make_room(self, key: str, units: int) -> None:
        less = min(units, min(self._counts.values()))
        self._counts = {name: left for name, count in self._counts.items() if (left := count - less) > 0}
        if units > less and len(self._counts) < self._capacity:
            self._counts[key] = units - less

    def _roll(self, now: float) -> None:
        self._before = self._counts if now < self._ends + self._window else {}
        self._counts = {}
        self._ends = now + self._window

    def heaviest(self, number: int, now: float) -> Iterator[tuple[str, int]]:
        """Of the last whole window, or of this one while there was none before."""
        if now >= self._ends:
            self._roll(now)
        shown = self._before or self._counts
        yield from sorted(shown.items(), key=lambda row: -row[1])[:number]
