"""When an attempt is made again: what can't do harm, and never so often that it makes things worse."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from proxy.exchange import Exchange

SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
IDEMPOTENT = SAFE | {b"PUT", b"DELETE"}
"""RFC 9110 sections 9.2.1 and 9.2.2; TRACE is refused anyway."""


def repeatable(exchange: Exchange) -> bool:
    """Whether sending the request twice does what sending it once does."""
    return exchange.method in IDEMPOTENT or b"idempotency-key" in exchange.headers.index


def seconds_of(retry_after: bytes, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds, or the time until an HTTP date (RFC 9110 section 10.2.3); None where it is neither."""
    if retry_after.isdigit():
        return float(retry_after) if len(retry_after) < 9 else None
    try:
        return max(0.0, parsedate_to_datetime(retry_after.decode("ascii")).timestamp() - clock())
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class RetryTerms:
    """`attempts` in all; `kinds` (connect, reset, timeout) and `statuses` after which another is made.

    Backoff in seconds, with full jitter; a Retry-After of the upstream is waited for where it is at most
    `longest_wait`. Bodies are kept for another attempt up to `replay` bytes.
    """

    attempts: int = 1
    kinds: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    backoff_base: float = 0.025
    backoff_max: float = 0.25
    longest_wait: float = 1.0
    replay: int = 64 * 1024

    def pause(self, attempt: int, retry_after: bytes | None, draw: Callable[[], float] = random.random) -> float | None:
        """Seconds before the next attempt, after that many; None where the upstream asks for too long a wait."""
        backoff = min(self.backoff_max, self.backoff_base * 2.0 ** (attempt - 1)) * draw()
        wait = None if retry_after is None else seconds_of(retry_after)
        if wait is not None:
            return None if wait > self.longest_wait else max(wait, backoff)
        return backoff


NO_RETRIES = RetryTerms()


class RetryBudget:
    """Retries are at most the `share` of requests, and of those that run; `floor` of them are always allowed to begin
    with (Envoy's retry_budget bounds only those that run, so fast failures get through it).
    """

    __slots__ = ("_balance", "_floor", "_most", "_owed", "_share", "active", "refused")

    def __init__(self, share: float, floor: int) -> None:
        self._share = share
        self._floor = floor
        self._most = float(max(floor, 10))
        self._balance = float(floor)
        self._owed = float(floor)
        """Deposits pay the floor back first, so that the share holds for all of them together."""
        self.active = 0
        self.refused = 0

    def deposit(self) -> None:
        """A request came."""
        if self._owed > 0:
            self._owed -= self._share
        elif self._balance < self._most:
            self._balance += self._share

    def take(self, running: int) -> bool:
        """Whether one more retry may be made, with so many requests running; `give_back` it when it has ended."""
        if self._balance < 1 or self.active >= max(self._floor, self._share * running):
            self.refused += 1
            return False
        self._balance -= 1
        self.active += 1
        return True

    def give_back(self) -> None:
        self.active -= 1
