"""When a breaker trips, for how long, and what it takes to close again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Consecutive:
    """Trips at so many failures in a row (Envoy: consecutive_5xx)."""

    failures: int = 5
    enforced: bool = True
    """Else the breaker only counts that it would have tripped; so with every detector."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Trips where more than the share `above` failed, of at least so many calls within so many seconds."""

    above: float = 0.5
    of_at_least: int = 20
    within: float = 10.0
    enforced: bool = True


@dataclass(frozen=True, slots=True)
class SlowRate:
    """Trips where more than the share `above` took longer than `longer_than` seconds."""

    longer_than: float
    above: float = 0.5
    of_at_least: int = 20
    within: float = 10.0
    enforced: bool = True


@dataclass(frozen=True, slots=True)
class OpenTime:
    """Seconds: `first`, twice as long after each failed probe, at most `most`; less up to `jitter` of itself.

    A trip after the breaker was closed for longer than it had last been open begins again with `first`.
    """

    first: float = 5.0
    most: float = 60.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """In the half-open state `probes` are let in at once; after `successes` it closes, after one failure it opens."""

    consecutive: Consecutive | None = Consecutive()
    error_rate: ErrorRate | None = None
    slow_rate: SlowRate | None = None
    open_time: OpenTime = OpenTime()
    probes: int = 1
    successes: int = 1
