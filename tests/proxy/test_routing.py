"""The first route in the file's order that matches, whatever the index does to find it."""

from __future__ import annotations

import asyncio

import pytest

from proxy.exchange import Exchange
from proxy.filter import FilterChain
from proxy.headers import Headers
from proxy.routing import Matcher, Route, RouteLimits, RouteTable
from proxy.telemetry.stats import RouteStats
from proxy.upstream.cluster import Cluster, ClusterSpec
from proxy.upstream.pool import PoolLimits


async def table(*matchers: Matcher) -> RouteTable:
    spec = ClusterSpec("c", (("127.0.0.1", 1),), "round_robin", PoolLimits(1, 1, 1, 1, 1))
    cluster = Cluster(spec, asyncio.get_running_loop())
    limits = RouteLimits(1, 1, 1, 1, 1, 1)
    return RouteTable(
        Route(str(index), matcher, FilterChain(()), cluster, limits, RouteStats(str(index)))
        for index, matcher in enumerate(matchers)
    )


def exchange(path: bytes, method: bytes = b"GET", host: bytes = b"a.test:80") -> Exchange:
    made = Exchange(method, 1, Headers([(b"host", host)]), "127.0.0.1", 0.0)
    made.path = path
    return made


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/api/customers/7", "0"),
        (b"/api/customers/7/notes", "2"),
        (b"/api/customers/", "2"),
        (b"/api/customers/search", "0"),
        (b"/apix", "4"),
        (b"/api", "2"),
        (b"/login", "3"),
        (b"/login/", "4"),
        (b"/", "4"),
    ],
)
async def test_paths(path: bytes, name: str) -> None:
    routes = await table(
        Matcher(b"/api/customers/{id}", "template"),
        Matcher(b"/api/customers/search", "exact"),
        Matcher(b"/api", "prefix"),
        Matcher(b"/login", "exact"),
        Matcher(b"/", "prefix"),
    )
    found = routes.match(exchange(path))
    assert found is not None
    assert found.name == name


async def test_parameters_hosts_and_methods() -> None:
    routes = await table(
        Matcher(b"/x/{id}", "template", methods=frozenset({b"POST"})),
        Matcher(b"/x", "prefix", hosts=frozenset({b"*.b.test"})),
    )
    posted = exchange(b"/x/7", b"POST")
    assert routes.match(posted) is routes.routes[0]
    assert routes.routes[0].parameters(b"/x/7") == {"id": b"7"}
    assert routes.match(exchange(b"/x/7")) is None
    assert routes.methods_at(exchange(b"/x/7")) == {b"POST"}
    assert routes.match(exchange(b"/x/7", host=b"w.B.test.")) is routes.routes[1]


async def test_a_template_that_ends_in_a_slash_is_another_path() -> None:
    routes = await table(Matcher(b"/a/{id}/", "template"), Matcher(b"/a/{id}", "template"), Matcher(b"/", "prefix"))
    for path, name in ((b"/a/5/", "0"), (b"/a/5", "1"), (b"/a//", "2"), (b"/a/5/b", "2")):
        met = routes.match(exchange(path))
        assert met is not None
        assert met.name == name, path
        assert met.parameters(path) == ({"id": b"5"} if name != "2" else {})
