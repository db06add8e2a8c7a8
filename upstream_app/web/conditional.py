"""ETag and If-None-Match for every answer of a GET (RFC 9110 sections 8.8.3 and 13.1.2), and how far it may be kept."""

from __future__ import annotations

import hashlib

from aiohttp import web

from upstream_app.web.errors import Handler

KEPT = ("ETag", "Cache-Control", "Surrogate-Key")


@web.middleware
async def conditional(request: web.Request, handler: Handler) -> web.StreamResponse:
    """304 where the client has the answer already. An answer is its user's alone, and is asked for again."""
    response = await handler(request)
    if request.method != "GET" or response.status != 200 or not isinstance(response, web.Response):
        return response
    response.headers.setdefault("Cache-Control", "private, no-cache")
    if response.headers["Cache-Control"] == "no-store" or not isinstance(response.body, bytes):
        return response
    tag = response.headers.get("ETag")
    if tag is None:
        tag = response.headers["ETag"] = f'W/"{hashlib.blake2b(response.body, digest_size=12).hexdigest()}"'
    known = {one.strip().removeprefix("W/") for one in request.headers.get("If-None-Match", "").split(",")}
    if "*" not in known and tag.removeprefix("W/") not in known:
        return response
    kept = {name: response.headers[name] for name in KEPT if name in response.headers}
    return web.Response(status=304, headers=kept)
