"""Work that goes on beside requests, from start to close."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

CANCEL_AGAIN = 0.5
"""Seconds after which a task that goes on is cancelled once more."""


async def ended(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them until they are over: libraries that use asyncio.wait_for (redis-py, pymongo) may take a cancellation
    for the end of their own wait, and it is lost."""
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
    for one in tasks:
        if one is not None and not one.cancelled():
            one.exception()


class Background(ABC):
    """`_run` is one task until `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def close(self) -> None:
        self._closing = True
        await ended(self._task)

    @abstractmethod
    async def _run(self) -> None:
        """Until cancelled, or `_closing`."""
