"""How many requests the upstream takes at once without slowing down, found by the gradient of its latency.

Envoy's adaptive concurrency: gradient = (minRTT + buffer) / sampleRTT, new limit = gradient × limit + √limit. Instead
of measuring minRTT apart, which holds the traffic back, it is the least sample of the last two spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class AdaptiveTerms:
    """`buffer` is the share of minRTT that may be added to it; `window` seconds of samples make one step, at least
    `samples` of them; minRTT is forgotten after at most two `remember` seconds."""

    least: int = 4
    most: int = 1000
    start: int = 50
    buffer: float = 0.25
    window: float = 0.1
    samples: int = 25
    remember: float = 30.0


class AdaptiveLimit:
    __slots__ = (
        "_best",
        "_best_before",
        "_highest",
        "_rolled",
        "_samples",
        "_since",
        "_terms",
        "limit",
        "sampled",
    )

    def __init__(self, terms: AdaptiveTerms, now: float) -> None:
        self._terms = terms
        self.limit = float(terms.start)
        self.sampled = 0.0
        self._samples: list[float] = []
        self._since = self._rolled = now
        self._best = self._best_before = float("inf")
        self._highest = 0

    def sample(self, seconds: float, running: int, now: float) -> bool:
        """An answer took so long, with so many running; whether the limit may have moved."""
        self._samples.append(seconds)
        self._highest = max(self._highest, running)
        if len(self._samples) < self._terms.samples or now - self._since < self._terms.window:
            return False
        self._step(now)
        return True

    def _step(self, now: float) -> None:
        terms, samples = self._terms, sorted(self._samples)
        self.sampled = sampled = max(1e-6, samples[len(samples) // 2])
        self._samples = []
        self._since = now
        if now - self._rolled > terms.remember:
            self._best_before, self._best, self._rolled = self._best, float("inf"), now
        self._best = min(self._best, sampled)
        best = min(self._best, self._best_before)
        gradient = max(0.5, min(1.0, best * (1 + terms.buffer) / sampled))
        grown = self.limit * gradient + sqrt(self.limit)
        if gradient < 1.0 or self._highest * 2 > self.limit:
            self.limit = max(float(terms.least), min(float(terms.most), grown))
        self._highest = 0
