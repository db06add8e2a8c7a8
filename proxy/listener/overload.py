"""How near this process is to its limits: memory, and how late its event loop wakes (Envoy's overload manager)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
CGROUP = Path("/sys/fs/cgroup/memory.max")
SMOOTHING = 0.25
"""Of the newest measurement in the lag's moving average: four sweeps, a second, make most of it."""
CALM, STRAINED, OVERLOADED = range(3)


@dataclass(frozen=True, slots=True)
class OverloadTerms:
    """`memory` in bytes, 0 for no bound; `loop_lag` in seconds; `relief` the share of either where relief begins."""

    memory: int
    loop_lag: float
    relief: float


def memory_bound() -> int:
    """Nine tenths of the control group's limit; 0 where it has none."""
    try:
        text = CGROUP.read_text().strip()
    except OSError:
        return 0
    return int(text) * 9 // 10 if text.isdigit() else 0


def resident() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class OverloadGuard:
    """`level`: 0 calm, 1 strained (answers say Connection: close), 2 overloaded (only critical routes are served)."""

    __slots__ = ("_terms", "lag", "level", "refused")

    def __init__(self, terms: OverloadTerms) -> None:
        self._terms = terms
        self.level = CALM
        self.lag = 0.0
        self.refused = 0

    def measure(self, lag: float, memory: int) -> None:
        terms = self._terms
        self.lag += SMOOTHING * (lag - self.lag)
        used = max(self.lag / terms.loop_lag, memory / terms.memory if terms.memory else 0.0)
        self.level = OVERLOADED if used >= 1 else STRAINED if used >= terms.relief else CALM
