"""What a route's WebSockets are held to, as the policy says; all of it known at load time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proxy.filters.throttle import Usage
from proxy.throttle.charge import Limiter
from proxy.websocket.rules import MessageRule, Rate

UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True)
class SocketTerms:
    """Times in seconds, 0 for never; sizes in bytes. `most` is what is held of a message that a rule has to see whole.

    `slow` is what happens where a client does not take what it is sent: the upstream `wait`s (back-pressure), or beyond
    `buffer` the message is `drop`ped, or the socket `close`d (1013).
    """

    rules: tuple[MessageRule, ...] = ()
    limiter: Limiter | None = None
    usage: Mapping[str, Usage] | None = None
    """By quota, what limits on messages decided; a name that is not there yet is made."""
    deflate: Literal["pass", "off", "inspect"] = "pass"
    utf8: bool = True
    most: int = 16 * 1024 * 1024
    ratio: int = 200
    """What a message may inflate to, in times of what came."""
    heartbeat: float = 0.0
    max_age: float = 0.0
    age_jitter: float = 0.1
    close_timeout: float = 2.0
    slow: Literal["wait", "drop", "close"] = "wait"
    buffer: int = 256 * 1024
    pings: Rate | None = None

    @property
    def limits(self) -> bool:
        """Whether a rule counts messages over all sidecars."""
        return any(rule.limit is not None for rule in self.rules)


PLAIN = SocketTerms()
