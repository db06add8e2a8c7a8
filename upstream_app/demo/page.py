"""/demo: a page that logs in and shows what happens as it happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parent
FILES = {
    "/demo": ("index.html", "text/html"),
    "/demo/demo.js": ("demo.js", "text/javascript"),
    "/demo/demo.css": ("demo.css", "text/css"),
}


def routes() -> list[web.RouteDef]:
    return [web.get(path, _serving((FOLDER / name).read_bytes(), kind)) for path, (name, kind) in FILES.items()]


def _serving(body: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})

    return serve
