"""One direction of a WebSocket: its frames, judged where rules look at them, and written to the other side.

Not one byte of a refused message goes on: where messages are judged, the fragments of one are held until all are there,
and what waits for a decision is not read past.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from typing import TYPE_CHECKING

from proxy.filter import Mode
from proxy.rejection import MessageTooLarge, RateLimited, Rejection
from proxy.throttle.charge import Charge, Decision
from proxy.websocket.frames import (
    CLOSE,
    CONTINUATION,
    INTERNAL,
    INVALID,
    RSV1,
    TEXT,
    FrameReader,
    ProtocolError,
    mask,
    unmasked,
)
from proxy.websocket.messages import Message
from proxy.websocket.rules import Inspected, MessageRule, Size

if TYPE_CHECKING:
    from proxy.listener.websocket import Session

log = logging.getLogger(__name__)

OFF_LOOP = 8 * 1024
"""Bytes of a message from which on a thread inspects it."""
MAX_FRAGMENTS = 16_384
"""Of a message that is held: empty ones cost memory, too."""


class Relay:
    """One direction: frames of one side, judged and written to the other."""

    __slots__ = (
        "_checks", "_decoder", "_dropping", "_from_client", "_inflation", "_inspects", "_key", "_key_at", "_limits",
        "_message", "_most", "_passing", "_rules", "_session", "_sizes", "_slow", "_utf8", "_whole", "broken", "closed",
        "reader", "stopped",
    )  # fmt: skip

    def __init__(self, session: Session, *, from_client: bool, deflate: bool) -> None:
        terms = session.terms
        self._session = session
        self._from_client = from_client
        self._rules = tuple(one for one in terms.rules if (one.client if from_client else one.upstream))
        self._checks = tuple((check, check.begin(), one) for one in self._rules for check in one.checks)
        self._sizes = tuple(
            (check, one) for check, _, one in self._checks if isinstance(check, Size) and one.rule.mode is Mode.ENFORCE
        )
        self._slow = any(isinstance(check, Inspected) for check, _, _ in self._checks)
        self._limits = tuple(one for one in self._rules if one.limit is not None)
        self._most = terms.most
        self._inflation = (terms.most, terms.ratio)
        self._inspects = deflate and terms.deflate == "inspect"
        self._whole = bool(self._rules) or self._inspects or (not from_client and terms.slow != "wait")
        """Whether messages go on whole or not at all: a rule judges them, or a slow client may miss some."""
        self._utf8 = terms.utf8
        self._decoder: codecs.IncrementalDecoder | None = None
        self._message: Message | None = None
        self._dropping = False
        self._passing = False
        """Whether a frame has gone on in part, and its rest has not: it may never."""
        self._key = b""
        self._key_at = 0
        self.closed = False
        """Whether this side has sent its close frame."""
        self.stopped = False
        """Whether nothing of this side is passed on any more: it has closed, or the proxy closes."""
        self.broken = False
        """Whether this side broke the protocol, and is not read any more."""
        self.reader = FrameReader(self, masked=from_client, deflate=deflate)

    # Sink

    def on_frame(self, first: int, raw: bytes, head: int) -> None:
        session = self._session
        opcode = first & 0x0F
        if opcode >= CLOSE:
            session.on_control(self, opcode, raw, head)
            return
        if self.stopped:
            return
        if self._whole:
            self._collect(first, raw, head)
            return
        if self._utf8:
            self._check_text(first, raw, head)
        if first & 0x80:
            session.stats.count(self._from_client)
        session.write(self, raw)
        if session.unsaid:
            session.speak()

    def on_large(self, first: int, length: int, raw: bytes, head: int) -> bool:
        """In pieces where nobody has to see the whole; else it is held, as far as anything may be."""
        session = self._session
        if self.stopped:
            return True
        if self._whole:
            return self._refuses(length)
        self._key, self._key_at = raw[head - 4 : head] if self._from_client else b"", 0
        self._begin_text(first)
        self._decode(raw[head:], final=False)
        self._passing = True
        session.write(self, raw)
        return True

    def _refuses(self, length: int) -> bool:
        """Whether a message that goes on with a frame of that length is too large for what has to see it whole."""
        session = self._session
        most = session.terms.most
        size = length + (self._message.size if self._message else 0)
        if self._message is None and self._dropping:
            return True
        for check, rule in self._sizes:
            try:
                check.announced(size, length)
            except Rejection as rejection:
                self._dropping, self._message = True, None
                session.refused(rule, rejection, self)
                return True
        if size <= most:
            return False
        self._dropping, self._message = True, None
        session.violate(self._too_large(most), self)
        return True

    @property
    def held(self) -> int:
        """Bytes that wait to be judged."""
        return self.reader.held + (self._message.size if self._message else 0)

    @property
    def amid(self) -> bool:
        """Whether the other side has a frame's beginning and waits for its rest: nothing of ours may come between."""
        return self._passing

    @property
    def between(self) -> bool:
        """Whether a message of the proxy's own may come now: amid another's fragments only control frames may."""
        return not (self.closed or self.amid or (self.reader.message and not self._whole))

    def on_piece(self, data: bytes, ended: bool) -> None:
        session = self._session
        if self._dropping:
            self._dropping = not ended or bool(self.reader.message)
            return
        if self.stopped:
            return
        self._decode(data, final=ended and not self.reader.message)
        if ended and not self.reader.message:
            session.stats.count(self._from_client)
        session.write(self, data)
        if ended:
            self._passing = False
            session.on_frame_end()

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
            opcode = first & 0x0F
            if first & 0x80 and len(raw) <= self._most:
                self._judge(Message.of(opcode, raw, head, self._from_client, self._inflation))
                return
            message = self._message = Message(opcode, self._from_client, self._inflation)
        message.add(raw, head)
        if message.size > session.terms.most or message.fragments > MAX_FRAGMENTS:
            self._message, self._dropping = None, bool(self.reader.message)
            session.violate(self._too_large(session.terms.most), self)
        elif first & 0x80:
            self._message = None
            self._judge(message)

    def _judge(self, message: Message) -> None:
        """First whether it is what it says, which no rule's mode or action can change; then the rules."""
        session = self._session
        if self._verified(message):
            try:
                _ = message.payload
            except Rejection as rejection:
                session.violate(rejection, self)
                return
        exchange, now = session.exchange, session.last_activity
        apart = self._slow and message.size > OFF_LOOP
        failed: MessageRule | None = None
        for check, state, rule in self._checks:
            if rule is failed or (apart and isinstance(check, Inspected)):
                continue
            try:
                check.judge(state, exchange, message, now)
            except Rejection as rejection:
                if session.refused(rule, rejection, self):
                    return
                failed = rule
        if apart:
            self._judge_apart(message)
        else:
            self._judged(message)

    def _verified(self, message: Message) -> bool:
        """Whether its payload has to be good: UTF-8 (RFC 6455 section 8.1), and what it inflates to within bounds."""
        if message.compressed:
            return self._inspects
        return self._utf8 and message.opcode == TEXT

    def _judged(self, message: Message) -> None:
        if self._limits:
            self._ask(self._limits, message)
        else:
            self._pass(message)

    def _judge_apart(self, message: Message) -> None:
        """By a thread, so that nobody else waits; nothing more of this side is looked at meanwhile."""
        session = self._session
        self.reader.paused = True
        session.flow(self)
        loop = asyncio.get_running_loop()
        judging = loop.run_in_executor(None, self._refusals, message, session.last_activity)
        judging.add_done_callback(lambda done: self._on_judged(done, message))

    def _refusals(self, message: Message, now: float) -> list[tuple[MessageRule, Rejection]]:
        """Of inspection alone, which changes nothing: by rule, up to the first that enforces."""
        found: list[tuple[MessageRule, Rejection]] = []
        for check, state, rule in self._checks:
            if not isinstance(check, Inspected):
                continue
            try:
                check.judge(state, self._session.exchange, message, now)
            except Rejection as rejection:
                found.append((rule, rejection))
                if rule.rule.mode is Mode.ENFORCE:
                    break
        return found

    def _on_judged(self, done: asyncio.Future[list[tuple[MessageRule, Rejection]]], message: Message) -> None:
        session = self._session
        self.reader.paused = False
        if done.cancelled() or session.over:
            return
        error = done.exception()
        if self.stopped:
            pass
        elif error is not None:
            log.error("a message could not be judged", exc_info=error)
            session.close(INTERNAL, "the proxy failed on this message")
        elif not any(session.refused(rule, rejection, self) for rule, rejection in done.result()):
            self._judged(message)
        session.go_on(self)

    def _pass(self, message: Message) -> None:
        session = self._session
        if not self._from_client and session.is_slow(self):
            return
        session.stats.count(self._from_client)
        session.write(self, message.whole)

    def _ask(self, asked: tuple[MessageRule, ...], message: Message) -> None:
        """The limits that all sidecars share; nothing more of this side is looked at before they have answered."""
        session = self._session
        charges: list[Charge] = []
        owners: list[MessageRule] = []
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
            self._decided(decision, charges, owners, message)
            if not waiting:
                session.go_on(self)

        limiter.decide(charges, "-", decided)
        waiting = False
        if self.reader.paused:
            session.flow(self)

    def _decided(self, decision: Decision, charges: list[Charge], owners: list[MessageRule], message: Message) -> None:
        session = self._session
        if self.stopped or session.over:
            return
        usage = session.terms.usage
        for rule, charge, outcome in zip(owners, charges, decision.outcomes, strict=True):
            if usage is not None:
                usage[charge.quota.name].see(charge, outcome, session.last_activity)
            if outcome.admitted:
                continue
            if charge.quota.shadow:
                session.count_trial(charge.quota.name)
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
