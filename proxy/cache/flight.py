"""One request that many wait for: its answer is kept, and then it is theirs too."""

from __future__ import annotations

from collections.abc import Callable

from proxy.filter import Deferred


class Flight:
    """`end` wakes all who wait, whatever came of it, in the next tick: one of them may lead then, and fail at once."""

    __slots__ = ("_landed", "_soon", "ended", "erred", "kept", "waiting")

    def __init__(self, landed: Callable[[], None], soon: Callable[[Callable[[], None]], object]) -> None:
        """`soon` calls what it is given in the next tick."""
        self._landed = landed
        self._soon = soon
        self.ended = False
        self.kept = False
        """Whether its answer was kept."""
        self.erred = False
        """Whether it was an error that something stale may stand in for."""
        self.waiting: list[Deferred] = []

    def wait(self) -> Deferred:
        one = Deferred()
        self.waiting.append(one)
        return one

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._landed()
        if self.waiting:
            self._soon(self._wake)

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.end()
