"""The nouns of throttling: a quota, what a request charges to it, and what was decided; and the port to a limiter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol


class Strategy(IntEnum):
    """Numbers are what the Lua script and the keys know them by."""

    FIXED = 1
    """A window from a key's first charge on."""
    MOVING = 2
    """Every charge's time is kept: exact, and 20 bytes a unit of the limit."""
    SLIDING = 3
    """Two adjacent windows, the older one weighted by what of it is still in sight."""
    BUCKET = 4
    """GCRA: a bucket of `amount` that refills evenly over the window."""
    CONCURRENT = 5
    """How many are in flight; the window says nothing."""


@dataclass(frozen=True, slots=True)
class Quota:
    """`amount` charges in `window` milliseconds; `name` is the rule's.

    `reserve` where the answer decides what counts: until then the charge is held under a `lease` (milliseconds), so
    that a sidecar that is killed keeps nothing.
    """

    name: str
    strategy: Strategy
    amount: int
    window: int
    reserve: bool = False
    lease: int = 60_000
    shadow: bool = False
    on_store_failure: str = "local"
    """`local` (the sidecar's share decides), `open` (admit) or `closed` (refuse)."""
    counter: str = ""
    """What its counters are called in the store, where that is not its name: one of several windows has no other
    counter than it had alone."""


class Charge:
    """`cost` units to be taken from the `quota` of whoever `identity` (a hash, 24 hexadecimal digits) stands for.

    Immutable, and kept for clients that come again; `wire` is for an adapter to keep its form of it.
    """

    __slots__ = ("cost", "denied", "holds", "identity", "key", "label", "quota", "wire")

    def __init__(self, quota: Quota, identity: str, cost: int = 1, label: str = "") -> None:
        """`label` is what statistics call whoever is charged; the identity where it is empty."""
        self.quota = quota
        self.identity = identity
        self.cost = cost
        self.label = label or identity
        self.holds = quota.reserve or quota.strategy is Strategy.CONCURRENT
        self.key = f"{{{identity}}}:{quota.counter or quota.name}:{int(quota.strategy)}:{quota.window}"
        """Without the amount: editing a limit's number keeps its counters. The braces are a Cluster's hash tag."""
        self.wire: tuple[bytes, bytes] | None = None
        self.denied: tuple[float, float, Outcome] | None = None
        """A refusal that is known to hold: when it came, until when, and the store's answer (`denied`)."""

    def __repr__(self) -> str:
        return f"Charge({self.quota!r}, {self.identity!r}, {self.cost})"


class Outcome(NamedTuple):
    """One quota's answer; times in milliseconds from now. `retry` is 0 where it admits; `reset` is when the
    window ends, this charge included: the bucket is full again, or a moving window's oldest charge leaves it."""

    admitted: bool
    remaining: int
    """Before this charge."""
    reset: int
    retry: int


UNASKED = Outcome(True, 0, 0, 0)
"""What another charge's known refusal left undecided."""


class Decision(NamedTuple):
    """`admitted` where every quota that is no shadow admits; only then anything was taken of any of them.

    `source` is `redis`, `local` (the store is away, the sidecar's share decided) or `none` (nobody did).
    """

    admitted: bool
    outcomes: tuple[Outcome, ...]
    source: str


OnDecision = Callable[[Decision], None]
Settlement = tuple[Charge, int]
"""A charge that was reserved, and how many units of it are taken for good; 0 gives it back whole."""


class Limiter(Protocol):
    """What decides. Neither call waits; a decision may come at once or in a later loop tick."""

    def decide(self, charges: Sequence[Charge], reservation: str, then: OnDecision) -> None:
        """Take all or nothing. `reservation` names this exchange where a quota reserves."""

    def renew(self, charges: Sequence[Charge], reservation: str) -> None:
        """Hold on for another lease; where the lease was lost, or the store's memory, hold again."""

    def settle(self, settlements: Sequence[Settlement], reservation: str) -> None:
        """Give the reservations back, and take what they came to."""
