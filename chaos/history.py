"""What happened, as it was seen from outside: requests, messages, samples. Times: seconds since the scenario began."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

ANSWERED, FAILED, HUNG = "answered", "failed", "hung"


@dataclass(slots=True)
class Request:
    """`outcome` is answered, failed (connection refused, reset, cut) or hung (no end within the client's patience)."""

    load: str
    pod: str
    at: float
    took: float
    outcome: str
    status: int = 0
    key: str = ""
    rule: str = ""
    headers: bool = True
    """Whether every header that the policy promises was there."""
    good: bool = False


@dataclass(slots=True)
class Heard:
    """One numbered message at one receiver, or that something may be missing before it (`number` is -1)."""

    pod: str
    at: float
    number: int


@dataclass(slots=True)
class Sample:
    pod: str
    at: float
    breaker: str
    rss_mib: float
    files: int
    store: bool
    """Whether the sidecar reaches its store."""


@dataclass(slots=True)
class History:
    requests: list[Request] = field(default_factory=list)
    sent: dict[int, str] = field(default_factory=dict)
    """Numbered messages, by what became of them: acked or unknown."""
    heard: list[Heard] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    fault: tuple[float, float] = (0.0, 0.0)
    ended: float = 0.0
    notes: list[str] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    """Documents by e-mail address, as the database has them afterwards."""

    @property
    def now(self) -> float:
        return time.monotonic() - self.began
