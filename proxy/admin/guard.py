"""Who may ask an admin: who has its token, and nobody whom another site's page made to ask."""

from __future__ import annotations

import hmac

from aiohttp import web

from proxy.addresses import normalise


def strange(request: web.Request, token: str | None) -> web.Response | None:
    """403 where a browser may have been made to send this by another site's page."""
    why = _strange(request, token is None)
    return web.json_response({"error": why}, status=403) if why else None


def stranger(request: web.Request, token: str | None) -> web.Response | None:
    """401 where there is a token and the request has another, or none."""
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token is None or hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode()):
        return None
    return web.json_response({"error": "send Authorization: Bearer with admin.token"}, status=401)


def _strange(request: web.Request, unguarded: bool) -> str:
    """Why a browser that shows another site's page may have been made to send this; empty where nothing says so.

    That page's script could write by a plain form, and read under a name of its own that leads here.
    """
    origin = request.headers.get("Origin", "")
    if origin and origin.partition("://")[2] != request.host:
        return "the request comes from another site's page"
    name = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
    name = (name or request.host).strip("[]")
    if unguarded and name != "localhost" and normalise(name) is None:
        return f"without admin.token, ask by an address or as localhost, not as {name[:80]}"
    return ""
