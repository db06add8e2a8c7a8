"""What all sidecars know together: facts by name, each with an end; bans, revoked tokens, votes on a breaker.

A request reads the mirror in this process, never the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_FACTS = 100_000


class Fact(NamedTuple):
    """`until` is seconds of the board's clock."""

    value: str
    until: float


Send = Callable[[str, str, int], None]
"""Name, value, and milliseconds that it holds from now; 0 to drop it."""
OnChange = Callable[[str, Fact | None], None]


class Board:
    """`clock` gives seconds. `send` tells the other sidecars; without a fleet it tells nobody.

    Past MAX_FACTS the oldest is forgotten here, not in the store.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.facts: dict[str, Fact] = {}
        self.send: Send = lambda name, value, milliseconds: None
        self.on_change: list[OnChange] = []
        self._clock = clock

    def get(self, name: str) -> Fact | None:
        """The fact, while it holds."""
        fact = self.facts.get(name)
        if fact is not None and fact.until <= self._clock():
            del self.facts[name]
            return None
        return fact

    def left(self, fact: Fact) -> float:
        """Seconds that the fact still holds."""
        return fact.until - self._clock()

    def live(self) -> Iterator[tuple[str, Fact, float]]:
        """Name, fact, and the seconds that it still holds."""
        now = self._clock()
        for name, fact in list(self.facts.items()):
            if fact.until > now:
                yield name, fact, fact.until - now

    def put(self, name: str, value: str, seconds: float) -> None:
        """Holds here at once, elsewhere as soon as they hear of it. A name holds no line break, a value may."""
        self.learn(name, value, seconds)
        self.send(name, value, max(1, round(seconds * 1000)))

    def drop(self, name: str) -> bool:
        """Whether there was such a fact."""
        there = self.get(name) is not None
        self.learn(name, "", 0)
        self.send(name, "", 0)
        return there

    def learn(self, name: str, value: str, seconds: float) -> None:
        """What another sidecar said."""
        fact: Fact | None = None
        if seconds > 0:
            if len(self.facts) >= MAX_FACTS and name not in self.facts:
                del self.facts[next(iter(self.facts))]
            fact = self.facts[name] = Fact(value, self._clock() + seconds)
        elif self.facts.pop(name, None) is None:
            return
        for told in self.on_change:
            told(name, fact)

    def replace(self, rows: dict[str, tuple[str, float]]) -> None:
        """The store's whole content: name to value and the seconds that it still holds."""
        for name in [one for one in self.facts if one not in rows]:
            self.learn(name, "", 0)
        for name, (value, seconds) in rows.items():
            known = self.get(name)
            if known is None or known.value != value:
                self.learn(name, value, seconds)
            else:
                self.facts[name] = Fact(value, self._clock() + seconds)

    def sweep(self) -> None:
        """Forget what no longer holds."""
        for name in list(self.facts):
            self.get(name)
