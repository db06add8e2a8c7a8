"""/realtime: one WebSocket a client, for what it may hear of and what it has to say.

A client says `{"type", "data", "ref"}` and is answered `{"type": "ack" | "error", "data", "ref"}`; what happens comes
as `{"type", "at", "data", "seq"}`. With `?resume=SEQ&rooms=job:ID,thread:ID` it is told first what it missed after SEQ,
or that not all of it is known any more (`connected.data.resumed`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from aiohttp import WSMsgType, web
from redis.exceptions import RedisError

from upstream_app.audit import AuditLog
from upstream_app.auth.permissions import CREW, Actor
from upstream_app.background import ended
from upstream_app.documents import Conflict, NotFound, TooLarge
from upstream_app.realtime.commands import Commands
from upstream_app.realtime.feed import POSITION, Feed
from upstream_app.realtime.hub import UNAUTHENTICATED, Hub, Socket, said
from upstream_app.realtime.presence import WATCHERS, Presence
from upstream_app.web.errors import MONGO_AWAY, ApiError
from upstream_app.web.requests import checked_json

log = structlog.get_logger("simplepro.realtime")
PATH = "/realtime"
MAX_MESSAGE = 64 * 1024
MAX_SOCKETS = 5_000
MAX_REJOINED = 50
HEARTBEAT = 30.0
DEADLINE = 10.0
RECHECK_EVERY = 30.0
AUDITED = frozenset({"emergencyAlert", "message.send", "message.edit", "message.delete", "sendMessage"})
Identify = Callable[[web.Request], Awaitable[tuple[Actor, float]]]
"""Who asks, and to when the token is good (Unix seconds). Raises ApiError."""


class RealtimeApi:
    def __init__(
        self, hub: Hub, feed: Feed, presence: Presence, commands: Commands, audit: AuditLog, identify: Identify
    ) -> None:
        self._hub = hub
        self._feed = feed
        self._presence = presence
        self._commands = commands
        self._audit = audit
        self._identify = identify
        self._leaving: set[asyncio.Task[None]] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        actor, expires = await self._identify(request)
        if self._hub.stopping or len(self._hub.sockets) >= MAX_SOCKETS or not self._feed.ready:
            raise ApiError(503, "No more connections here now; try again shortly", headers={"Retry-After": "2"})
        resume, rooms = _resumption(request)
        ws = web.WebSocketResponse(compress=False, max_msg_size=MAX_MESSAGE, heartbeat=HEARTBEAT, timeout=5.0)
        if not ws.can_prepare(request):
            raise ApiError(426, "This is for WebSockets", headers={"Upgrade": "websocket"})
        await ws.prepare(request)
        socket = Socket(actor, ws, expires)
        socket.hold()
        own = [f"user:{actor.user}", f"role:{actor.role}", f"session:{actor.session}", "everybody"]
        self._hub.add(socket, own + ([f"crew:{actor.user}", "crew:all"] if actor.role in CREW else []))
        writing = asyncio.create_task(socket.write(), name="realtime: write")
        guarding = asyncio.create_task(self._guard(socket), name="realtime: guard")
        try:
            await self._presence.enter(actor)
            await self._welcome(socket, resume, rooms)
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await self._on_text(request, socket, message.data)
                elif message.type is WSMsgType.BINARY:
                    socket.tell("error", {"message": "Write text messages"})
        finally:
            self._hub.remove(socket)
            self._commands.forget(socket)
            leaving = asyncio.create_task(self._leave(socket, writing, guarding), name="realtime: leave")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            await asyncio.shield(leaving)
        return ws

    async def _leave(self, socket: Socket, *tasks: asyncio.Task[None]) -> None:
        """A task of its own: the request's may be cancelled with its connection."""
        await ended(*tasks)
        await socket.ended()
        await self._presence.leave(socket.actor)

    async def close(self) -> None:
        """Wait for those who leave."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _welcome(self, socket: Socket, resume: str, rooms: list[str]) -> None:
        """What was missed goes before what happens meanwhile; then `connected` says from where on all is told."""
        lost = []
        for room in rooms:
            try:
                await self._commands.rejoin(socket, room)
            except (NotFound, ApiError, *MONGO_AWAY):
                lost.append(room)
        told: dict[str, object] = {"user": str(socket.actor.user), "role": socket.actor.role}
        if set(WATCHERS) & socket.rooms:
            told["online"] = await self._presence.online()
        after = self._feed.last
        if resume:
            try:
                async with asyncio.timeout(DEADLINE):
                    missed, whole = await self._feed.since(resume, socket.rooms)
            except (RedisError, OSError, TimeoutError):
                missed, whole = [], False
            after = missed[-1].seq if missed else after
            told |= {"resumed": whole and not lost, "replayed": len(missed)}
            for one in missed:
                if not await socket.send_in_turn(one.text):
                    return
        if lost:
            told["lost"] = lost
        if await socket.send_in_turn(said("connected", told | {"seq": after, "rooms": sorted(socket.rooms)})):
            await socket.release(after if resume else "")

    async def _guard(self, socket: Socket) -> None:
        """Close when its token runs out; look now and then whether its rooms are still its own."""
        while (left := socket.expires - time.time()) > 0:
            await asyncio.sleep(min(left, RECHECK_EVERY))
            try:
                await self._commands.recheck(socket)
            except MONGO_AWAY:
                continue
            except Exception:
                log.exception("rooms could not be looked at again")
        socket.close(UNAUTHENTICATED, "the access token has expired; log in again")

    async def _on_text(self, request: web.Request, socket: Socket, text: str) -> None:
        """Every command has an answer; no failure of one ends the connection."""
        ref: Any = None
        kind = ""
        try:
            given = _command(text)
            ref, kind = given.get("ref"), given["type"]
            known = self._commands.known.get(kind)
            if known is None:
                raise ApiError(400, f"There is no command of this type; there are {', '.join(self._commands.known)}")
            model, handler = known
            async with asyncio.timeout(DEADLINE):
                answer = await handler(socket, checked_json(_data(given), model))
            socket.tell("ack", answer, ref)
            status = 200
        except ApiError as error:
            told: dict[str, object] = {"message": error.message, "status": error.status}
            if error.validation is not None:
                told["validation"] = error.validation
            socket.tell("error", told, ref)
            status = error.status
        except (NotFound, Conflict, TooLarge) as error:
            status = 404 if isinstance(error, NotFound) else 413 if isinstance(error, TooLarge) else 409
            socket.tell("error", {"message": str(error), "status": status}, ref)
        except (*MONGO_AWAY, TimeoutError):
            status = 503
            socket.tell("error", {"message": "This can't be done now; try again shortly", "status": 503}, ref)
        except Exception:
            log.exception("command failed", command=kind)
            status = 500
            socket.tell("error", {"message": "The command failed; it has been logged", "status": 500}, ref)
        if kind in AUDITED:
            await self._audit.note(request, socket.actor, kind, "realtime", PATH, status)


def _data(command: dict[str, Any]) -> bytes:
    """Raises ApiError."""
    try:
        return orjson.dumps(command.get("data", {}))
    except orjson.JSONEncodeError:
        raise ApiError(400, "What is in data nests too deeply") from None


def _command(text: str) -> dict[str, Any]:
    """Raises ApiError."""
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ApiError(400, "A message is JSON: {type, data, ref}") from None
    if not isinstance(given, dict) or not isinstance(given.get("type"), str):
        raise ApiError(400, "A message has a type: {type, data, ref}")
    ref = given.get("ref")
    if ref is not None and not (isinstance(ref, int) or (isinstance(ref, str) and len(ref) <= 64)):
        raise ApiError(400, "ref is a number, or a text of at most 64 characters")
    return given


def _resumption(request: web.Request) -> tuple[str, list[str]]:
    """Raises ApiError."""
    resume = request.query.get("resume", "")
    if resume and not POSITION.fullmatch(resume):
        raise ApiError(400, "resume is the seq of the last event that was heard")
    rooms = [one for one in request.query.get("rooms", "").split(",") if one]
    if len(rooms) > MAX_REJOINED:
        raise ApiError(400, f"At most {MAX_REJOINED} rooms are taken up again")
    return resume, rooms
