"""A client of /realtime for tests: says things, and waits for what it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson

Told = dict[str, Any]


class Talker:
    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.heard: list[Told] = []
        self.welcome: Told = {}
        self._ref = 0

    async def welcomed(self) -> Talker:
        self.welcome = (await self.until("connected"))["data"]
        return self

    async def next(self, seconds: float = 10) -> Told:
        message = await self.ws.receive(seconds)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        told: Told = orjson.loads(message.data)
        self.heard.append(told)
        return told

    async def until(self, kind: str) -> Told:
        """The next of that type."""
        async with asyncio.timeout(10):
            while True:
                if (told := await self.next())["type"] == kind:
                    return told

    async def ask(self, kind: str, **data: Any) -> Told:
        """The answer to a command, ack or error."""
        self._ref += 1
        await self.ws.send_json({"type": kind, "data": data, "ref": self._ref})
        async with asyncio.timeout(10):
            while True:
                told = await self.next()
                if told.get("ref") == self._ref:
                    return told

    async def done(self, kind: str, **data: Any) -> Told:
        told = await self.ask(kind, **data)
        assert told["type"] == "ack", told
        return dict(told["data"])

    async def refused(self, kind: str, **data: Any) -> int:
        told = await self.ask(kind, **data)
        assert told["type"] == "error", told
        return int(told["data"]["status"])

    async def silent(self) -> list[str]:
        """Types of all that came until an own command was answered, so that nothing told before is on its way."""
        before = len(self.heard)
        assert await self.refused("no.such") == 400
        return [one["type"] for one in self.heard[before:-1]]

    async def heard_of(self, kind: str, count: int) -> list[Told]:
        """So many of that type, with those that came before."""
        async with asyncio.timeout(10):
            while True:
                found = [one for one in self.heard if one["type"] == kind]
                if len(found) >= count:
                    return found
                await self.next()

    async def closed(self, seconds: float = 10) -> int:
        async with asyncio.timeout(seconds):
            while True:
                message = await self.ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return int(message.data if message.type is aiohttp.WSMsgType.CLOSE else self.ws.close_code or 0)

    async def close(self) -> None:
        await self.ws.close()
