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
    "proxy.process": set(),
    "proxy.serving": {"proxy.app", "proxy.policy.model", "proxy.workers.link"},
    "proxy.sharing": {
        "proxy.fleet.board",
        "proxy.fleet.breakers",
        "proxy.fleet.redis",
        "proxy.throttle.distributed",
        "proxy.upstream.cluster",
        "proxy.workers.link",
    },
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
        "proxy.inspect",
        "proxy.origins",
        "proxy.throttle.charge",
        "proxy.throttle.heavy",
        "proxy.fleet.board",
    },
    "proxy.inspect": {"proxy.inspect", "proxy.rejection"},
    "proxy.cache.fields": set(),
    "proxy.cache.freshness": {"proxy.cache.fields", "proxy.headers"},
    "proxy.cache.store": {"proxy.cache.freshness", "proxy.headers"},
    "proxy.cache.flight": {"proxy.filter"},
    "proxy.cache.second": {"proxy.cache.freshness", "proxy.cache.store", "proxy.headers"},
    "proxy.cache": {"proxy.cache", "proxy.exchange", "proxy.filter", "proxy.fleet.board", "proxy.headers"},
    "proxy.inspecting": {"proxy.filters.inspection", "proxy.inspect"},
    "proxy.batch": set(),
    "proxy.proxy_protocol": set(),
    "proxy.tls": set(),
    "proxy.origins": set(),
    "proxy.websocket": {
        "proxy.exchange",
        "proxy.filter",
        "proxy.filters.throttle",
        "proxy.inspect.json_check",
        "proxy.inspect.judge",
        "proxy.inspect.parts",
        "proxy.inspect.sanitizer",
        "proxy.rejection",
        "proxy.throttle.charge",
        "proxy.websocket",
    },
    "proxy.upstream": {
        "breaker",
        "proxy.batch",
        "proxy.exchange",
        "proxy.headers",
        "proxy.http1",
        "proxy.rejection",
        "proxy.telemetry.stats",
        "proxy.upstream",
        "proxy.proxy_protocol",
        "proxy.tls",
    },
    "proxy.policy.model": {"proxy.policy.models", "proxy.policy.values"},
    "proxy.policy.models": {"proxy.policy.models", "proxy.policy.values", "proxy.policy.rates"},
    "proxy.policy.rates": set(),
    "proxy.policy.operations": {"proxy.inspect.description", "proxy.policy.models"},
    "proxy.throttle": {"proxy.throttle", "proxy.batch", "proxy.telemetry.stats"},
    "proxy.fleet": {"breaker", "proxy.fleet", "proxy.throttle"},
    "breaker": {"breaker"},
    "proxy.forwarding": {"proxy.addresses", "proxy.exchange", "proxy.headers", "proxy.http1", "proxy.tls"},
    "proxy.routing": {
        "proxy.cache.edge",
        "proxy.exchange",
        "proxy.filter",
        "proxy.listener.fallback",
        "proxy.telemetry.stats",
        "proxy.upstream.cluster",
        "proxy.websocket.terms",
    },
    "proxy.listener": {
        "proxy.addresses",
        "proxy.batch",
        "proxy.cache",
        "proxy.exchange",
        "proxy.filter",
        "proxy.forwarding",
        "proxy.headers",
        "proxy.http1",
        "proxy.listener",
        "proxy.rejection",
        "proxy.routing",
        "proxy.target",
        "proxy.telemetry.stats",
        "proxy.throttle.charge",
        "proxy.upstream",
        "proxy.websocket",
        "proxy.proxy_protocol",
        "proxy.tls",
    },
    "proxy.workers.counts": set(),
    "proxy.workers.frames": set(),
    "proxy.workers.merge": set(),
    "proxy.workers.link": {"proxy.fleet.board", "proxy.throttle", "proxy.workers"},
    "proxy.workers.hub": {"proxy.fleet.board", "proxy.throttle", "proxy.workers.frames"},
    "proxy.workers.admin": {"proxy.admin.guard", "proxy.admin.place", "proxy.inspect.profile", "proxy.workers"},
    "proxy.workers.process": set(),
    "proxy.workers.parent": {"proxy.listener.door", "proxy.policy", "proxy.workers"},
    "proxy.admin": {
        "breaker",
        "proxy.addresses",
        "proxy.admin",
        "proxy.app",
        "proxy.cache.store",
        "proxy.control.reload",
        "proxy.inspect.profile",
        "proxy.telemetry",
        "proxy.upstream.cluster",
        "proxy.listener.door",
    },
    "proxy.control.reload": {"proxy.app", "proxy.filter", "proxy.policy"},
    "proxy.control.diff": {"proxy.policy"},
    "proxy.control": {
        "proxy.filter",
        "proxy.app",
        "proxy.control",
        "proxy.exchange",
        "proxy.policy",
        "proxy.rejection",
        "proxy.telemetry.decisions",
        "proxy.throttle.local",
        "proxy.tls",
        "proxy.upstream.pool",
    },
    "proxy.telemetry.lines": set(),
    "proxy.telemetry.shadows": {"proxy.exchange"},
    "proxy.telemetry.access_log": {"proxy.telemetry.lines", "proxy.exchange"},
    "proxy.telemetry.decisions": {"proxy.entropy", "proxy.exchange", "proxy.rejection"},
    "proxy.telemetry.logs": {"proxy.telemetry.lines"},
    "proxy.telemetry.traces": {"proxy", "proxy.exchange"},
    "proxy.policy.document": {"proxy.policy.findings"},
    "proxy.policy.findings": set(),
    "proxy.policy.load": {"proxy.policy", "proxy.rejection", "proxy.telemetry.traces", "proxy.tls"},
    "proxy.policy.values": set(),
    "proxy.policy.compile": {
        "proxy.addresses",
        "proxy.cache",
        "proxy.entropy",
        "proxy.filter",
        "proxy.filters",
        "proxy.fleet.board",
        "proxy.headers",
        "proxy.inspect.profile",
        "proxy.policy",
        "proxy.routing",
        "proxy.telemetry.stats",
        "proxy.throttle.charge",
        "proxy.throttle.heavy",
        "proxy.upstream.cluster",
        "proxy.websocket.terms",
    },
    "upstream_app.settings": set(),
    "upstream_app.mongo": {"upstream_app.settings"},
    "upstream_app.redis": {"upstream_app.settings"},
    "upstream_app.documents": {"upstream_app.mongo", "upstream_app.web"},
    "upstream_app.logs": set(),
    "upstream_app.web": {
        "breaker",
        "upstream_app.logs",
        "upstream_app.auth",
        "upstream_app.documents",
        "upstream_app.mongo",
        "upstream_app.web",
    },
    "upstream_app.states": {"upstream_app.web"},
    "upstream_app.cache": {"breaker", "upstream_app.background", "upstream_app.redis"},
    "upstream_app.web.days": set(),
    "upstream_app.events": {"breaker", "upstream_app.background", "upstream_app.redis"},
    "upstream_app.background": set(),
    "upstream_app.realtime.feed": {"upstream_app.background", "upstream_app.events", "upstream_app.redis"},
    "upstream_app.realtime.hub": {"upstream_app.auth.permissions", "upstream_app.events", "upstream_app.realtime.feed"},
    "upstream_app.realtime.presence": {
        "upstream_app.auth.permissions",
        "upstream_app.background",
        "upstream_app.events",
        "upstream_app.redis",
    },
    "upstream_app.demo": set(),
    "upstream_app.estimates.pricing": set(),
    "proxy.fleet.board": set(),
    "proxy.telemetry.stats": set(),
}
OURS = ("breaker", "proxy", "upstream_app", "chaos")
FOREIGN = {"proxy.filters": {"aiohttp", "redis"}, "proxy.listener": {"aiohttp", "redis"}}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in OURS:
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
    others = {
        "breaker": {"proxy", "upstream_app", "chaos"},
        "proxy": {"upstream_app", "chaos", "stack"},
        "upstream_app": {"proxy", "chaos", "stack"},
        "chaos": {"proxy", "upstream_app", "breaker"},
    }
    assert not {one for one in used if within(one, others[name.partition(".")[0]])}, (
        "proxy and application know each other over the network only, and the breaker knows neither"
    )
    for room, allowed in ALLOWED.items():
        if within(name, {room}):
            strangers = {one for one in used if within(one, set(OURS)) and not within(one, allowed | {name})}
            own = {
                one for one in strangers if room == "proxy.filters" and name == "proxy.filters" and within(one, {room})
            }
            assert not strangers - own, f"{name} may not know {strangers - own}"
    for room, foreign in FOREIGN.items():
        if within(name, {room}):
            assert not {one for one in used if within(one, foreign)}
