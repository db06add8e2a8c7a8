"""`simplepro-proxy replay`: recorded requests under another policy, and each verdict that would change.

A log holds no credentials, queries, bodies or addresses, so what needs those is not compared: who somebody is, limits
and bans, and what the upstream's state decides. Such requests are counted and told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.control.sandbox import Asked, Sandbox, Verdicts
from proxy.policy.model import Policy

BEYOND = frozenset({
    "rate-limited", "banned", "unauthenticated", "breaker-open", "overloaded", "draining", "upstream-unavailable",
    "upstream-busy", "upstream-reset", "upstream-timeout", "invalid-upstream-response", "answer-withheld",
    "deadline-exceeded", "slow-client", "too-many-connections", "internal-error", "body-too-large", "invalid-body",
    "contract-violation", "attack-suspected", "message-refused", "message-too-large", "invalid-payload",
    "slow-consumer",
})  # fmt: skip
"""Reasons that a log's fields can't bring about again."""


@dataclass(frozen=True, slots=True)
class Record:
    line: int
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """`before` and `after` in words."""

    record: Record
    before: str
    after: str

    def __str__(self) -> str:
        return f"line {self.record.line}: {self.record.method} {self.record.path}: {self.before} → {self.after}"


@dataclass(slots=True)
class Report:
    compared: int = 0
    beyond: int = 0
    unread: int = 0
    changes: list[Change] = field(default_factory=list)


def records(lines: Iterable[bytes]) -> Iterator[Record | None]:
    """None for a line that is no record of a request."""
    for number, line in enumerate(lines, 1):
        try:
            told = orjson.loads(line)
            if told.get("event") != "request":
                continue
            headers = tuple((str(name), str(value)) for name, value in (told.get("headers") or {}).items())
            yield Record(number, told["method"], told["path"], headers, str(told.get("rejection", "")))
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            yield None


def comparable(policy: Policy) -> Policy:
    """Without what a log's records could never pass: credentials, and limits on how many of them come."""
    policies = {
        name: one.model_copy(update={"limits": {}, "bans": None, "openapi": None})
        for name, one in policy.policies.items()
    }
    routes = {name: one.model_copy(update={"limits": {}}) for name, one in policy.routes.items()}
    return policy.model_copy(update={"identity": None, "policies": policies, "routes": routes})


async def replay(lines: Iterable[bytes], candidate: Policy, current: Policy | None = None) -> Report:
    """Against what was recorded, or where `current` is given against what that says of the same requests."""
    report = Report()
    known: dict[tuple[object, ...], tuple[Verdicts, Verdicts | None]] = {}
    async with Sandbox(comparable(candidate)) as new:
        old = await Sandbox(comparable(current)).__aenter__() if current is not None else None
        try:
            for record in records(lines):
                if record is None:
                    report.unread += 1
                    continue
                if old is None and record.reason in BEYOND:
                    report.beyond += 1
                    continue
                key = (record.method, record.path, record.headers)
                if key not in known:
                    asked = Asked(record.method, record.path, record.headers)
                    known[key] = await new.ask(asked), (await old.ask(asked) if old is not None else None)
                after, before = known[key]
                _compare(report, record, after, before)
        finally:
            if old is not None:
                await old.__aexit__(None, None, None)
    return report


def _compare(report: Report, record: Record, after: Verdicts, before: Verdicts | None) -> None:
    reason = before.reason if before is not None else record.reason
    if reason in BEYOND or after.reason in BEYOND:
        report.beyond += 1
        return
    report.compared += 1
    told = (before.rule or "passed") if before is not None else ""
    same = reason == after.reason and (before is None or before.rule == after.rule)
    if not same:
        was = told if before is not None and not before.rule else before.word if before is not None else ""
        words = was or (f"refused ({reason})" if reason else "passed")
        report.changes.append(Change(record, words, after.word if after.rule else "passed"))


def summary(report: Report) -> dict[str, Any]:
    return {
        "compared": report.compared, "changed": len(report.changes), "not_comparable": report.beyond,
        "unread_lines": report.unread,
        "changes": [
            {"line": one.record.line, "method": one.record.method, "path": one.record.path, "before": one.before,
             "after": one.after}
            for one in report.changes
        ],
    }  # fmt: skip
