"""A policy's `leaks`, `reflection` and `cookies` to the filters that run."""

from __future__ import annotations

from proxy.filter import Mode, Rule
from proxy.filters.answers import AnswerInspection, Leaks, Reflection
from proxy.filters.cookies import CookieTerms
from proxy.inspect.leaks import LeakDetector
from proxy.policy.models.answers import CookiesModel, LeaksModel, ReflectionModel


def answers_of(
    leaks: LeaksModel | None, leaks_rule: Rule | None, reflection: ReflectionModel | None, reflection_rule: Rule | None
) -> AnswerInspection | None:
    """None where neither is on."""
    first = second = None
    if leaks is not None and leaks_rule is not None and leaks_rule.mode is not Mode.OFF:
        first = Leaks(leaks_rule, LeakDetector(leaks.kinds), leaks.max_body)
    if reflection is not None and reflection_rule is not None and reflection_rule.mode is not Mode.OFF:
        second = Reflection(reflection_rule, reflection.do == "escape", reflection.max_body)
    return None if first is None and second is None else AnswerInspection(first, second)


def cookie_terms(model: CookiesModel) -> CookieTerms:
    return CookieTerms(
        model.secure,
        model.http_only,
        frozenset(one.encode() for one in model.scripted),
        None if model.same_site == "keep" else model.same_site.encode(),
        frozenset(one.encode() for one in model.domains),
    )
