"""A WebSocket after its 101: frames both ways, the rules on messages, and an end that both sides are told (RFC 6455).

A frame of the proxy's own never comes amid another's: where one is on its way in pieces, it waits for its end.
"""

from __future__ import annotations

import random
from time import perf_counter
from typing import TYPE_CHECKING

import orjson

from proxy.exchange import Exchange
from proxy.filter import Mode
from proxy.listener.connection import LINGER_SECONDS
from proxy.listener.relay import Relay
from proxy.rejection import InvalidUpstreamResponse, ProtocolViolation, RateLimited, Rejection, SlowConsumer
from proxy.websocket.frames import (
    BAD_GATEWAY,
    CLOSE,
    GOING_AWAY,
    INTERNAL,
    INVALID,
    PING,
    PONG,
    PROTOCOL,
    RESTART,
    TEXT,
    ProtocolError,
    close_frame,
    closing,
    frame,
    unmasked,
)
from proxy.websocket.rules import MessageRule, Rate
from proxy.websocket.terms import SocketTerms

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream
    from proxy.telemetry.stats import SocketStats
    from proxy.upstream.connection import UpstreamConnection

OUR_PING = b"simplepro"
MEASURED_EVERY = 32
"""Pieces that were read; of one in so many it is measured how long the proxy took over it."""
MAX_UNSAID = 16
"""Error frames that wait for the end of another message."""
APPLICATION_CODES = 3000
"""From here on close codes are anybody's own (RFC 6455 section 7.4.2): counted by thousands, but for the proxy's."""


