"""The third level of caching, in the sidecar: what may be kept there is marked, and purged by its tags when it changes.

Answers with tags say `Sidecar-Cache-Control`, a targeted field (RFC 9213) that only the sidecar hears, which keys by
user: CDNs and browsers are told nothing new. A write purges its tags through this pod's own sidecar, which tells all
others before it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import aiohttp
import structlog
from aiohttp import web

from upstream_app.background import ended

if TYPE_CHECKING:
    from upstream_app.settings import Settings

log = structlog.get_logger("simplepro.edge")
DEADLINE = 3.0
AGAIN_SECONDS = 1.0
MAX_OWED = 1_000
"""Tags that the sidecar could not be told of; past them all of its answers are purged."""
EVERYTHING = "everything"
CONTROL = "Sidecar-Cache-Control"


class Edge:
    """Without EDGE_PURGE_URL nothing is marked, and nothing is purged."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.EDGE_PURGE_URL.rstrip("/")
        self._control = f"public, max-age={settings.EDGE_SECONDS}"
        token = settings.EDGE_PURGE_TOKEN
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._session: aiohttp.ClientSession | None = None
        self._owed: set[str] = set()
        self._settling: asyncio.Task[None] | None = None
        self.purges = self.failures = 0

    async def mark(self, _: web.Request, response: web.StreamResponse) -> None:
        """Let the sidecar keep an answer that has tags; its validity ends with the first write to one of them."""
        if self._url and "Surrogate-Key" in response.headers:
            response.headers.setdefault(CONTROL, self._control)
            response.headers["Surrogate-Key"] += f" {EVERYTHING}"

    async def purge(self, tags: Sequence[str]) -> None:
        """No sidecar serves answers with one of these tags, once this returns; where it fails, it tries on."""
        if not self._url:
            return
        if await self._told(tags):
            return
        self._owed.update(tags)
        if len(self._owed) > MAX_OWED:
            self._owed = {EVERYTHING}
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(), name="edge: owed purges")

    async def _told(self, tags: Sequence[str]) -> bool:
        self._session = self._session or aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE))
        query = [("tag", tag) for tag in tags]
        try:
            async with self._session.post(f"{self._url}/cache/purge", params=query, headers=self._headers) as answer:
                good = answer.status in (200, 404)
                reason = f"status {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            good, reason = False, type(error).__name__
        self.purges += 1
        if not good:
            self.failures += 1
            log.warning("the sidecar could not be told of a change", reason=reason, tags=len(tags))
        return good

    async def _settle(self) -> None:
        while self._owed:
            await asyncio.sleep(AGAIN_SECONDS)
            some = sorted(self._owed)[:50]
            if await self._told(some):
                self._owed.difference_update(some)

    async def close(self) -> None:
        await ended(self._settling)
        if self._session is not None:
            await self._session.close()
