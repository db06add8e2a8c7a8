"""Refusals that are known to hold: who is over a limit is refused again without the store being asked.

What a counter refuses it goes on refusing until its `retry` is over, whoever asks in between, since a refusal charges
nothing. Not so where a charge is held (what is held may be given back at any time). Remembered from the answer on, less
the store's deadline, so that no refusal outlives the store's; and a second at most, so that counters that somebody
clears are felt. One client far over its limit then costs the store a question a second, not one a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from proxy.throttle.charge import UNASKED, Charge, Decision, Outcome

AT_MOST = 1.0
"""Seconds."""


def remember(charges: Sequence[Charge], decision: Decision, deadline: float) -> None:
    """`decision` is the store's answer to these charges, and not older than `deadline` seconds."""
    now = monotonic()
    for charge, outcome in zip(charges, decision.outcomes, strict=True):
        if not outcome.admitted and not charge.holds and not charge.quota.shadow:
            seconds = min(AT_MOST, outcome.retry / 1000 - deadline)
            if seconds > 0:
                charge.denied = (now, now + seconds, outcome)


def recall(charges: Sequence[Charge]) -> Decision | None:
    """The refusal that is known, if any; the other charges were not asked."""
    for charge in charges:
        if charge.denied is not None:
            break
    else:
        return None
    now = monotonic()
    outcomes = [_now(charge, now) for charge in charges]
    return Decision(False, tuple(outcomes), "redis") if any(one is not UNASKED for one in outcomes) else None


def _now(charge: Charge, now: float) -> Outcome:
    if charge.denied is None:
        return UNASKED
    at, until, outcome = charge.denied
    if now >= until:
        charge.denied = None
        return UNASKED
    passed = int((now - at) * 1000)
    return Outcome(False, outcome.remaining, max(0, outcome.reset - passed), max(1, outcome.retry - passed))
