"""A WebSocket after its 101: frames both ways, the rules on messages, and an end that both sides are told (RFC 6455).

Not one byte of a refused message reaches the other side: where rules look at messages, the fragments of one are held
until all are there, and what waits for a decision is not read past.
"""

from __future__ import annotations

import codecs
import random
from typing import TYPE_CHECKING

import orjson

from proxy.exchange import Exchange, Verdict
from proxy.filter import Mode
from proxy.rejection import InvalidPayload, MessageTooLarge, RateLimited, Rejection, SlowConsumer
from proxy.throttle.charge import Decision
from proxy.websocket.frames import (
    BAD_GATEWAY,
    CLOSE,
    CONTINUATION,
    GOING_AWAY,
    INVALID,
    PING,
    PONG,
    PROTOCOL,
    RESTART,
    RSV1,
    TEXT,
    FrameReader,
    ProtocolError,
    close_frame,
    closing,
    frame,
    mask,
    unmasked,
)
from proxy.websocket.messages import Message
from proxy.websocket.rules import MessageRule, Rate
from proxy.websocket.terms import SocketTerms

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream
    from proxy.telemetry.stats import SocketStats
    from proxy.upstream.connection import UpstreamConnection

MAX_KEPT = 256 * 1024
"""Bytes of a client that wait while a decision is awaited; it is read no further then."""
OUR_PING = b"simplepro"


