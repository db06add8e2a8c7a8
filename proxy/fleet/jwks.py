"""Public keys from a URL (RFC 7517): fetched at the start, again after a while, and when a token names another key."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import aiohttp
import orjson
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

log = logging.getLogger(__name__)

FETCH_SECONDS = 5.0
MAX_BYTES = 256 * 1024
HURRY_SECONDS = 10.0
"""Tokens that name unknown keys make it look no sooner than this after the last look: anybody can send them."""
RETRY_SECONDS = 2.0


class KeySource:
    """`turn` gets the keys; what was had last stays while the URL does not answer."""

    def __init__(self, url: str, refresh: float, turn: Callable[[KeySet], None]) -> None:
        self.url = url
        self.fetched = 0
        self.failures = 0
        self.good = False
        """Whether the last look gave keys."""
        self._refresh = refresh
        self._turn = turn
        self._wanted = asyncio.Event()
        self._last = 0.0
        self._task: asyncio.Task[None] | None = None

    def want(self) -> None:
        self._wanted.set()

    async def start(self) -> None:
        """One look before the first request; then by itself."""
        async with self._session() as session:
            await self._fetch(session)
        self._task = asyncio.create_task(self._keep_fresh(), name="jwks")

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS))

    async def _keep_fresh(self) -> None:
        async with self._session() as session:
            while True:
                pause = self._refresh * random.uniform(0.9, 1) if self.fetched else RETRY_SECONDS  # noqa: S311  # jitter
                try:
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
                else:
                    await asyncio.sleep(max(0.0, self._last + HURRY_SECONDS - time.monotonic()))
                self._wanted.clear()
                await self._fetch(session)

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        self._last = time.monotonic()
        try:
            async with session.get(self.url, allow_redirects=False) as answer:
                answer.raise_for_status()
                text = b""
                async for piece in answer.content.iter_any():
                    text += piece
                    if len(text) > MAX_BYTES:
                        raise ValueError("the document is too large")
            keys = KeySet.import_key_set(orjson.loads(text))
            if not keys.keys or any(isinstance(key, OctKey) for key in keys.keys):
                raise ValueError("it holds no public keys, or a symmetric one")
        except (aiohttp.ClientError, TimeoutError, OSError, JoseError, ValueError, KeyError, TypeError) as error:
            self.failures += 1
            self.good = False
            log.warning("jwks: %s can't be used: %s", self.url, error or type(error).__name__)
        else:
            self.fetched += 1
            if not self.good:
                log.info("jwks: %d keys from %s", len(keys.keys), self.url)
            self.good = True
            self._turn(keys)
