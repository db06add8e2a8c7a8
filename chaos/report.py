"""A run as JSON, as a table, and as one page that needs nothing else: time lines with the fault shaded."""

from __future__ import annotations

import html
from typing import Any

from chaos.history import ANSWERED
from chaos.invariants import ALWAYS
from chaos.runner import Result

STEP = 0.5
WIDTH, HEIGHT, LEFT = 760, 90, 44
COLOURS = {"a": "#2563eb", "b": "#c2410c"}
STATES = {"closed": "#16a34a", "open": "#dc2626", "half_open": "#d97706", "half-open": "#d97706"}


def plain(result: Result) -> dict[str, Any]:
    """What the page and others need; times in seconds, latencies in milliseconds."""
    history = result.history
    length = max(history.ended, history.fault[1] + STEP)
    buckets = int(length / STEP) + 1
    series: dict[str, Any] = {}
    for pod in sorted({one.pod for one in history.requests}):
        mine = [one for one in history.requests if one.pod == pod]
        rows = []
        for number in range(buckets):
            inside = [one for one in mine if number * STEP <= one.at < (number + 1) * STEP]
            times = sorted(one.took * 1000 for one in inside if one.load == "probes")
            bad = sum(not one.good for one in inside)
            admitted = sum(one.load == "limited" and one.status == 200 and one.outcome == ANSWERED for one in inside)
            rows.append(
                {
                    "errors": bad / len(inside) if inside else 0.0,
                    "p50": times[len(times) // 2] if times else 0.0,
                    "p99": times[int(len(times) * 0.99)] if times else 0.0,
                    "admitted": admitted / STEP,
                }
            )
        states = [[round(one.at, 2), one.breaker] for one in history.samples if one.pod == pod]
        series[pod] = {"rows": rows, "breaker": states}
    return {
        "name": result.scenario.name,
        "about": result.scenario.about,
        "passed": result.passed,
        "broken": {name: what for name, what in result.broken.items() if what},
        "fault": [round(one, 2) for one in history.fault],
        "seconds": round(length, 1),
        "requests": len(history.requests),
        "messages": len(history.sent),
        "series": series,
    }


def table_of(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a scenario, a column an invariant."""
    lines = [f"| scenario | {' | '.join(ALWAYS)} |", f"|---|{'---|' * len(ALWAYS)}"]
    for one in results:
        marks = ["**x**" if name in one["broken"] else "ok" for name in ALWAYS]
        lines.append(f"| {one['name']} | {' | '.join(marks)} |")
    return "\n".join(lines)


def page(results: list[dict[str, Any]]) -> str:
    passed = sum(one["passed"] for one in results)
    rows = "".join(
        f'<tr><td><a href="#{one["name"]}">{html.escape(one["name"])}</a></td>'
        + "".join(
            f'<td class="{"bad" if name in one["broken"] else "good"}">{"no" if name in one["broken"] else "yes"}</td>'
            for name in ALWAYS
        )
        + "</tr>"
        for one in results
    )
    heads = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in ALWAYS)
    sections = "".join(_section(one) for one in results)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Chaos: {passed} of {len(results)} passed</title><style>{_STYLE}</style>"
        f"<h1>Chaos: {passed} of {len(results)} scenarios passed</h1>"
        "<p>Every link goes through toxiproxy; the grey span is the fault. Lines: pod a blue, pod b orange.</p>"
        f'<div class="wide"><table><thead><tr><th scope="col">scenario</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{sections}</html>"
    )


def _section(one: dict[str, Any]) -> str:
    broken = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(what)}</li>" for name, what in one["broken"].items()
    )
    charts = [
        _chart(one, "failed, share", [("errors", 1.0)], 1.0, "{:.0%}"),
        _chart(one, "probe latency, p50 and p99", [("p50", 0.45), ("p99", 1.0)], None, "{:.0f} ms"),
        _chart(one, "admitted by the shared limit, a second", [("admitted", 1.0)], None, "{:.0f}"),
        _breakers(one),
    ]
    mark = "passed" if one["passed"] else "failed"
    name, seen = html.escape(one["name"]), f"{one['requests']} requests, {one['messages']} messages"
    return (
        f'<section id="{name}"><h2 class="{mark}">{name} <small>{mark}</small></h2>'
        f"<p>{html.escape(one['about'])}. {seen}, {one['seconds']} s.</p>"
        f"<ul>{broken}</ul>{''.join(charts)}</section>"
    )


def _frame(one: dict[str, Any], title: str, height: int, inner: str) -> str:
    begin, end = (_x(one, at) for at in one["fault"])
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height + 16}" role="img" '
        f'aria-label="{html.escape(title)}"><rect x="{begin:.1f}" y="0" width="{max(1.0, end - begin):.1f}" '
        f'height="{height}" class="fault"/>{inner}<text x="{LEFT}" y="{height + 13}">0 s</text>'
        f'<text x="{WIDTH - 40}" y="{height + 13}">{one["seconds"]:.0f} s</text></svg></figure>'
    )


def _x(one: dict[str, Any], at: float) -> float:
    length = float(one["seconds"])
    return LEFT + (WIDTH - LEFT) * min(at, length) / length


def _chart(one: dict[str, Any], title: str, fields: list[tuple[str, float]], top: float | None, form: str) -> str:
    highest = top or max(
        [1.0, *(row[name] for pod in one["series"].values() for row in pod["rows"] for name, _ in fields)]
    )
    lines = [f'<text x="0" y="10">{form.format(highest)}</text><text x="0" y="{HEIGHT}">0</text>']
    for pod, series in one["series"].items():
        for name, opacity in fields:
            points = " ".join(
                f"{_x(one, (number + 0.5) * STEP):.1f},{HEIGHT - row[name] / highest * (HEIGHT - 4):.1f}"
                for number, row in enumerate(series["rows"])
            )
            lines.append(f'<polyline points="{points}" stroke="{COLOURS.get(pod, "#555")}" opacity="{opacity}"/>')
    return _frame(one, title, HEIGHT, "".join(lines))


def _breakers(one: dict[str, Any]) -> str:
    bars = []
    for row, (pod, series) in enumerate(one["series"].items()):
        bars.append(f'<text x="0" y="{row * 20 + 13}">pod {html.escape(pod)}</text>')
        for number, (at, state) in enumerate(series["breaker"]):
            until = series["breaker"][number + 1][0] if number + 1 < len(series["breaker"]) else one["seconds"]
            width = max(0.5, _x(one, until) - _x(one, at))
            bars.append(
                f'<rect x="{_x(one, at):.1f}" y="{row * 20 + 3}" width="{width:.1f}" height="14" '
                f'fill="{STATES.get(state, "#555")}"><title>{html.escape(state)}</title></rect>'
            )
    return _frame(one, "breakers: green closed, red open, amber half open", 44, "".join(bars))


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#1f2937;background:#fff}
table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .5rem;border-bottom:1px solid #e5e7eb;text-align:left}
.wide{overflow-x:auto}.good{color:#15803d}.bad{color:#fff;background:#b91c1c}h2.failed small{color:#b91c1c}
h2.passed small{color:#15803d}section{border-top:1px solid #d1d5db;margin-top:2rem}figure{margin:1rem 0}
figcaption{font-size:13px;color:#4b5563}svg{width:100%;height:auto}svg text{font-size:10px;fill:#6b7280}
polyline{fill:none;stroke-width:1.5}.fault{fill:#e5e7eb}a{color:#1d4ed8}
"""
