"""The sidecar with a planted fault: `python -m tests.chaos.mutants NAME run --policy FILE`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import breaker.breaker
import proxy.filters.security_headers as headers
import proxy.filters.throttle as throttle
import proxy.listener.attempts as attempts
from proxy.cli import main
from proxy.filter import Rule


def breaker_never_opens() -> None:
    def trip(self: Any, reason: str, seconds: float | None = None) -> None:
        """Nothing."""

    breaker.breaker.Breaker.trip = trip  # type: ignore[method-assign]


def closed_fails_open() -> None:
    refuse = Rule.refuse

    def lenient(self: Rule, exchange: Any, rejection: Any) -> None:
        if not self.name.endswith(".closed"):
            refuse(self, exchange, rejection)

    Rule.refuse = lenient  # type: ignore[method-assign]


def bare_refusals() -> None:
    on_response = headers.SecurityHeaders.on_response

    def bare(self: Any, exchange: Any, response: Any) -> None:
        if response.status != 503:
            on_response(self, exchange, response)

    headers.SecurityHeaders.on_response = bare  # type: ignore[method-assign]


def posts_retried() -> None:
    attempts.repeatable = lambda exchange: True  # type: ignore[attr-defined]


def leases_lost() -> None:
    def keep(self: Any, state: Any, taken: Any) -> None:
        """What was held is never given back."""

    throttle.Throttle._settle = keep  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    one.__name__: one for one in (breaker_never_opens, closed_fails_open, bare_refusals, posts_retried, leases_lost)
}

if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    main()
