"""What the upstream says, read before it goes out: secrets, traces of failures, a request's markup in a page.

Where its rules only shadow, an answer passes as it comes, and its first bytes are looked at on the way; where one
enforces, those wait until they are judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.exchange import Exchange, Response
from proxy.filter import Filter, Mode, Rule, Watch
from proxy.inspect.leaks import LeakDetector, dangerous, escaped, inflated_start, repeated
from proxy.rejection import AnswerWithheld

READ = (b"text/", b"application/json", b"application/problem+json", b"application/xml", b"application/xhtml+xml",
        b"application/javascript")  # fmt: skip
PAGES = (b"text/html", b"application/xhtml+xml")
ENDLESS = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Leaks:
    """`most` is how many bytes of an answer are looked at."""

    rule: Rule
    detector: LeakDetector
    most: int


@dataclass(frozen=True, slots=True)
class Reflection:
    """`escapes` makes text of what a page repeats; else the answer is withheld."""

    rule: Rule
    escapes: bool
    most: int


class AnswerInspection(Filter):
    """One of the two may be None."""

    __slots__ = ("_leaks", "_reflection")

    def __init__(self, leaks: Leaks | None, reflection: Reflection | None) -> None:
        self._leaks = leaks
        self._reflection = reflection

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(one.rule for one in (self._leaks, self._reflection) if one is not None)

    def on_answer(self, exchange: Exchange, response: Response) -> Watch | None:
        kind = response.headers.index.get(b"content-type", b"").lstrip().lower()
        if not kind.startswith(READ) and b"+json" not in kind:
            return None
        leaks, reflection = self._leaks, self._reflection
        values = dangerous(exchange.query) if reflection is not None and kind.startswith(PAGES) else []
        if not values:
            reflection = None
        return None if leaks is None and reflection is None else AnswerWatch(
            exchange, response, leaks, reflection, values, endless=kind.startswith(ENDLESS)
        )  # fmt: skip


class AnswerWatch(Watch):
    __slots__ = ("_exchange", "_leaks", "_reflection", "_response", "_values")

    def __init__(
        self, exchange: Exchange, response: Response, leaks: Leaks | None, reflection: Reflection | None,
        values: list[str], *, endless: bool,
    ) -> None:  # fmt: skip
        there = [one for one in (leaks, reflection) if one is not None]
        enforces = any(one.rule.mode is Mode.ENFORCE for one in there)
        super().__init__(max(one.most for one in there), holds=enforces and not endless)
        self._exchange = exchange
        self._response = response
        self._leaks = leaks
        self._reflection = reflection
        self._values = values

    def judge(self, seen: bytes, *, whole: bool) -> bytes:
        exchange = self._exchange
        encoding = self._response.headers.index.get(b"content-encoding", b"").strip().lower()
        text = inflated_start(encoding, seen, self.most)
        leaks, reflection = self._leaks, self._reflection
        if leaks is not None:
            for name in leaks.detector.find(text):
                self._refuse(leaks.rule, f"the application's answer holds what should not leave it: {name}")
        if reflection is not None and (found := repeated(self._values, text)):
            if reflection.escapes and whole and text is seen:
                reflection.rule.changed(exchange, "reflection escaped")
                return escaped(seen, found) if reflection.rule.mode is Mode.ENFORCE else seen
            self._refuse(reflection.rule, "the page would repeat markup that the request brought")
        return seen

    def _refuse(self, rule: Rule, detail: str) -> None:
        """What went out already can't be withheld any more: that is only told."""
        if self.holds:
            rule.refuse(self._exchange, AnswerWithheld(detail))
        else:
            rule.saw(self._exchange, AnswerWithheld(detail))
