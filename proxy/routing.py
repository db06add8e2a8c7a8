"""Which route a request meets: the first in the file's order whose host, path, method and headers all match.

Found through an index: exact paths in a dictionary, prefixes and templates in a tree of segments; so a thousand routes
cost what ten do. A prefix ends at a segment: `/api` is not a prefix of `/apix`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from proxy.exchange import Exchange
from proxy.filter import FilterChain
from proxy.websocket.terms import PLAIN, SocketTerms

if TYPE_CHECKING:
    from proxy.cache.edge import Edge
    from proxy.listener.fallback import Fallback
    from proxy.telemetry.stats import RouteStats
    from proxy.upstream.cluster import Cluster


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """Seconds and bytes; every one applies to each exchange of the route."""

    request: float
    per_try: float
    stream_idle: float
    websocket_idle: float
    max_body: int
    max_buffered: int
    tell_deadline: bool = False
    """Whether the upstream is told how long it has, though the client asked for nothing."""
    asked_in: bytes = b"x-request-timeout"
    told_in: bytes = b"x-request-deadline"
    """Fields in which a client says how long it waits, and the upstream is told; in milliseconds from now."""
    asserted: frozenset[bytes] = frozenset()
    """Fields of a client's that do not pass here, beside those that never do."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """`hosts` are lower-case, without port, `*.example.com` for any label in front; empty sets match everything."""

    path: bytes
    kind: str
    hosts: frozenset[bytes] = frozenset()
    methods: frozenset[bytes] = frozenset()
    headers: tuple[tuple[bytes, bytes | None], ...] = ()


@dataclass(eq=False, slots=True)
class Route:
    name: str
    matcher: Matcher
    chain: FilterChain
    cluster: Cluster
    limits: RouteLimits
    stats: RouteStats
    websocket: bool = True
    sockets: SocketTerms = PLAIN
    priority: int = 2
    """0 critical to 3 low: who is refused first where there is too much."""
    fallback: Fallback | None = None
    edge: Edge | None = None
    """Its cache, or one that only hears of what is written here."""
    order: int = field(default=0)
    label: bytes = field(init=False)
    conditional: bool = field(init=False)
    """Whether anything but the path decides."""

    def __post_init__(self) -> None:
        matcher = self.matcher
        self.label = self.name.encode()
        self.conditional = bool(matcher.methods or matcher.hosts or matcher.headers)

    def parameters(self, path: bytes) -> dict[str, bytes]:
        """What stands in the template's places; for a path that this route matched."""
        if self.matcher.kind != "template":
            return {}
        pairs = zip(self.matcher.path.split(b"/"), path.split(b"/"), strict=True)
        return {name[1:-1].decode(): value for name, value in pairs if name.startswith(b"{")}


MAX_PATHS_KEPT = 4096
MAX_PATH_KEPT = 128


class _Node:
    __slots__ = ("any", "children", "prefixes", "templates")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.any: _Node | None = None
        self.prefixes: tuple[Route, ...] = ()
        self.templates: tuple[Route, ...] = ()


class RouteTable:
    """Immutable once made; `match` is called for each request."""

    __slots__ = ("_exact", "_known", "_root", "_templated", "routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[bytes, tuple[Route, ...]] = {}
        self._known: dict[bytes, list[Route]] = {}
        self._root = _Node()
        self._templated = False
        for order, route in enumerate(self.routes):
            route.order = order
            self._index(route)

    def _index(self, route: Route) -> None:
        matcher = route.matcher
        if matcher.kind == "exact":
            self._exact[matcher.path] = (*self._exact.get(matcher.path, ()), route)
            return
        node = self._root
        for segment in _segments(matcher.path, whole=matcher.kind == "template"):
            if matcher.kind == "template" and segment.startswith(b"{"):
                self._templated = True
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.children.setdefault(segment, _Node())
        if matcher.kind == "prefix":
            node.prefixes = (*node.prefixes, route)
        else:
            node.templates = (*node.templates, route)

    def match(self, exchange: Exchange) -> Route | None:
        path = exchange.path
        candidates = self._known.get(path)
        if candidates is None:
            candidates = self._remember(path)
        for route in candidates:
            if not route.conditional or _accepts(route.matcher, exchange):
                return route
        return None

    def _remember(self, path: bytes) -> list[Route]:
        """Paths recur: what the tree said of one is kept, for so many short ones."""
        candidates = self._candidates(path)
        candidates.sort(key=_BY_ORDER)
        if len(path) <= MAX_PATH_KEPT:
            if len(self._known) >= MAX_PATHS_KEPT:
                self._known.clear()
            self._known[path] = candidates
        return candidates

    def _candidates(self, path: bytes) -> list[Route]:
        found = list(self._exact.get(path, ()))
        node = self._root
        found += node.prefixes
        if not node.children and node.any is None:
            return found
        segments = path.split(b"/")
        if self._templated:
            self._walk(segments, found)
            return found
        for segment in segments[1:]:
            child = node.children.get(segment)
            if child is None:
                return found
            node = child
            found += node.prefixes
        return found

    def _walk(self, segments: list[bytes], found: list[Route]) -> None:
        """Down all branches at once: a segment goes to its own child and to the template's."""
        nodes = [self._root]
        for segment in segments[1:]:
            below = []
            for node in nodes:
                child = node.children.get(segment)
                if child is not None:
                    below.append(child)
                    if child.prefixes:
                        found += child.prefixes
                if node.any is not None and segment:
                    below.append(node.any)
            if not below:
                return
            nodes = below
        for node in nodes:
            if node.templates:
                found += node.templates

    def methods_at(self, exchange: Exchange) -> frozenset[bytes]:
        """What methods the routes of this host and path take, for a 405's Allow field; empty where there are none."""
        methods: set[bytes] = set()
        for route in self._candidates(exchange.path):
            if _accepts(route.matcher, exchange, any_method=True):
                methods |= route.matcher.methods
        return frozenset(methods)


_BY_ORDER = attrgetter("order")


def _segments(path: bytes, *, whole: bool) -> list[bytes]:
    """Of a `whole` path the last one may be empty: `/a/` is not `/a`."""
    segments = path.split(b"/")[1:]
    return segments if whole or segments[-1:] != [b""] else segments[:-1]


def _accepts(matcher: Matcher, exchange: Exchange, *, any_method: bool = False) -> bool:
    if matcher.methods and not any_method and exchange.method not in matcher.methods:
        wanted = exchange.headers.index.get(b"access-control-request-method")
        if exchange.method != b"OPTIONS" or wanted not in matcher.methods:
            return False
    if matcher.hosts and not _host_matches(matcher.hosts, exchange.host):
        return False
    for name, value in matcher.headers:
        given = exchange.headers.index.get(name)
        if given is None or (value is not None and given != value):
            return False
    return True


def _host_matches(hosts: frozenset[bytes], authority: bytes) -> bool:
    host = bare_host(authority)
    if host in hosts:
        return True
    dot = host.find(b".")
    return dot > 0 and b"*" + host[dot:] in hosts


def bare_host(authority: bytes) -> bytes:
    """Lower case, without the port and a final dot."""
    host = authority.lower()
    if host.endswith(b"]"):
        return host
    head, colon, port = host.rpartition(b":")
    if colon and port.isdigit():
        host = head
    return host.rstrip(b".")