class Session:
    """One WebSocket between a client and an endpoint; `over` once nothing more is to be done for it.

    `opened` is seconds of the loop's clock.
    """

    __slots__ = (
        "_client",
        "_close_by",
        "_closed_by",
        "_fed",
        "_listener",
        "_ping_state",
        "_pinged",
        "_pings_passed",
        "_pong_due",
        "_said",
        "_time",
        "_upstream",
        "_upstream_gone",
        "_waiting_close",
        "age_limit",
        "closing",
        "exchange",
        "failed",
        "from_client",
        "from_upstream",
        "heard",
        "last_activity",
        "opened",
        "over",
        "stats",
        "terms",
        "unsaid",
    )

    def __init__(
        self,
        exchange: Exchange,
        client: Downstream,
        upstream: UpstreamConnection,
        terms: SocketTerms,
        stats: SocketStats,
        *,
        deflate: bool,
    ) -> None:
        self.exchange = exchange
        self.terms = terms
        self.stats = stats
        self._client = client
        self._listener = client.listener
        self._time = client.listener.loop.time
        self._upstream = upstream
        self._upstream_gone = False
        """Whether nothing more can be, or is to be, written to it."""
        self.closing = False
        """Whether the proxy closes it: nothing but close frames is looked at any more."""
        self.failed = False
        """Whether the application broke the protocol, or said that it failed."""
        self.unsaid: list[bytes] = []
        """Error frames that wait for the end of the application's message."""
        self.over = False
        self._waiting_close: tuple[int, str, str, int] | None = None
        self._fed = 0
        self._closed_by = ""
        self._said = b""
        """The payload of the client's close frame."""
        self._pong_due = False
        self._pings_passed = 0
        """The application's pings that the client may still answer."""
        self._close_by = float("inf")
        self.opened = self.last_activity = self.heard = self._pinged = self.now()
        jitter = 1 - terms.age_jitter * random.random()  # noqa: S311  # jitter
        self.age_limit = self.opened + terms.max_age * jitter if terms.max_age else float("inf")
        self._ping_state = terms.pings.begin() if terms.pings else []
        self.from_client = Relay(self, from_client=True, deflate=deflate)
        self.from_upstream = Relay(self, from_client=False, deflate=deflate)
        stats.open += 1
        stats.opened += 1

    @property
    def ending(self) -> bool:
        """Whether it closes, or waits for a frame's end to do so."""
        return self.closing or self._waiting_close is not None

    def now(self) -> float:
        return self._time()

    # bytes

    def on_client_data(self, data: bytes) -> None:
        self.stats.bytes_in += len(data)
        self.last_activity = self.heard = self._time()
        self._feed(self.from_client, data)

    def on_upstream_data(self, data: bytes) -> None:
        self.stats.bytes_out += len(data)
        self.last_activity = self._time()
        self._feed(self.from_upstream, data)

    def _feed(self, relay: Relay, data: bytes) -> None:
        if self.over or relay.broken:
            return
        reader = relay.reader
        self._fed += 1
        began = 0.0 if self._fed % MEASURED_EVERY else perf_counter()
        try:
            reader.feed(data)
            if began:
                self.stats.latency.observe(perf_counter() - began)
        except ProtocolError as error:
            relay.broken = True
            self.exchange.failure = self.exchange.failure or "websocket-protocol"
            if relay is self.from_client:
                self._listener.on_rejected(self.exchange, ProtocolViolation(error.reason, rule="websocket.protocol"))
                self.close(error.code, error.reason, "proxy")
            else:
                self.failed = True
                told = InvalidUpstreamResponse(error.reason, rule="websocket.upstream")
                self._listener.on_rejected(self.exchange, told)
                self.close(BAD_GATEWAY, "the application broke the protocol", "upstream", upstream=error.code)

    def write(self, relay: Relay, data: bytes) -> None:
        if relay is self.from_client:
            if not self._upstream_gone:
                self._upstream.write(data)
            return
        self._client.send(data)

    def is_slow(self, relay: Relay) -> bool:
        """Whether the client has so much unread that this message is not for it; the socket may close for it."""
        if self.terms.slow == "wait" or self._client.unsent <= self.terms.buffer:
            return False
        self.stats.dropped += 1
        if self.terms.slow == "close":
            self.violate(SlowConsumer(f"more than {self.terms.buffer} bytes wait", rule="websocket.slow"), relay)
        return True

    def flow(self, relay: Relay) -> None:
        """A side is read on, unless a decision on what it said is awaited, or the other side takes nothing."""
        if self.over:
            return
        if relay is self.from_client:
            if relay.reader.paused or not (self._upstream_gone or self._upstream.writable):
                self._client.hold()
            else:
                self._client.read_on()
        elif not self._upstream_gone and not self._upstream.transport.is_closing():
            if relay.reader.paused or (self.terms.slow == "wait" and self._client.blocked):
                self._upstream.pause_reading()
            else:
                self._upstream.resume_reading()

    def go_on(self, relay: Relay) -> None:
        """What it had to wait for is there."""
        self._feed(relay, b"")
        self.flow(relay)

    # control frames

    def on_control(self, relay: Relay, opcode: int, raw: bytes, head: int) -> None:
        if opcode == CLOSE:
            self._on_close(relay, raw, head)
            return
        if relay.stopped:
            return
        if relay is self.from_client:
            if not self._client_may(opcode, raw, head):
                return
        else:
            if self.is_slow(relay):
                return
            if opcode == PING:
                self._pings_passed += 1
        self.write(relay, raw)

    def _client_may(self, opcode: int, raw: bytes, head: int) -> bool:
        """Answer pings, and send so many of its own, or pongs that nobody asked for (RFC 6455 section 5.5.3)."""
        if opcode == PONG:
            if self._pong_due and unmasked(raw, head, True) == OUR_PING:
                self._pong_due = False
                return False
            if self._pings_passed:
                self._pings_passed -= 1
                return True
        return self.terms.pings is None or self._may_ping(self.terms.pings)

    def _may_ping(self, pings: Rate) -> bool:
        try:
            pings.take(self._ping_state, 1, self.now())
        except RateLimited as rejection:
            rejection.rule = "websocket.pings"
            self.violate(rejection, self.from_client)
            return False
        return True

    def _on_close(self, relay: Relay, raw: bytes, head: int) -> None:
        payload = unmasked(raw, head, relay is self.from_client)
        code, _ = closing(payload)
        if relay.closed:
            return
        relay.closed = relay.stopped = True
        if relay is self.from_client:
            self._said = payload
        elif code == INTERNAL and not self.from_client.closed:
            self.failed = True
        other = self.from_upstream if relay is self.from_client else self.from_client
        if self.closing:
            self.over = relay is self.from_client
            return
        if not relay.amid:
            self.write(relay, raw)
        if not self._closed_by:
            self._record(code, "client" if relay is self.from_client else "upstream")
        self._close_by = self.now() + self.terms.close_timeout
        if other.closed:
            self._finish_upstream()

    # ends

    def _finish_upstream(self) -> None:
        if not self._upstream_gone:
            self._upstream_gone = True
            self._upstream.finish_tunnel()

    def close(self, code: int, reason: str, side: str = "proxy", upstream: int = 0) -> None:
        """Tell both, and look at nothing more; what is left of it ends with the client's close frame, or soon.

        `upstream` is the code for that side where it is another.
        """
        if self.closing or self.over:
            return
        self._close_by = min(self._close_by, self.now() + self.terms.close_timeout)
        self.from_client.stopped = True
        if self.from_upstream.amid and not self._upstream_gone and not self.from_upstream.broken:
            self._waiting_close = self._waiting_close or (code, reason, side, upstream)
            return
        self.closing = self.from_upstream.stopped = True
        self._record(code, side)
        if not self.from_upstream.closed and not self.from_upstream.amid:
            self._client.send(close_frame(code, reason, masked=False))
        if not self._upstream_gone and not self.from_client.closed and not self.from_client.amid:
            told = upstream or (GOING_AWAY if code in (PROTOCOL, INVALID, BAD_GATEWAY) else code)
            self._upstream.write(close_frame(told, reason, masked=True))
        self._finish_upstream()
        self.over = self.from_client.closed

    def on_frame_end(self) -> None:
        """A frame that went in pieces is whole: what had to wait for its end comes now."""
        waiting, self._waiting_close = self._waiting_close, None
        if waiting is not None:
            self.close(*waiting)
        elif self.unsaid:
            self.speak()

    def speak(self) -> None:
        """Say what has to wait while the application's message goes on; after its close frame nothing is said."""
        if self.from_upstream.between and not self.closing:
            for told in self.unsaid:
                self._client.send(told)
            self.unsaid.clear()

    def _record(self, code: int, side: str) -> None:
        if not self._closed_by:
            self._closed_by = side
            if side != "proxy" and code >= APPLICATION_CODES:
                code -= code % 1000
            self.stats.open -= 1
            self.stats.closed[code, side] += 1

    def client_ended(self) -> None:
        """The client's stream has ended, in good order or not."""
        untold = not (self.from_client.closed or self.from_client.amid or self.closing or self._upstream_gone)
        if untold:
            self._upstream.write(close_frame(GOING_AWAY, "the client is gone", masked=True))
        self._finish_upstream()
        self._record(1006, "client")
        self.over = True

    def upstream_ended(self) -> bool:
        """Whether the application went without a close frame."""
        self._upstream_gone = True
        if self.from_upstream.closed or self.closing:
            self.over = self.over or self.from_client.closed or self.from_upstream.closed
            return False
        if self.from_client.closed:
            if not self.from_upstream.amid:
                self._client.send(frame(CLOSE, self._said, masked=False))
            self.over = True
            return False
        self.close(BAD_GATEWAY, "the application closed the connection", "upstream")
        return True

    def check(self, now: float, idle: float) -> None:
        """Called by the listener's sweep. `idle` is the route's, in seconds."""
        terms = self.terms
        if now >= self._close_by:
            self.over = True
        elif self.ending:
            return
        elif now - self.last_activity > idle:
            self.exchange.failure = "websocket-idle"
            self.close(GOING_AWAY, "nothing came for too long")
        elif now >= self.age_limit:
            self.close(RESTART, "this connection is old; connect again")
        elif terms.heartbeat:
            if self._client.held:
                self.heard = now
            if now - self.heard > 2 * terms.heartbeat + 1:
                self.exchange.failure = "websocket-heartbeat"
                self.close(GOING_AWAY, "no answer to pings")
            elif now - max(self._pinged, self.heard) >= terms.heartbeat and self.from_upstream.between:
                self._pinged = now
                self._pong_due = True
                self._client.send(frame(PING, OUR_PING, masked=False))

    def drain(self, seconds: float) -> None:
        """Somewhen within that time it closes, so that not all clients come back at once."""
        left = max(seconds / 2, seconds - self.terms.close_timeout - LINGER_SECONDS)
        spread = left * random.random()  # noqa: S311  # jitter
        hint = round(1 + 4 * random.random(), 1)  # noqa: S311  # jitter
        self._listener.loop.call_later(spread, self.close, RESTART, f"restarting; connect again in {hint} s")

    # refusals

    def refused(self, rule: MessageRule, rejection: Rejection, relay: Relay) -> bool:
        """Whether the message goes no further; where the rule only shadows it is counted, and goes on."""
        rejection.rule = rule.rule.name
        if rule.rule.mode is not Mode.ENFORCE:
            rule.rule.shadowed(self.exchange, rejection)
            return False
        self.violate(rejection, relay, rule.action)
        return True

    def count_trial(self, quota: str) -> None:
        """A limit on trial would have refused."""
        self._listener.stats.rejections[quota, RateLimited.reason, "shadow"] += 1

    def violate(self, rejection: Rejection, relay: Relay, action: str = "close") -> None:
        """Count and log; then close, or drop the message, and tell its sender where the rule says so."""
        self._listener.on_rejected(self.exchange, rejection)
        if action == "close":
            retry = f"; retry in {rejection.retry_after:.0f} s" if rejection.retry_after else ""
            self.close(rejection.close_code, f"{rejection.rule}: {rejection.detail}{retry}")
        elif action == "error" and relay is self.from_client and self._may_be_told():
            told: dict[str, object] = {
                "type": "error",
                "rule": rejection.rule,
                "reason": rejection.reason,
                "message": rejection.detail,
            }
            if rejection.retry_after:
                told["retryAfter"] = round(rejection.retry_after, 3)
            self.unsaid.append(frame(TEXT, orjson.dumps(told), masked=False))
            self.speak()

    def _may_be_told(self) -> bool:
        """A client that does not read gets no errors either: they would only wait here."""
        return len(self.unsaid) < MAX_UNSAID and not self._client.blocked and self._client.unsent <= self.terms.buffer

    @property
    def buffered(self) -> int:
        """Bytes that wait here, in both directions."""
        unsent = 0 if self._upstream_gone else self._upstream.transport.get_write_buffer_size()
        return self._client.unsent + unsent + self.from_client.held + self.from_upstream.held

    def shown(self, now: float) -> dict[str, object]:
        """For the admin; nothing of what was said."""
        return {
            "route": self.exchange.route.name if self.exchange.route else "-",
            "request_id": self.exchange.request_id.decode("latin-1"),
            "seconds": round(now - self.opened, 1),
            "quiet_seconds": round(now - self.last_activity, 1),
            "bytes_in": self.exchange.bytes_in,
            "bytes_out": self.exchange.bytes_out,
            "unsent": self._client.unsent,
            "buffered": self.buffered,
            "closing": self.closing,
        }
