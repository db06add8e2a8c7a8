"""Collections and indexes exist before a request may count on them: a unique index that comes late keeps nothing so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from pymongo.errors import PyMongoError

from upstream_app.web.errors import ApiError, Handler

log = structlog.get_logger("simplepro.schema")
RETRY_SECONDS = 2.0


class Schema:
    def __init__(self, *steps: Callable[[], Awaitable[None]]) -> None:
        self._steps = steps
        self.prepared = False

    async def prepare(self) -> None:
        """Try until it succeeds: the database may come up after the application does."""
        while not self.prepared:
            try:
                for step in self._steps:
                    await step()
            except PyMongoError as error:
                log.warning("not prepared yet", error=type(error).__name__, retry_in=RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.prepared = True
                log.info("prepared")

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """503 for everything but health until the schema is there."""
        if not self.prepared and not request.path.startswith("/api/health/"):
            raise ApiError(503, "The database can't be reached or is being prepared", headers={"Retry-After": "2"})
        return await handler(request)
