"""Turning a share of requests away while the upstream fails many: Envoy's admission control.

P(refuse) = max(0, (n - successes / target) / (n + 1)), n requests over the last seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from breaker.window import Window


@dataclass(frozen=True, slots=True)
class AdmissionTerms:
    """Below the share `target` of successes requests are refused, at most the share `most` of them."""

    target: float = 0.95
    within: float = 30.0
    most: float = 0.8
    of_at_least: int = 20


class Admission:
    __slots__ = ("_draw", "_terms", "_window")

    def __init__(self, terms: AdmissionTerms, draw: Callable[[], float] = random.random) -> None:
        self._terms = terms
        self._window = Window(terms.within)
        self._draw = draw

    @property
    def refusing(self) -> float:
        """The share of requests that is refused now."""
        seen = self._window
        if seen.calls < self._terms.of_at_least:
            return 0.0
        wanted = (seen.calls - (seen.calls - seen.failures) / self._terms.target) / (seen.calls + 1)
        return max(0.0, min(self._terms.most, wanted))

    def refuses(self) -> bool:
        share = self.refusing
        return share > 0 and self._draw() < share

    def record(self, now: float, *, failed: bool) -> None:
        self._window.add(now, failed=failed, slow=False)
