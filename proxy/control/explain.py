"""`simplepro-proxy explain`: what a policy makes of one request, filter by filter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from proxy.control.sandbox import Verdicts


def as_json(verdicts: Verdicts, revision: str) -> dict[str, Any]:
    told: dict[str, Any] = {"revision": revision, "verdict": verdicts.word, **asdict(verdicts)}
    told["body"] = verdicts.body.decode("utf-8", "replace")
    if verdicts.upstream is not None:
        told["upstream"]["body"] = verdicts.upstream.body.decode("utf-8", "replace")
    return told


def as_lines(verdicts: Verdicts, revision: str) -> list[str]:
    """For people; the widest names set the columns."""
    where = f"route {verdicts.route}" if verdicts.route else "no route"
    lines = [f"{where}, revision {revision}"]
    steps = [(one["filter"], one["verdict"], ", ".join(one["rules"])) for one in verdicts.filters]
    width = max((len(name) for name, _, _ in steps), default=0)
    lines += [f"  {name:{width}}  {verdict:11}  {rules}".rstrip() for name, verdict, rules in steps]
    for limit in verdicts.limits:
        seconds = limit["window_ms"] / 1000
        span = f"in {seconds:g} s" if seconds else "at once"
        word = "admitted" if limit["admitted"] else "denied"
        lines.append(
            f"  limit {limit['limit']}: {word}, {limit['remaining']} of {limit['amount']} {span} left, "
            f"key {limit['key']}, cost {limit['cost']}, source {limit['source']}"
        )
    lines += [f"  would be refused by {rule} (shadow)" for rule in verdicts.shadow]
    lines += [f"  changed by {change}" for change in verdicts.changes]
    if verdicts.cache:
        lines.append(f"  cache: {verdicts.cache}")
    if verdicts.rule:
        lines.append(f"refused: {verdicts.status} {verdicts.reason} by {verdicts.rule}: {verdicts.detail}")
        if verdicts.remedy:
            lines.append(f"remedy: {verdicts.remedy}")
    elif verdicts.upstream is not None:
        reached = verdicts.upstream
        lines.append(f"passed: {reached.method} {reached.target} goes to cluster {verdicts.cluster}")
    else:
        lines.append(f"answered by the proxy: {verdicts.status}")
    return lines
