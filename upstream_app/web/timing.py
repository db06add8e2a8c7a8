"""Slow requests in the log (report: above 1 s told, above 5 s warned of)."""

from __future__ import annotations

from time import perf_counter

import structlog
from aiohttp import web

from upstream_app.web.errors import Handler, header

log = structlog.get_logger("simplepro.web")
SLOW_SECONDS = 1.0
VERY_SLOW_SECONDS = 5.0


@web.middleware
async def timing(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = perf_counter()
    response = await handler(request)
    seconds = perf_counter() - began
    if seconds > SLOW_SECONDS and not isinstance(response, web.WebSocketResponse):
        route = request.match_info.route.resource
        tell = log.warning if seconds > VERY_SLOW_SECONDS else log.info
        tell(
            "slow request",
            method=request.method,
            route=route.canonical if route else "",
            status=response.status,
            seconds=round(seconds, 3),
            request_id=header(request, "X-Request-ID"),
        )
    return response
