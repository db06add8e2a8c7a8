"""What a request is told that goes to no route: sent to TLS, told what the proxy speaks, or that nothing matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.exchange import Response
from proxy.headers import Headers
from proxy.rejection import MalformedRequest, MethodNotAllowed, NoRoute, Rejection

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.routing import RouteTable

ALLOW = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What OPTIONS * is told (RFC 9110 section 9.3.7): what the proxy itself speaks, whatever the routes take."""


def options() -> Response:
    return Response(204, b"No Content", Headers([(b"allow", ALLOW)]), own=True)


def by_tls(exchange: Exchange, port: int) -> Response:
    """308 keeps method and body (RFC 9110 section 15.4.9)."""
    host = exchange.host.partition(b"]")[0] + b"]" if exchange.host[:1] == b"[" else exchange.host.partition(b":")[0]
    if not host:
        raise MalformedRequest("without Host nobody can be sent on", rule="listener.redirect")
    told = b"" if port == 443 else b":%d" % port
    location = b"https://%b%b%b%b" % (host, told, exchange.path, exchange.query)
    return Response(308, b"Permanent Redirect", Headers([(b"location", location), (b"content-length", b"0")]), own=True)


def unrouted(exchange: Exchange, routes: RouteTable) -> Rejection:
    methods = routes.methods_at(exchange)
    if methods:
        allow = b", ".join(sorted(methods))
        return MethodNotAllowed(
            f"this path takes {allow.decode()}", remedy="Use one of the allowed methods.", rule="routes",
            headers=((b"allow", allow),),
        )  # fmt: skip
    return NoRoute("no route matches this host, path and method", rule="routes")
