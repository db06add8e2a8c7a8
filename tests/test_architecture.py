"""Who may import whom (docs/architecture.md), over the ast."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "proxy.rejection": set(),
    "proxy.headers": set(),
    "proxy.entropy": set(),
    "proxy.addresses": set(),
    "proxy.target": {"proxy.rejection"},
    "proxy.exchange": {
        "proxy.headers",
        "proxy.routing",
        "proxy.filters.throttle",
        "proxy.filters.identity",
        "proxy.upstream.cluster",
    },
    "proxy.http1": {"proxy.http1", "proxy.headers", "proxy.rejection"},
    "proxy.filter": {"proxy.exchange", "proxy.rejection"},
    "proxy.filters": {
        "proxy.exchange",
        "proxy.filter",
        "proxy.rejection",
        "proxy.headers",
        "proxy.entropy",
        "proxy.addresses",
        "proxy.throttle.charge",
        "proxy.throttle.heavy",
        "proxy.fleet.board",
    },
    "proxy.batch": set(),
    "proxy.upstream": {
        "breaker",
        "proxy.batch",
        "proxy.exchange",
        "proxy.headers",
        "proxy.http1",
        "proxy.rejection",
        "proxy.telemetry.stats",
        "proxy.upstream",
    },
    "proxy.policy.model": {"proxy.policy.models", "proxy.policy.values"},
    "proxy.policy.models": {"proxy.policy.models", "proxy.policy.values", "proxy.policy.rates"},
    "proxy.policy.rates": set(),
    "proxy.throttle": {"proxy.throttle", "proxy.batch", "proxy.telemetry.stats"},
    "proxy.fleet": {"proxy.fleet", "proxy.throttle"},
    "breaker": {"breaker"},
    "proxy.fleet.board": set(),
    "proxy.telemetry.stats": set(),
}
FOREIGN = {"proxy.filters": {"aiohttp", "redis"}, "proxy.listener": {"aiohttp", "redis"}}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("proxy", "upstream_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((name.removesuffix(".__init__"), path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports(name: str, path: Path) -> None:
    used = imports(path)
    other = "upstream_app" if name.startswith("proxy") else "proxy"
    assert not {one for one in used if within(one, {other})}, (
        "proxy and application know each other over the network only"
    )
    for room, allowed in ALLOWED.items():
        if within(name, {room}):
            strangers = {one for one in used if within(one, {"proxy"}) and not within(one, allowed | {name})}
            own = {
                one for one in strangers if room == "proxy.filters" and name == "proxy.filters" and within(one, {room})
            }
            assert not strangers - own, f"{name} may not know {strangers - own}"
    for room, foreign in FOREIGN.items():
        if within(name, {room}):
            assert not {one for one in used if within(one, foreign)}
