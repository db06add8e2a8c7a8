"""What a request says, read as its application will read it: refused where it is malformed, or looks like an attack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from proxy.exchange import Exchange, Payload
from proxy.filter import Filter, Mode, Rule
from proxy.inspect.bodies import BodyTerms, Malformed, read_body
from proxy.inspect.judge import Judge, Scored, suspicion
from proxy.inspect.parts import SKIPPED, Part, head_parts, header_parts
from proxy.inspect.profile import NOTHING, Lessons, Usual
from proxy.rejection import AttackSuspected, BodyTooLarge, InvalidBody, UnsupportedMediaType

MAX_KNOWN = 8192
MAX_KNOWN_LENGTH = 1024
OFF_LOOP = 8 * 1024
"""Bodies from which on they are read by a thread, so that nobody else waits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """`most` is how much of a body is read; `on_oversize` what becomes of a larger one: `refuse`, `pass`, or `head`,
    judged by its first bytes."""

    headers: bool = True
    timeout: float = 1.0
    on_timeout: str = "refuse"
    most: int = 1024 * 1024
    on_oversize: str = "refuse"
    body: BodyTerms = field(default_factory=BodyTerms)


class Inspection(Filter):
    """`validation` refuses what is malformed, `detection` what looks like an attack; one of them may be None."""

    __slots__ = ("_detection", "_known", "_usual", "_validation", "judge", "terms")

    def __init__(
        self,
        validation: Rule | None,
        detection: Rule | None,
        judge: Judge,
        terms: Terms,
        usual: Mapping[str, Usual] = MappingProxyType({}),
    ) -> None:
        """`usual` is what parameters hold, by route."""
        self._validation = validation
        self._detection = detection
        self.judge = judge
        self.terms = terms
        self._usual = usual
        self._known: set[tuple[bytes, bytes]] = set()
        """Header fields and targets that were looked at and found harmless."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(one for one in (self._validation, self._detection) if one is not None)

    @property
    def strict(self) -> bool:
        """Whether a body has to be what its media type says."""
        return self._validation is not None

    def on_request(self, exchange: Exchange) -> None:
        if self._detection is None:
            return
        known = self._known
        target = (exchange.path, exchange.query)
        if target not in known:
            self._look(exchange, self._detection, self._worst(exchange, head_parts(*target)), [target])
        if self.terms.headers:
            fresh = [pair for pair in exchange.headers.pairs if pair not in known and pair[0] not in SKIPPED]
            if fresh:
                self._look(exchange, self._detection, self._worst(exchange, header_parts(fresh)), fresh)

    def usual(self, route: str) -> Usual:
        return self._usual.get(route, NOTHING)

    def _worst(self, exchange: Exchange, parts: Iterable[Part]) -> Scored | None:
        usual = self._usual and exchange.route is not None and self._usual.get(exchange.route.name)
        return self.judge.worst(parts, usual or NOTHING)

    def _look(
        self, exchange: Exchange, rule: Rule, scored: Scored | None, looked_at: list[tuple[bytes, bytes]]
    ) -> None:
        if scored is not None:
            rule.refuse(exchange, suspicion(scored))
            return
        known = self._known
        if len(known) + len(looked_at) > MAX_KNOWN:
            known.clear()
        known.update([one for one in looked_at if len(one[0]) + len(one[1]) <= MAX_KNOWN_LENGTH][:MAX_KNOWN])

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        body, terms = payload.data, self.terms
        whole = len(body) <= terms.most
        if not body or (not whole and terms.on_oversize == "pass"):
            return None
        if not whole and terms.on_oversize == "refuse":
            for rule in self.rules:
                rule.refuse(exchange, BodyTooLarge(f"only bodies of {terms.most} bytes are inspected"))
            return None
        if len(body) > OFF_LOOP:
            return self._apart(exchange, body[: terms.most], whole=whole)
        self._settle(exchange, *self._read(exchange, body, whole=whole))
        return None

    async def _apart(self, exchange: Exchange, body: bytes, *, whole: bool) -> None:
        """By a thread; what waits for one is given up with the request, or when its time is over."""
        try:
            async with asyncio.timeout(self.terms.timeout):
                malformed, scored = await asyncio.to_thread(self._read, exchange, body, whole=whole)
        except TimeoutError:
            if self.terms.on_timeout == "refuse":
                for rule in self.rules:
                    late = "the body could not be inspected in time"
                    rule.refuse(exchange, AttackSuspected(late, remedy="Send it in parts."))
            return
        self._settle(exchange, malformed, scored)

    def _read(self, exchange: Exchange, body: bytes, *, whole: bool) -> tuple[Malformed | None, Scored | None]:
        """What is cut is not judged for its form. A malformed body is still looked at, where it will not be refused
        for that."""
        index, malformed = exchange.headers.index, None
        if self._validation is not None and whole:
            try:
                parts = read_body(index, body, self.terms.body, strict=True, looks=self._detection is not None)
            except Malformed as error:
                malformed = error
                if self._validation.mode is Mode.ENFORCE or self._detection is None:
                    return malformed, None
                parts = read_body(index, body, self.terms.body, strict=False)
        elif self._detection is not None:
            parts = read_body(index, body, self.terms.body, strict=False, cut=not whole)
        else:
            return None, None
        return malformed, self._worst(exchange, parts) if self._detection is not None else None

    def _settle(self, exchange: Exchange, malformed: Malformed | None, scored: Scored | None) -> None:
        if malformed is not None and self._validation is not None:
            where = f" at {malformed.pointer}" if malformed.pointer else ""
            kind = {413: BodyTooLarge, 415: UnsupportedMediaType}.get(malformed.status, InvalidBody)
            self._validation.refuse(exchange, kind(f"{malformed.detail}{where} ({malformed.check})"))
        if scored is not None and self._detection is not None:
            self._detection.refuse(exchange, suspicion(scored))


class LearningInspection(Inspection):
    """Learns what parameters hold from requests that nobody had anything against, the application included. It looks at
    all of them anew, also at what is known."""

    __slots__ = ("_lessons",)

    def __init__(
        self,
        lessons: Lessons,
        validation: Rule | None,
        detection: Rule | None,
        judge: Judge,
        terms: Terms,
        usual: Mapping[str, Usual] = MappingProxyType({}),
    ) -> None:
        super().__init__(validation, detection, judge, terms, usual)
        self._lessons = lessons

    def _worst(self, exchange: Exchange, parts: Iterable[Part]) -> Scored | None:
        found = list(parts)
        exchange.looked_at = [*exchange.looked_at, *found]
        return super()._worst(exchange, found)

    def _look(
        self, exchange: Exchange, rule: Rule, scored: Scored | None, looked_at: list[tuple[bytes, bytes]]
    ) -> None:
        if scored is not None:
            rule.refuse(exchange, suspicion(scored))

    def on_complete(self, exchange: Exchange) -> None:
        if exchange.looked_at and exchange.route is not None and exchange.status < 400 and not exchange.verdicts:
            self._lessons.learn(exchange.route.name, exchange.looked_at)
