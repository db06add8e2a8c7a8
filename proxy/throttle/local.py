"""A limiter in this process: the share of a sidecar while the store is away, and the model that the script is held to.

The arithmetic is the Lua script's (`script.py`), line for line; a property test runs both side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor

from proxy.throttle.charge import Charge, Decision, OnDecision, Outcome, Settlement, Strategy

MAX_KEYS = 100_000


class Counter:
    """The state of one key; which fields are used depends on the strategy. Times in milliseconds."""

    __slots__ = ("count", "expires", "index", "previous", "reserved", "tat", "times")

    def __init__(self) -> None:
        self.count = 0
        self.previous = 0
        self.index = 0
        self.tat = 0.0
        self.times: list[float] = []
        self.expires = float("inf")
        self.reserved: dict[str, tuple[float, int]] = {}

    def held(self, now: float) -> int:
        """Units reserved by exchanges whose lease still runs."""
        if self.reserved:
            for name in [name for name, (until, _) in self.reserved.items() if until <= now]:
                del self.reserved[name]
        return sum(cost for _, cost in self.reserved.values())


def look(counter: Counter, charge: Charge, now: float) -> Outcome:
    """Whether the charge fits, changing nothing but what time has ended."""
    quota = charge.quota
    amount, window, held = quota.amount, quota.window, counter.held(now)
    cost = charge.cost + held
    if quota.strategy is Strategy.FIXED:
        if now >= counter.expires:
            counter.count, counter.expires = 0, float("inf")
        left = ceil(counter.expires - now) if counter.count else window
        fits = counter.count + cost <= amount
        return Outcome(fits, max(0, amount - held - counter.count), left, 0 if fits else left)
    if quota.strategy is Strategy.MOVING:
        counter.times = [at for at in counter.times if at > now - window]
        used = len(counter.times)
        fits = used + cost <= amount
        reset = ceil(counter.times[0] + window - now) if used else window
        retry = 0
        if not fits:
            freeing = used + cost - amount
            retry = ceil(counter.times[freeing - 1] + window - now) if freeing <= used else window
        return Outcome(fits, max(0, amount - held - used), reset, retry)
    if quota.strategy is Strategy.SLIDING:
        return _look_sliding(counter, cost, held, amount, window, now)
    if quota.strategy is Strategy.BUCKET:
        step = window / amount
        tat = max(counter.tat, now)
        wait = tat + cost * step - window - now
        fits = wait <= 0.001
        remaining = max(0, floor((now + window - tat) / step + 0.001) - held)
        reset = ceil(tat + (charge.cost * step if fits else 0) - now)
        return Outcome(fits, remaining, reset, 0 if fits else ceil(wait))
    fits = cost <= amount
    return Outcome(fits, max(0, amount - held), 0, 0 if fits else 1000)


def _look_sliding(counter: Counter, cost: int, held: int, amount: int, window: int, now: float) -> Outcome:
    index = floor(now / window)
    if index != counter.index:
        counter.previous = counter.count if index == counter.index + 1 else 0
        counter.count, counter.index = 0, index
    elapsed = now - index * window
    weighted = ceil(counter.previous * (window - elapsed) / window - 0.000001) + counter.count
    fits = weighted + cost <= amount
    retry = 0
    if not fits:
        room = amount - cost - counter.count
        if room >= 0:
            retry = ceil(window * (1 - room / counter.previous) - elapsed) + 1
        elif cost > amount:
            retry = window
        else:
            retry = ceil(window - elapsed + max(0, window * (1 - (amount - cost) / counter.count))) + 1
        retry = max(1, retry)
    return Outcome(fits, max(0, amount - held - weighted), ceil(window - elapsed), retry)


def take(counter: Counter, charge: Charge, cost: int, now: float) -> None:
    """Take so many units, whether they fit or not."""
    quota = charge.quota
    if quota.strategy is Strategy.FIXED:
        if not counter.count:
            counter.expires = now + quota.window
        counter.count += cost
    elif quota.strategy is Strategy.MOVING:
        counter.times += [now] * cost
    elif quota.strategy is Strategy.SLIDING:
        counter.count += cost
    elif quota.strategy is Strategy.BUCKET:
        counter.tat = max(counter.tat, now) + cost * quota.window / quota.amount


class LocalLimiter:
    """`clock` gives milliseconds. Past MAX_KEYS the longest unused keys are forgotten."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._counters: dict[str, Counter] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def forget(self, charge: Charge) -> None:
        """The charge's key begins anew; what is reserved of it stays."""
        counter = self._counters.pop(charge.key, None)
        if counter is not None and counter.reserved:
            self._counter(charge.key).reserved = counter.reserved

    def decide(self, charges: Sequence[Charge], reservation: str, then: OnDecision) -> None:
        then(self.decided(charges, reservation))

    def decided(self, charges: Sequence[Charge], reservation: str) -> Decision:
        now = self.clock()
        counters = [self._counter(charge.key) for charge in charges]
        outcomes = tuple(look(counter, charge, now) for counter, charge in zip(counters, charges, strict=True))
        pairs = list(zip(charges, outcomes, strict=True))
        admitted = all(outcome.admitted for charge, outcome in pairs if not charge.quota.shadow)
        if admitted:
            for counter, (charge, outcome) in zip(counters, pairs, strict=True):
                if not outcome.admitted:
                    continue
                if charge.holds:
                    counter.reserved[reservation] = (now + charge.quota.lease, charge.cost)
                else:
                    take(counter, charge, charge.cost, now)
        return Decision(admitted, outcomes, "local")

    def renew(self, charges: Sequence[Charge], reservation: str) -> None:
        now = self.clock()
        for charge in charges:
            self._counter(charge.key).reserved[reservation] = (now + charge.quota.lease, charge.cost)

    def settle(self, settlements: Sequence[Settlement], reservation: str) -> None:
        now = self.clock()
        for charge, taken in settlements:
            counter = self._counter(charge.key)
            held = counter.reserved.pop(reservation, None)
            if taken and held is not None and charge.quota.strategy is not Strategy.CONCURRENT:
                look(counter, charge, now)
                take(counter, charge, taken, now)

    def _counter(self, key: str) -> Counter:
        """The key's counter, now the most recently used."""
        counter = self._counters.pop(key, None) or Counter()
        if len(self._counters) >= MAX_KEYS:
            del self._counters[next(iter(self._counters))]
        self._counters[key] = counter
        return counter
