"""The WebSockets of this instance, by room; an event reaches each member once, whichever of its rooms it names."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import orjson
import structlog
from aiohttp import WSCloseCode, web

from upstream_app.auth.permissions import Actor
from upstream_app.events import OPTIONS
from upstream_app.realtime.feed import Told, place

log = structlog.get_logger("simplepro.realtime")
MAX_UNSENT = 512
MAX_HELD = 2_000
MAX_ROOMS = 100
SEND_SECONDS = 10.0
UNAUTHENTICATED = 4401
SLOW = WSCloseCode.TRY_AGAIN_LATER
ENDED = "session:"


class Socket:
    """One client. What it is told waits in a bounded queue; one that does not keep up is closed (1013)."""

    def __init__(self, actor: Actor, ws: web.WebSocketResponse, expires: float) -> None:
        self.actor = actor
        self.expires = expires
        self.rooms: set[str] = set()
        self.ws = ws
        self._queue: asyncio.Queue[str] = asyncio.Queue(MAX_UNSENT)
        self._held: list[Told] | None = None
        self._ending: asyncio.Task[bool] | None = None

    def tell(self, kind: str, data: dict[str, object], ref: object = None) -> None:
        """To this client alone; `ref` is what its command was called."""
        self.send(said(kind, data, ref))

    def deliver(self, told: Told) -> None:
        if self._held is None:
            self.send(told.text)
        elif len(self._held) < MAX_HELD:
            self._held.append(told)
        else:
            self.close(SLOW, "too much happens to catch up with")

    def send(self, text: str) -> None:
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.close(SLOW, "events come faster than they are read")

    async def send_in_turn(self, text: str) -> bool:
        """Wait for room in the queue: what is replayed is more than it holds. False where nobody reads."""
        if self._ending is not None or self.ws.closed:
            return False
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._queue.put(text)
        except TimeoutError:
            self.close(SLOW, "events are not read")
            return False
        return True

    def hold(self) -> None:
        """Keep what comes, until `release`: what was missed goes first."""
        self._held = []

    async def release(self, after: str) -> None:
        """What was held is sent in turn, as far as its place is behind `after`; then all is sent as it comes."""
        while self._held:
            held, self._held = self._held, []
            for one in held:
                behind = not one.seq or not after or place(one.seq) > place(after)
                if behind and not await self.send_in_turn(one.text):
                    return
        self._held = None

    def close(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._close(code, reason), name="realtime: close")

    async def _close(self, code: int, reason: str) -> bool:
        try:
            async with asyncio.timeout(5):
                return await self.ws.close(code=code, message=reason.encode())
        except TimeoutError:
            return False

    async def write(self) -> None:
        """Send what is queued, until cancelled or the client is gone."""
        try:
            while not self.ws.closed:
                text = await self._queue.get()
                async with asyncio.timeout(SEND_SECONDS):
                    await self.ws.send_str(text)
                self._queue.task_done()
        except TimeoutError:
            self.close(SLOW, "events are not read")
        except ConnectionError:
            return

    async def flushed(self, seconds: float) -> None:
        """Wait until nothing is queued, for so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            return

    async def ended(self) -> None:
        if self._ending is not None:
            await asyncio.gather(self._ending, return_exceptions=True)


def said(kind: str, data: dict[str, object], ref: object = None) -> str:
    told: dict[str, object] = {"type": kind, "data": data}
    if ref is not None:
        told["ref"] = ref
    return orjson.dumps(told, default=str, option=OPTIONS).decode()


class Hub:
    def __init__(self) -> None:
        self.sockets: set[Socket] = set()
        self.delivered = 0
        self.stopping = False
        self._rooms: defaultdict[str, set[Socket]] = defaultdict(set)

    def add(self, socket: Socket, rooms: list[str]) -> None:
        self.sockets.add(socket)
        for room in rooms:
            self._rooms[room].add(socket)
            socket.rooms.add(room)

    def join(self, socket: Socket, room: str) -> bool:
        """False where the socket is in MAX_ROOMS already."""
        if room not in socket.rooms and len(socket.rooms) >= MAX_ROOMS:
            return False
        self.add(socket, [room])
        return True

    def leave(self, socket: Socket, room: str) -> None:
        socket.rooms.discard(room)
        members = self._rooms.get(room)
        if members is not None:
            members.discard(socket)
            if not members:
                del self._rooms[room]

    def remove(self, socket: Socket) -> None:
        for room in list(socket.rooms):
            self.leave(socket, room)
        self.sockets.discard(socket)

    def members(self, room: str) -> int:
        return len(self._rooms.get(room, ()))

    def deliver(self, told: Told) -> None:
        found: set[Socket] = set()
        for room in told.rooms:
            found |= self._rooms.get(room, set())
        for socket in found:
            if told.rooms[0].startswith(ENDED):
                socket.close(UNAUTHENTICATED, "this session was ended; log in again")
            else:
                socket.deliver(told)
                self.delivered += 1

    async def shut_down(self, seconds: float = 5.0) -> None:
        """All are told, then closed by 1012."""
        self.stopping = True
        sockets = list(self.sockets)
        for one in sockets:
            one.tell("serverShutdown", {"reconnectInMs": 1_000})
        await asyncio.gather(*(one.flushed(seconds / 2) for one in sockets))
        for one in sockets:
            one.close(WSCloseCode.SERVICE_RESTART, "the server restarts; connect again")
        await asyncio.gather(*(one.ended() for one in sockets))
