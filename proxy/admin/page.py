"""The live page at /ui: static files of this package, and a stream of snapshots (HTML Living Standard 9.2).

Nothing on it comes from another host, and no file holds a datum: those come with the token, where one is needed.
"""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from proxy.admin.live import TICK_SECONDS, Watch

if TYPE_CHECKING:
    from proxy.app import Proxy

FILES = {
    "/ui": ("index.html", "text/html"),
    "/ui/app.js": ("app.js", "text/javascript"),
    "/ui/style.css": ("style.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_WATCHERS = 16


class Page:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._watchers = 0
        self._closing = asyncio.Event()
        folder = resources.files("proxy.admin").joinpath("ui")
        self._files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def routes(self) -> list[web.RouteDef]:
        return [*(web.get(path, self._file) for path in FILES), web.get("/ui/events", self._events)]

    def close(self) -> None:
        """Every stream ends; a page that still looks comes again."""
        self._closing.set()

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._files[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._watchers >= MAX_WATCHERS:
            return web.json_response({"error": f"{MAX_WATCHERS} pages watch already: close one"}, status=503)
        self._watchers += 1
        try:
            answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await answer.prepare(request)
            watch = Watch(self._proxy)
            while not self._closing.is_set():
                async with asyncio.timeout(10 * TICK_SECONDS):
                    await answer.write(b"data: %b\n\n" % orjson.dumps(watch.snapshot()))
                await self._pause()
        except (ConnectionError, TimeoutError):
            pass  # whoever watched has gone, or reads no more
        finally:
            self._watchers -= 1
        return answer

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(TICK_SECONDS):
                await self._closing.wait()
        except TimeoutError:
            return
