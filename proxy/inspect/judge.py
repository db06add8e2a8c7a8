"""What the values of a request are worth together: the worst decides, and what is excluded does not count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.inspect.detector import Detector, Finding
from proxy.inspect.parts import Part
from proxy.inspect.profile import NOTHING, TEXT, Usual, kind_of, where
from proxy.rejection import AttackSuspected

LESS = frozenset({"cookie", "agent"})
"""Places that are full of what looks odd and is honest: what is not certain counts half there."""
ONE_LINE = frozenset({"path", "header", "cookie", "agent"})
SHORTEST = 8
"""Letters and digits of which nothing can be hidden Base64."""
TOGETHER_FROM, TOGETHER_MOST = 3, 256 * 1024
UNUSUAL = Finding("profile.unusual", "profile", 2)


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


def plain_names(names: str) -> bool:
    """Whether nothing can be found in names of which these are all the letters."""
    if not names.isascii() or "__proto__" in names or "prototype" in names:
        return False
    return names.replace("_", "").replace("-", "").isalnum()


class Judge:
    """Scores values; shared by the filter, the rules on messages and the command line."""

    def __init__(self, detector: Detector, threshold: float, exclusions: tuple[Exclusion, ...] = ()) -> None:
        self.threshold = threshold
        self._detector = detector
        self._exclusions = exclusions

    def score(self, part: Part, usual: Usual = NOTHING) -> Scored:
        """What is found in a value, weighed by what is usual there."""
        look = self._detector.look_at_name if part.key else self._detector.look
        findings = look(part.value, part.place)
        if part.key and part.value == "prototype" and part.pointer.endswith("/constructor"):
            findings = [*findings, Finding("node.prototype", "node", 5)]
        if not findings:
            return Scored(0.0, part, ())
        if part.only:
            findings = [one for one in findings if one.kind == part.only]
        if findings and self._exclusions:
            findings = [one for one in findings if not any(two.covers(one, part) for two in self._exclusions)]
        expected = usual.get(where(part)) if findings and usual and not part.key else None
        if part.place in LESS or expected == TEXT:
            findings = [
                one if one.score >= 5 else Finding(one.name, one.kind, one.score / 2, one.layers) for one in findings
            ]
        elif expected is not None and kind_of(part.value) > expected:
            findings = [*findings, UNUSUAL]
        return Scored(sum(one.score for one in findings), part, tuple(findings))

    def worst(self, parts: Iterable[Part], usual: Usual = NOTHING) -> Scored | None:
        """The first that reaches the threshold, else None. Many values are looked at together first."""
        found = list(parts)
        texts = [one.value for one in found if not one.key and one.place not in ONE_LINE]
        if len(texts) >= TOGETHER_FROM and sum(map(len, texts)) <= TOGETHER_MOST and self._detector.harmless(texts):
            found = [one for one in found if one.key or one.place in ONE_LINE]
        names = "".join([one.value for one in found if one.key])
        if names and plain_names(names):
            found = [one for one in found if not one.key]
        for part in found:
            short = len(part.value) < SHORTEST and part.value.isalnum() and part.value.isascii()
            if part.value and (not short or part.place == "agent"):
                scored = self.score(part, usual)
                if scored.score >= self.threshold:
                    return scored
        return None


def suspicion(scored: Scored) -> AttackSuspected:
    """Which rules, where, and what it came to; nothing of what was sent."""
    names = ", ".join(sorted(one.name for one in scored.findings)[:6])
    part = scored.part
    if part.key and part.pointer == part.value:
        where = f"a name in {part.place}"
    else:
        pointer = "".join(one if one.isalnum() or one in "_-./[]" else "?" for one in part.pointer[:80])
        where = part.place + (f" {pointer}" if pointer else "")
    return AttackSuspected(f"{names} in {where}, score {scored.score:g}")
