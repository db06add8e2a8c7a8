"""One cluster's breaker, agreed on by all sidecars, with no round trip on a request's way.

A sidecar whose own breaker opened votes. Where as many as the quorum vote, the fleet's state is `open`, and every
sidecar's breaker follows it; a sidecar alone with a bad link opens only its own. When the open time is over, one takes
the lease to probe: `probing`. Its probes close the breaker for all, or open it for longer. Each change of state is a
compare-and-set on its epoch, so a sidecar that was out of touch changes nothing with what it still believes (a fence).

Without the store each stands alone, by its own breaker's rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from breaker import Breaker, State
from proxy.fleet.board import Board, Fact

log = logging.getLogger(__name__)

REMEMBERED = 86_400.0
"""Seconds that a state's epoch is kept for."""
LEASE = 5.0
"""Seconds that one sidecar has to probe in, before another may."""
LONGEST_LEASE = 30.0
"""Seconds for which it may be renewed, while its probes run or have gone well so far."""
STATES = frozenset({"closed", "open", "probing"})

Propose = Callable[[str, int, str, int, Callable[[bool], None]], None]
"""Fact's name, epoch that it has to have now, new value, milliseconds; then whether it was so."""


class Agreed(NamedTuple):
    """`seconds` are those left of the open time or of the lease."""

    epoch: int
    state: str
    pod: str
    seconds: float


def read_state(value: str) -> Agreed:
    """What nobody here can have written is closed, under its epoch, so that the next proposal takes its place."""
    epoch, _, rest = value.partition(" ")
    at = int(epoch) if epoch.isdecimal() else 0
    try:
        state, pod, seconds = rest.split(" ")
        return Agreed(at, state if state in STATES else "closed", pod, float(seconds))
    except ValueError:
        return Agreed(at, "closed", "", 0.0)


class SharedBreaker:
    """`peers` tells how many sidecars live, `available` whether the fleet can be heard; `quorum` -1 for most, and
    `least` votes at least, where there are so many. The workers of one sidecar have one link, and `least` is 1."""

    def __init__(
        self,
        cluster: str,
        breaker: Breaker,
        board: Board,
        quorum: int,
        pod: str,
        peers: Callable[[], int],
        available: Callable[[], bool],
        propose: Propose,
        clock: Callable[[], float] = time.monotonic,
        least: int = 2,
    ) -> None:
        self._least = least
        self._cluster = cluster
        self._breaker = breaker
        self._board = board
        self._quorum = quorum
        self._pod = pod
        self._peers = peers
        self._available = available
        self._propose = propose
        self._proposing = False
        self._following = False
        self._leading_since = 0.0
        self._clock = clock
        self._vote = f"vote:{cluster}:"
        self._state = f"state:{cluster}"
        board.on_change.append(self._on_fact)
        breaker.on_change.append(self._on_breaker)

    def close(self) -> None:
        """Its cluster has gone: nothing is heard or proposed any more."""
        self._board.on_change.remove(self._on_fact)
        self._breaker.on_change.remove(self._on_breaker)

    @property
    def agreed(self) -> Agreed:
        fact = self._board.get(self._state)
        if fact is None:
            return Agreed(0, "closed", "", 0.0)
        epoch, state, pod, seconds = read_state(fact.value)
        return Agreed(epoch, state, pod, self._board.left(fact) - (REMEMBERED - seconds))

    @property
    def needed(self) -> int:
        """Votes that open it for all."""
        peers = self._peers()
        return max(min(self._least, peers), peers // 2 + 1 if self._quorum < 0 else self._quorum)

    @property
    def votes(self) -> int:
        return sum(1 for name, _, _ in self._board.live() if name.startswith(self._vote))

    def tick(self) -> None:
        """Called by the listener's sweep."""
        breaker = self._breaker
        if not self._available():
            breaker.held = False
            return
        agreed = self.agreed
        if agreed.state != "closed" and (agreed.seconds <= 0 or self._renews(agreed)):
            self._suggest("probing", LEASE)
        elif agreed.state == "closed" and breaker.state is State.OPEN and not breaker.held:
            self._count()

    def _renews(self, agreed: Agreed) -> bool:
        leads = agreed.state == "probing" and agreed.pod == self._pod and self._breaker.has_probed
        return leads and agreed.seconds < LEASE / 2 and self._clock() - self._leading_since < LONGEST_LEASE

    def _on_fact(self, name: str, fact: Fact | None) -> None:
        if name == self._state and fact is not None:
            self._follow()
        elif name.startswith(self._vote) and fact is not None:
            self._count()

    def _count(self) -> None:
        if self.agreed.state == "closed" and self._peers() > 1 and self.votes >= self.needed:
            self._suggest("open", max(self._breaker.open_seconds, self._breaker.settings.open_time.first / 2))

    def _suggest(self, state: str, seconds: float) -> None:
        if self._proposing:
            return
        self._proposing = True
        value = f"{self.agreed.epoch + 1} {state} {self._pod} {seconds:.3f}"

        def done(_: bool) -> None:
            self._proposing = False

        self._propose(self._state, self.agreed.epoch, value, round(REMEMBERED * 1000), done)

    def _follow(self) -> None:
        agreed, breaker = self.agreed, self._breaker
        self._following = True
        try:
            if agreed.state == "closed":
                self._board.drop(self._vote + self._pod)
                breaker.close("fleet")
            elif agreed.state == "probing" and agreed.pod == self._pod:
                if breaker.state is not State.HALF_OPEN:
                    self._leading_since = self._clock()
                    breaker.hold(0.0)
                    breaker.probe("fleet")
            else:
                breaker.hold(max(0.0, agreed.seconds))
                if agreed.state == "open":
                    breaker.grow_from(agreed.seconds)
        finally:
            self._following = False
        log.info("breaker %s: the fleet says %s (epoch %d)", self._cluster, agreed.state, agreed.epoch)

    def _on_breaker(self, breaker: Breaker, old: State, new: State, reason: str) -> None:
        """What this sidecar's own calls led to."""
        if self._following:
            return
        agreed = self.agreed
        leads = agreed.state == "probing" and agreed.pod == self._pod
        if new is State.OPEN:
            if leads:
                breaker.held = self._available()
                self._suggest("open", breaker.open_seconds)
            else:
                self._board.put(self._vote + self._pod, reason.replace(" ", "-"), breaker.open_seconds + LEASE)
        elif new is State.CLOSED:
            if leads:
                self._suggest("closed", 0.0)
            self._board.drop(self._vote + self._pod)