class Relay:
    """One direction: frames of one side, judged and written to the other."""

    __slots__ = ("_decoder", "_dropping", "_from_client", "_key", "_key_at", "_message", "_rules", "_session",
                 "_states", "_utf8", "closed", "reader")  # fmt: skip

    def __init__(self, session: Session, *, from_client: bool, deflate: bool) -> None:
        terms = session.terms
        self._session = session
        self._from_client = from_client
        self._rules = tuple(one for one in terms.rules if (one.client if from_client else one.upstream))
        self._states = [[check.begin() for check in one.checks] for one in self._rules]
        self._utf8 = terms.utf8
        self._decoder: codecs.IncrementalDecoder | None = None
        self._message: Message | None = None
        self._dropping = False
        self._key = b""
        self._key_at = 0
        self.closed = False
        """Whether this side has sent its close frame."""
        self.reader = FrameReader(self, masked=from_client, deflate=deflate)

    # Sink

    def on_frame(self, first: int, raw: bytes, head: int) -> None:
        session = self._session
        opcode = first & 0x0F
        if opcode >= CLOSE:
            session.on_control(self, opcode, raw, head)
            return
        if session.closing:
            return
        if self._rules:
            self._collect(first, raw, head)
            return
        if self._utf8:
            self._check_text(first, raw, head)
        if first & 0x80:
            session.stats.count(self._from_client)
        session.write(self, raw)

    def on_large(self, first: int, length: int, raw: bytes, head: int) -> bool:
        """In pieces where nobody has to see the whole; else it is held, as far as anything may be."""
        session = self._session
        if session.closing:
            return True
        if self._rules:
            most = session.terms.most
            held = self._message.size if self._message else 0
            if length + held <= most:
                return False
            self._dropping = True
            self._message = None
            session.violate(self._too_large(most), self)
            return True
        self._key, self._key_at = raw[head - 4 : head] if self._from_client else b"", 0
        self._begin_text(first)
        self._decode(raw[head:], final=False)
        session.write(self, raw)
        return True

    def on_piece(self, data: bytes, ended: bool) -> None:
        session = self._session
        if session.closing:
            return
        if self._dropping:
            self._dropping = not ended
            return
        self._decode(data, final=ended and not self.reader.message)
        if ended and not self.reader.message:
            session.stats.count(self._from_client)
        session.write(self, data)

    # text

    def _check_text(self, first: int, raw: bytes, head: int) -> None:
        """What nobody else reads: UTF-8 over all fragments; what is compressed is its receiver's to check."""
        if first & 0x8F == 0x80 | TEXT and not first & RSV1:
            payload = unmasked(raw, head, self._from_client)
            if not payload.isascii():
                self._decoder = _new_decoder()
                self._key = b""
                self._decode(payload, final=True)
            return
        self._begin_text(first)
        if self._decoder is not None:
            self._key = b""
            self._decode(unmasked(raw, head, self._from_client), final=bool(first & 0x80))

    def _begin_text(self, first: int) -> None:
        if first & 0x0F != CONTINUATION:
            checks = self._utf8 and first & 0x0F == TEXT and not first & RSV1
            self._decoder = _new_decoder() if checks else None

    def _decode(self, data: bytes, *, final: bool) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        if self._key:
            at = self._key_at % 4
            self._key_at += len(data)
            data = mask(data, self._key[at:] + self._key[:at])
        try:
            decoder.decode(data, final)
        except UnicodeDecodeError:
            raise ProtocolError(INVALID, "a text message is no UTF-8") from None
        if final:
            self._decoder = None

    # messages

    def _too_large(self, most: int) -> Rejection:
        return MessageTooLarge(f"a message exceeds {most} bytes", rule="websocket.most")

    def _collect(self, first: int, raw: bytes, head: int) -> None:
        session, message = self._session, self._message
        if message is None:
            if self._dropping:
                self._dropping = bool(self.reader.message)
                return
            message = self._message = Message(first & 0x0F, self._from_client, session.terms.most)
        message.add(raw, head)
        if message.size > session.terms.most:
            self._message, self._dropping = None, bool(self.reader.message)
            session.violate(self._too_large(session.terms.most), self)
        elif first & 0x80:
            self._message = None
            self._judge(message)

    def _judge(self, message: Message) -> None:
        session = self._session
        exchange, now = session.exchange, session.now()
        asked: list[MessageRule] = []
        for rule, states in zip(self._rules, self._states, strict=True):
            try:
                for check, state in zip(rule.checks, states, strict=True):
                    check.judge(state, exchange, message, now)
            except Rejection as rejection:
                if session.refused(rule, rejection, self):
                    return
            if rule.limit is not None:
                asked.append(rule)
        if self._utf8 and not asked and message.is_text and not message.raws[0][0][0] & RSV1:
            try:
                _ = message.payload
            except InvalidPayload as rejection:
                session.violate(rejection, self)
                return
        if asked:
            self._ask(asked, message)
        else:
            self._pass(message)

    def _pass(self, message: Message) -> None:
        self._session.stats.count(self._from_client)
        self._session.write(self, message.whole)

    def _ask(self, asked: list[MessageRule], message: Message) -> None:
        """The limits that all sidecars share; nothing more of this side is looked at before they have answered."""
        session = self._session
        charges, owners = [], []
        for rule in asked:
            try:
                made = rule.charges(session.exchange, message)
            except Rejection as rejection:
                if session.refused(rule, rejection, self):
                    return
                continue
            charges += made
            owners += [rule] * len(made)
        limiter = session.terms.limiter
        if not charges or limiter is None:
            self._pass(message)
            return
        self.reader.paused = waiting = True

        def decided(decision: Decision) -> None:
            self.reader.paused = False
            self._decided(decision, owners, message)
            if not waiting:
                session.go_on(self)

        limiter.decide(charges, "-", decided)
        waiting = False
        if self.reader.paused:
            session.hold(self)

    def _decided(self, decision: Decision, owners: list[MessageRule], message: Message) -> None:
        session = self._session
        if session.closing or session.over:
            return
        for rule, outcome in zip(owners, decision.outcomes, strict=True):
            if outcome.admitted:
                continue
            wait = outcome.retry / 1000
            rejection = RateLimited(
                "too many messages", remedy=f"Try again in {max(1, round(wait))} s.", retry_after=wait
            )
            if session.refused(rule, rejection, self):
                return
        self._pass(message)


