"""What rules in shadow would have refused: each finding once, how often, and where it was last seen.

As in the log, there is no query, no header, no address and no body.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from proxy.exchange import Exchange, Verdict

KEPT = 1000
Key = tuple[str, str, str, str]
"""Route, rule, reason, and the refusal's words."""


class Shadows:
    """Past `kept` the finding goes that was not seen for longest: names that strangers choose do not fill memory."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._seen: OrderedDict[Key, dict[str, Any]] = OrderedDict()

    def see(self, exchange: Exchange, verdict: Verdict, revision: str) -> None:
        key = (exchange.route.name if exchange.route else "", verdict.rule, verdict.reason, verdict.why)
        one = self._seen.get(key)
        if one is None:
            if len(self._seen) >= self._kept:
                self._seen.popitem(last=False)
            one = self._seen[key] = {"count": 0, "first": time.time()}
        self._seen.move_to_end(key)
        one["count"] += 1
        one |= {
            "last": time.time(), "revision": revision, "request_id": exchange.request_id.decode(),
            "method": exchange.method.decode("latin-1"), "path": exchange.path.decode("latin-1"),
        }  # fmt: skip

    def told(self) -> list[dict[str, Any]]:
        """The most frequent first."""
        found = [
            {"route": route, "rule": rule, "reason": reason, "detail": why, **one}
            for (route, rule, reason, why), one in self._seen.items()
        ]
        return sorted(found, key=lambda one: -int(one["count"]))
