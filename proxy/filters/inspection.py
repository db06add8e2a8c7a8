"""What a request says, read as its application will read it: refused where it is malformed, or looks like an attack."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field

from proxy.exchange import Exchange, Payload
from proxy.filter import Filter, Rule
from proxy.inspect.bodies import BodyTerms, Malformed, inflated, parts_of
from proxy.inspect.detector import Detector, Finding
from proxy.inspect.parts import Part, decoded, pairs, torn, unfolded
from proxy.rejection import AttackSuspected, BodyTooLarge, InvalidBody, UnsupportedMediaType

SKIPPED = frozenset(
    b"host connection content-length content-type content-encoding transfer-encoding authorization accept-encoding "
    b"upgrade sec-websocket-key sec-websocket-version sec-websocket-extensions if-modified-since if-unmodified-since "
    b"if-none-match if-match date dnt te keep-alive expect pragma upgrade-insecure-requests".split()
)
LESS = frozenset({"cookie", "agent"})
"""Places that are full of what looks odd and is honest: what is not certain counts half there."""
MAX_KNOWN = 8192
MAX_KNOWN_LENGTH = 1024
ONE_LINE = frozenset({"path", "header", "cookie", "agent"})
SHORTEST = 8
"""Letters and digits of which nothing can be hidden Base64."""
TOGETHER_FROM, TOGETHER_MOST = 3, 256 * 1024
OFF_LOOP = 32 * 1024
"""Bodies from which on they are read by a thread, so that nobody else waits."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """`rule` is a finding's name, or its beginning before `*`; `pointer` a parameter or JSON Pointer and all below it;
    `place` where. What is empty is any."""

    rule: str = ""
    pointer: str = ""
    place: str = ""

    def covers(self, finding: Finding, part: Part) -> bool:
        if self.place and self.place != part.place:
            return False
        if self.rule and not (
            finding.name.startswith(self.rule[:-1]) if self.rule.endswith("*") else finding.name == self.rule
        ):
            return False
        pointer = part.pointer.lstrip("/")
        wanted = self.pointer.lstrip("/")
        return not wanted or pointer == wanted or pointer.startswith(wanted + "/")


@dataclass(frozen=True, slots=True)
class Scored:
    """The worst value of a request: where it stands, what it is worth, and for what."""

    score: float
    part: Part
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    detector: Detector
    threshold: float
    exclusions: tuple[Exclusion, ...] = ()
    headers: bool = True
    timeout: float = 1.0
    on_timeout: str = "refuse"
    most: int = 1024 * 1024
    on_oversize: str = "refuse"
    """`refuse`, `pass`, or `head`: judged by its first bytes."""
    body: BodyTerms = field(default_factory=BodyTerms)


class Judge:
    """Scores values by the terms; shared by the filter, the rules on messages and the command line."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._detector = terms.detector

    def score(self, part: Part) -> Scored:
        look = self._detector.look_at_name if part.key else self._detector.look
        findings = look(part.value, part.place)
        if not findings:
            return Scored(0.0, part, ())
        if part.only:
            findings = [one for one in findings if one.kind == part.only]
        if findings and self.terms.exclusions:
            findings = [one for one in findings if not any(two.covers(one, part) for two in self.terms.exclusions)]
        if part.place in LESS:
            findings = [
                one if one.score >= 5 else Finding(one.name, one.kind, one.score / 2, one.layers) for one in findings
            ]
        return Scored(sum(one.score for one in findings), part, tuple(findings))

    def worst(self, parts: Iterable[Part]) -> Scored | None:
        """The first that reaches the threshold, else None. Many values are looked at together first."""
        found = list(parts)
        texts = [one.value for one in found if not one.key and one.place not in ONE_LINE]
        if len(texts) >= TOGETHER_FROM and sum(map(len, texts)) <= TOGETHER_MOST and self._detector.harmless(texts):
            found = [one for one in found if one.key or one.place in ONE_LINE]
        for part in found:
            if part.value and not (part.value.isalnum() and len(part.value) < SHORTEST and part.value.isascii()):
                scored = self.score(part)
                if scored.score >= self.terms.threshold:
                    return scored
        return None


def head_parts(path: bytes, query: bytes) -> Iterable[Part]:
    """Of the target: the whole path, its segments where one may hide something, and the query's names and values."""
    text = decoded(path.replace(b"+", b"%2B").decode("latin-1"))
    yield Part("path", "", text)
    if (len(text) > 1 and not text.isascii()) or any(one in text for one in "<>'\"{}()|;`$=&*\n\r"):
        yield Part("path", "", text[1:])
    for segment in text.split("/"):
        if len(segment) >= 12:
            yield Part("path", "", segment)
    if query:
        raw = query.decode("latin-1")
        for name, value in pairs(raw):
            yield Part("query", name, name, key=True)
            if value:
                yield from unfolded("query", name, value)
        if "&&" in raw or "&%20" in raw or "&+" in raw:
            yield Part("query", "", decoded(raw))
        elif torn(raw):
            yield Part("query", "", decoded(raw), only="xss")