def _new_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")()


class Session:
    """One WebSocket between a client and an endpoint; `over` once nothing more is to be done for it.

    `opened` is seconds of the loop's clock.
    """

    __slots__ = (
        "_client",
        "_close_by",
        "_closed_by",
        "_listener",
        "_ping_state",
        "_pinged",
        "_pings",
        "_upstream",
        "_upstream_gone",
        "age_limit",
        "closing",
        "exchange",
        "from_client",
        "from_upstream",
        "heard",
        "last_activity",
        "opened",
        "over",
        "stats",
        "terms",
    )  # fmt: skip

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
        self._upstream = upstream
        self._upstream_gone = False
        """Whether nothing more can be, or is to be, written to it."""
        self.closing = False
        """Whether the proxy closes it: nothing but close frames is looked at any more."""
        self.over = False
        self._closed_by = ""
        self._close_by = float("inf")
        self.opened = self.last_activity = self.heard = self._pinged = self.now()
        jitter = 1 - terms.age_jitter * random.random()  # noqa: S311  # jitter
        self.age_limit = self.opened + terms.max_age * jitter if terms.max_age else float("inf")
        self._pings = terms.pings
        self._ping_state = terms.pings.begin() if terms.pings else None
        self.from_client = Relay(self, from_client=True, deflate=deflate)
        self.from_upstream = Relay(self, from_client=False, deflate=deflate)
        stats.open += 1
        stats.opened += 1

    def now(self) -> float:
        return self._listener.loop.time()

    # bytes

    def on_client_data(self, data: bytes) -> None:
        self.stats.bytes_in += len(data)
        self.last_activity = self.heard = self.now()
        self._feed(self.from_client, data)
        if self.from_client.reader.paused and self.from_client.reader.held > MAX_KEPT:
            self._client.hold()

    def on_upstream_data(self, data: bytes) -> None:
        self.stats.bytes_out += len(data)
        self.last_activity = self.now()
        self._feed(self.from_upstream, data)

    def _feed(self, relay: Relay, data: bytes) -> None:
        if self.over:
            return
        try:
            relay.reader.feed(data)
        except ProtocolError as error:
            self.exchange.failure = self.exchange.failure or "websocket-protocol"
            if relay is self.from_client:
                self.close(error.code, error.reason, "proxy")
            else:
                self.close(BAD_GATEWAY, "the application broke the protocol", "upstream", upstream=error.code)

    def write(self, relay: Relay, data: bytes) -> None:
        if relay is self.from_client:
            if not self._upstream_gone:
                self._upstream.write(data)
            return
        slow = self.terms.slow
        if slow != "wait" and self._client.unsent > self.terms.buffer:
            self.stats.dropped += 1
            if slow == "close":
                self.violate(SlowConsumer(f"more than {self.terms.buffer} bytes wait", rule="websocket.slow"), relay)
            return
        self._client.send(data)

    def hold(self, relay: Relay) -> None:
        if relay is self.from_client:
            self._client.hold()
        elif not self._upstream_gone:
            self._upstream.pause_reading()

    def go_on(self, relay: Relay) -> None:
        """What it had to wait for is there."""
        if relay is self.from_client:
            self._client.read_on()
        elif not self._upstream_gone:
            self._upstream.resume_reading()
        self._feed(relay, b"")

    # control frames

    def on_control(self, relay: Relay, opcode: int, raw: bytes, head: int) -> None:
        if opcode == CLOSE:
            self._on_close(relay, raw, head)
            return
        if self.closing or relay.closed:
            return
        if relay is self.from_client:
            if opcode == PONG and unmasked(raw, head, True) == OUR_PING:
                return
            if opcode == PING and self._pings is not None and not self._may_ping(self._pings):
                return
        self.write(relay, raw)

    def _may_ping(self, pings: Rate) -> bool:
        try:
            pings.take(self._ping_state or [], 1, self.now())
        except RateLimited as rejection:
            rejection.rule = "websocket.pings"
            self.violate(rejection, self.from_client)
            return False
        return True

    def _on_close(self, relay: Relay, raw: bytes, head: int) -> None:
        code, _ = closing(unmasked(raw, head, relay is self.from_client))
        if relay.closed:
            return
        relay.closed = True
        other = self.from_upstream if relay is self.from_client else self.from_client
        if self.closing:
            self.over = relay is self.from_client
            return
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
        self.closing = True
        self._record(code, side)
        self._close_by = self.now() + self.terms.close_timeout
        if not self.from_upstream.closed:
            self._client.send(close_frame(code, reason, masked=False))
        if not self._upstream_gone and not self.from_client.closed:
            told = upstream or (GOING_AWAY if code in (PROTOCOL, INVALID, BAD_GATEWAY) else code)
            self._upstream.write(close_frame(told, reason, masked=True))
        self._finish_upstream()
        self.over = self.from_client.closed

    def _record(self, code: int, side: str) -> None:
        if not self._closed_by:
            self._closed_by = side
            self.stats.open -= 1
            self.stats.closed[code, side] += 1

    def client_ended(self) -> None:
        """The client's stream has ended, in good order or not."""
        if not self.from_client.closed and not self.closing and not self._upstream_gone:
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
        self.close(BAD_GATEWAY, "the application closed the connection", "upstream")
        return True

    def check(self, now: float, idle: float) -> None:
        """Called by the listener's sweep. `idle` is the route's, in seconds."""
        terms = self.terms
        if now >= self._close_by:
            self.over = True
        elif self.closing:
            return
        elif now - self.last_activity > idle:
            self.exchange.failure = "websocket-idle"
            self.close(GOING_AWAY, "nothing came for too long")
        elif now >= self.age_limit:
            self.close(RESTART, "this connection is old; connect again")
        elif terms.heartbeat:
            if now - self.heard > 2 * terms.heartbeat + 1:
                self.exchange.failure = "websocket-heartbeat"
                self.close(GOING_AWAY, "no answer to pings")
            elif now - max(self._pinged, self.heard) >= terms.heartbeat:
                self._pinged = now
                self._client.send(frame(PING, OUR_PING, masked=False))

    def drain(self, seconds: float) -> None:
        """Somewhen within that time it closes, so that not all clients come back at once."""
        spread = seconds * 0.8 * random.random()  # noqa: S311  # jitter
        hint = round(1 + 4 * random.random(), 1)  # noqa: S311  # jitter
        self._listener.loop.call_later(spread, self.close, RESTART, f"restarting; connect again in {hint} s")

    # refusals

    def refused(self, rule: MessageRule, rejection: Rejection, relay: Relay) -> bool:
        """Whether the message goes no further; where the rule only shadows it is counted, and goes on."""
        rejection.rule = rule.rule.name
        if rule.rule.mode is not Mode.ENFORCE:
            rule.rule.count(self.exchange, Verdict(rejection.rule, rejection.reason, rejection.status, False))
            return False
        self.violate(rejection, relay, rule.action)
        return True

    def violate(self, rejection: Rejection, relay: Relay, action: str = "close") -> None:
        """Count and log; then close, or drop the message, and tell its sender where the rule says so."""
        self._listener.on_rejected(self.exchange, rejection)
        if action == "close":
            retry = f"; retry in {rejection.retry_after:.0f} s" if rejection.retry_after else ""
            self.close(rejection.close_code, f"{rejection.rule}: {rejection.detail}{retry}")
        elif action == "error" and relay is self.from_client:
            told = {"type": "error", "rule": rejection.rule, "reason": rejection.reason, "message": rejection.detail}
            if rejection.retry_after:
                told["retryAfter"] = str(round(rejection.retry_after, 3))
            self._client.send(frame(TEXT, orjson.dumps(told), masked=False))

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
            "closing": self.closing,
        }
