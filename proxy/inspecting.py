"""`simplepro-proxy inspect`: a request in a file, value by value, as its route's filter judges it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from proxy.filters.inspection import Inspection
from proxy.inspect.bodies import Malformed, read_body
from proxy.inspect.judge import Judge
from proxy.inspect.parts import Part, head_parts, header_parts
from proxy.inspect.profile import Usual


def parsed(raw: bytes) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
    """Method, target, header fields and body of a request as it travels; bare line feeds are taken, too."""
    head, _, body = raw.partition(b"\r\n\r\n") if b"\r\n\r\n" in raw else raw.partition(b"\n\n")
    first, *lines = head.decode("latin-1").splitlines()
    method, target, *_ = (*first.split(" "), "/", "/")
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines)]
    return method, target, [(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields], body


def inspected(
    filter_: Inspection,
    route: str,
    path: bytes,
    query: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    body: bytes,
    *,
    every: bool,
) -> tuple[list[str], bool]:
    """Lines to show, and whether one of them is a refusal."""
    parts: list[Part] = [*head_parts(path, query), *header_parts(fields)]
    lines: list[str] = []
    index: Mapping[bytes, bytes] = dict(fields)
    if body:
        try:
            parts += read_body(index, body, filter_.terms.body, strict=filter_.strict)
        except Malformed as error:
            lines.append(f"refused  {error.status}  {error.check}: {error.detail} {error.pointer}".rstrip())
            parts += read_body(index, body, filter_.terms.body, strict=False)
    shown, refused = _table(filter_.judge, filter_.usual(route), parts, every=every)
    return [*lines, *shown] or ["nothing is found"], refused or bool(lines)


def _table(judge: Judge, usual: Usual, parts: Iterable[Part], *, every: bool) -> tuple[list[str], bool]:
    lines, refused = [], False
    for part in parts:
        scored = judge.score(part, usual)
        over = scored.score >= judge.threshold
        refused = refused or over
        if scored.findings or every:
            names = ", ".join(f"{one.name} {one.score:g}" for one in scored.findings) or "-"
            what = "name" if part.key else "value"
            verdict = "refused" if over else "passed"
            lines.append(f"{verdict:8} {scored.score:4g}  {part.place} {part.pointer} ({what})  {names}")
    return lines, refused