def header_parts(pairs_of: Sequence[tuple[bytes, bytes]]) -> Iterable[Part]:
    for name, value in pairs_of:
        if name == b"cookie":
            for item in value.decode("latin-1").split(";"):
                key, _, one = item.strip().partition("=")
                if one:
                    yield from unfolded("cookie", key, decoded(one.replace("+", "%2B")) if "%" in one else one)
        elif name not in SKIPPED:
            place = "agent" if name in (b"user-agent", b"referer") else "header"
            text = value.decode("utf-8", "replace")
            if place == "agent" and "://" in text[:12]:
                yield from unfolded(place, name.decode("latin-1"), text)
            else:
                yield Part(place, name.decode("latin-1"), text)


class Inspection(Filter):
    """`validation` refuses what is malformed, `detection` what looks like an attack; either may be None."""

    __slots__ = ("_detection", "_judge", "_known", "_terms", "_validation")

    def __init__(self, validation: Rule | None, detection: Rule | None, terms: Terms) -> None:
        self._validation = validation
        self._detection = detection
        self._terms = terms
        self._judge = Judge(terms)
        self._known: set[tuple[bytes, bytes]] = set()
        """Header fields, paths and cookies that were looked at and found harmless."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(one for one in (self._validation, self._detection) if one is not None)

    def on_request(self, exchange: Exchange) -> None:
        if self._detection is None:
            return
        known = self._known
        target = (exchange.path, exchange.query)
        if target not in known:
            scored = self._judge.worst(head_parts(exchange.path, exchange.query))
            if scored is not None:
                self._refuse(exchange, scored)
            elif len(exchange.query) < MAX_KNOWN_LENGTH:
                self._remember(target)
        if self._terms.headers:
            fresh = [pair for pair in exchange.headers.pairs if pair not in known and pair[0] not in SKIPPED]
            if fresh:
                scored = self._judge.worst(header_parts(fresh))
                if scored is not None:
                    self._refuse(exchange, scored)
                    return
                for pair in fresh:
                    if len(pair[1]) < MAX_KNOWN_LENGTH:
                        self._remember(pair)

    def _remember(self, what: tuple[bytes, bytes]) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known.add(what)

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        body = payload.data
        if not body:
            return None
        if len(body) > self._terms.most:
            if self._terms.on_oversize == "refuse":
                rule = self._validation or self._detection
                if rule is not None:
                    rule.refuse(exchange, BodyTooLarge(f"only bodies of {self._terms.most} bytes are inspected"))
                return None
            if self._terms.on_oversize == "pass":
                return None
            body = body[: self._terms.most]
        if len(body) > OFF_LOOP:
            return self._apart(exchange, body)
        self._settle(exchange, self._read(exchange, body))
        return None

    async def _apart(self, exchange: Exchange, body: bytes) -> None:
        try:
            async with asyncio.timeout(self._terms.timeout):
                found = await asyncio.to_thread(self._read, exchange, body)
        except TimeoutError:
            rule = self._detection or self._validation
            if self._terms.on_timeout == "refuse" and rule is not None:
                rule.refuse(
                    exchange, AttackSuspected("the body could not be inspected in time", remedy="Send it in parts.")
                )
            return
        self._settle(exchange, found)

    def _read(self, exchange: Exchange, body: bytes) -> Malformed | Scored | None:
        index = exchange.headers.index
        terms = self._terms.body
        strict = self._validation is not None
        try:
            encoding = index.get(b"content-encoding", b"").strip().lower()
            if encoding not in (b"", b"identity"):
                body = self._inflated(encoding, body, strict=strict)
            parts = parts_of(index.get(b"content-type", b""), body, terms, strict=strict)
        except Malformed as error:
            return error
        return self._judge.worst(parts) if self._detection is not None else None

    def _inflated(self, encoding: bytes, body: bytes, *, strict: bool) -> bytes:
        """Where nothing has to be well-formed, what is not compressed as it says is looked at as it is."""
        try:
            return inflated(encoding, body, self._terms.body)
        except Malformed as error:
            if strict or error.status == 413:
                raise
            return body

    def _settle(self, exchange: Exchange, found: Malformed | Scored | None) -> None:
        if isinstance(found, Malformed):
            where = f" at {found.pointer}" if found.pointer else ""
            kind = {413: BodyTooLarge, 415: UnsupportedMediaType}.get(found.status, InvalidBody)
            rule = self._validation or self._detection
            if rule is not None:
                rule.refuse(exchange, kind(f"{found.detail}{where} ({found.check})"))
        elif found is not None:
            self._refuse(exchange, found)

    def _refuse(self, exchange: Exchange, scored: Scored) -> None:
        if self._detection is not None:
            self._detection.refuse(exchange, suspicion(scored))


def suspicion(scored: Scored) -> AttackSuspected:
    """Which rules, where, and what it came to; nothing of what was sent."""
    names = ", ".join(sorted(one.name for one in scored.findings)[:6])
    pointer = "".join(one if one.isalnum() or one in "_-./[]" else "?" for one in scored.part.pointer[:80])
    where = scored.part.place + (f" {pointer}" if pointer else "")
    return AttackSuspected(f"{names} in {where}, score {scored.score:g}")
