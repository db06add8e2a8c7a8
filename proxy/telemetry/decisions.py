"""The last refusals, each under the id that its answer carries: what refused, by which limit, under which revision.

As in the log, there is no query, no header, no address and no body: keys of limits are hashed.
"""

from __future__ import annotations

import time
from typing import Any

from proxy.entropy import Entropy
from proxy.exchange import Exchange
from proxy.rejection import Rejection

KEPT = 1000
DIGITS = 16


class Decisions:
    """`add` names one and keeps it; the oldest makes room past `kept`."""

    def __init__(self, entropy: Entropy, kept: int = KEPT) -> None:
        self._entropy = entropy
        self._kept = kept
        self._known: dict[str, dict[str, Any]] = {}

    def add(self, exchange: Exchange, rejection: Rejection, revision: str) -> bytes:
        name = self._entropy.hex(DIGITS)
        if len(self._known) >= self._kept:
            del self._known[next(iter(self._known))]
        self._known[name.decode()] = {
            "decision": name.decode(),
            "time": time.time(),
            "revision": revision,
            "request_id": exchange.request_id.decode(),
            "method": exchange.method.decode("latin-1"),
            "path": exchange.path.decode("latin-1"),
            "route": exchange.route.name if exchange.route else None,
            "websocket": exchange.websocket,
            "rule": rejection.rule,
            "reason": rejection.reason,
            "status": rejection.status,
            "detail": rejection.detail,
            "remedy": rejection.remedy,
            "retry_after": rejection.retry_after,
            "filters": trace(exchange),
            "verdicts": [
                {"rule": one.rule, "reason": one.reason, "enforced": one.enforced, "detail": one.detail or one.why}
                for one in exchange.verdicts
            ],
            "limits": limits_of(exchange),
        }
        return name

    def get(self, name: str) -> dict[str, Any] | None:
        return self._known.get(name)

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The newest first."""
        return list(reversed(list(self._known.values())[-count:])) if count else []


def trace(exchange: Exchange) -> list[dict[str, Any]]:
    """Each filter of the route's chain in its turn: passed, refused, or not reached; and in whose names it judges."""
    route = exchange.route
    if route is None:
        return []
    begun = exchange.begun if exchange.begun >= -1 else -2 - exchange.begun
    refused = {one.rule for one in exchange.verdicts if one.enforced and one.status}
    steps = []
    for index, one in enumerate(route.chain.filters):
        rules = [rule.name for rule in one.rules]
        word = "passed" if index <= begun else "not reached"
        if not refused.isdisjoint(rules):
            word = "refused"
        steps.append({"filter": type(one).__name__, "rules": rules, "verdict": word})
    return steps


def limits_of(exchange: Exchange) -> list[dict[str, Any]]:
    """What each limit decided, and who did: Redis, this sidecar alone, or nobody."""
    state = exchange.throttled
    if state is None or state.decision is None:
        return []
    source = state.decision.source
    return [
        {
            "limit": charge.quota.name, "key": charge.identity, "cost": charge.cost, "amount": charge.quota.amount,
            "window_ms": charge.quota.window, "admitted": outcome.admitted, "remaining": outcome.remaining,
            "retry_ms": outcome.retry, "source": "shadow" if charge.quota.shadow else source,
        }
        for charge, outcome in zip(state.charges, state.decision.outcomes, strict=True)
    ]  # fmt: skip
