"""`simplepro-proxy inspect`: a request in a file, value by value, as the policy of its route judges it."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.filters.inspection import SKIPPED, Judge, head_parts, header_parts
from proxy.inspect.bodies import Malformed, parts_of
from proxy.inspect.parts import Part
from proxy.policy.inspect import terms_of
from proxy.policy.model import Policy, PolicySet


def inspected(policy: Policy, raw: bytes, *, every: bool) -> tuple[list[str], bool]:
    """Lines to show, and whether the request would be refused. The sets of `defaults.use` are asked, or all sets where
    those inspect nothing."""
    head, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, *fields = head.split(b"\n")
    target = first.split(b" ")[1] if first.count(b" ") >= 1 else b"/"
    path, _, query = target.partition(b"?")
    pairs = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(b":") for line in fields) if n]
    merged = _asked(policy)
    if merged.inspect is None:
        return ["no policy set of this file inspects anything"], False
    judge = Judge(terms_of(merged.inspect, merged.validation))
    lines: list[str] = []
    parts: list[Part] = [*head_parts(path, query), *header_parts([one for one in pairs if one[0] not in SKIPPED])]
    malformed = False
    if body:
        try:
            kind = dict(pairs).get(b"content-type", b"")
            parts += parts_of(kind, body, judge.terms.body, strict=merged.validation is not None)
        except Malformed as error:
            malformed = True
            lines.append(f"refused  {error.status}  {error.check}: {error.detail} {error.pointer}".rstrip())
    shown, refused = _table(judge, parts, every=every)
    return [*lines, *shown], refused or malformed


def _asked(policy: Policy) -> PolicySet:
    merged = policy.combined(policy.defaults.use)
    if merged.inspect is None:
        merged = policy.combined([name for name, one in policy.policies.items() if one.inspect or one.validation])
    return merged


def _table(judge: Judge, parts: Iterable[Part], *, every: bool) -> tuple[list[str], bool]:
    lines, refused = [], False
    for part in parts:
        scored = judge.score(part)
        over = scored.score >= judge.terms.threshold
        refused = refused or over
        if scored.findings or every:
            names = ", ".join(f"{one.name} {one.score:g}" for one in scored.findings) or "-"
            what = "name" if part.key else "value"
            lines.append(
                f"{'refused' if over else 'passed ':8} {scored.score:4g}  {part.place} {part.pointer} ({what})  {names}"
            )
    return lines or ["nothing is found"], refused
