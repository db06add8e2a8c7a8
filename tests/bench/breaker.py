"""`make bench-breaker`: CPU of one call through a closed breaker, beside pybreaker's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pybreaker

from breaker import Breaker, Consecutive, ErrorRate, Settings, SlowRate

CALLS = 200_000


def cost(call: Callable[[], object]) -> float:
    """Microseconds of CPU, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - began)
    return best / CALLS * 1e6


def main() -> None:
    consecutive = Breaker("a", Settings(Consecutive(5)))
    all_three = Breaker("b", Settings(Consecutive(5), ErrorRate(), SlowRate(1.0)))
    theirs = pybreaker.CircuitBreaker()
    rows: dict[str, Callable[[], object]] = {
        "consecutive failures": lambda: consecutive.success(consecutive.admit(), 0.01),
        "and error rate, and slow rate": lambda: all_three.success(all_three.admit(), 0.01),
        "pybreaker.call as it is": lambda: theirs.call(int),
        "(the loop alone)": int,
    }
    for name, call in rows.items():
        sys.stdout.write(f"{name:32} {cost(call):6.2f} µs\n")


if __name__ == "__main__":
    main()
