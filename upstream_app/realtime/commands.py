"""What a client may say on /realtime, and what becomes of it. Each command says who may give it, for which room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from bson import ObjectId
from pydantic import BaseModel, Field, model_validator

from upstream_app.auth.permissions import CREW, Actor, within
from upstream_app.auth.store import UserStore
from upstream_app.crews.api import CrewApi, Emergency
from upstream_app.customers.model import Written
from upstream_app.documents import NotFound
from upstream_app.events import Events
from upstream_app.jobs.store import JobStore
from upstream_app.messages.api import Content, MessageApi
from upstream_app.realtime.hub import MAX_ROOMS, Hub, Socket
from upstream_app.realtime.statistics import ROOM, Statistics
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import Identity

TYPING_SECONDS = 5.0
LEADERS = ["role:dispatcher", "role:manager"]


class OfJob(Written):
    jobId: Identity


class OfThread(Written):
    threadId: Identity


class Position(Written):
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    accuracy: Annotated[float, Field(ge=0, le=100_000)] | None = None
    jobId: Identity | None = None


class CrewStatus(Written):
    status: Literal["available", "busy", "break", "offline"]
    jobId: Identity | None = None


class Said(Written):
    """`id` is the job's, the crew member's or the user's; a crew message without one is for all of the crew."""

    to: Literal["job", "crew", "user", "broadcast"]
    id: Identity | None = None
    content: Content

    @model_validator(mode="after")
    def _addressed(self) -> Said:
        if self.to in ("job", "user") and self.id is None:
            raise ValueError(f"a message to a {self.to} names its id")
        return self


class ToThread(OfThread):
    content: Content


class Edited(Written):
    messageId: Identity
    content: Content


class OfMessage(Written):
    messageId: Identity


class Nothing(Written):
    pass


Answer = dict[str, Any]
Command = Callable[[Socket, Any], Awaitable[Answer]]


class Commands:
    """`known` maps a type to the shape of its data and its handler, whose answer goes to the one who asked."""

    def __init__(
        self,
        hub: Hub,
        events: Events,
        jobs: JobStore,
        users: UserStore,
        messages: MessageApi,
        crews: CrewApi,
        statistics: Statistics,
    ) -> None:
        self._hub = hub
        self._events = events
        self._jobs = jobs
        self._users = users
        self._messages = messages
        self._crews = crews
        self._statistics = statistics
        self._typing: dict[tuple[Socket, str], asyncio.TimerHandle] = {}
        self.known: dict[str, tuple[type[BaseModel], Command]] = {
            "subscribeToJob": (OfJob, self.subscribe_job),
            "unsubscribeFromJob": (OfJob, self.unsubscribe_job),
            "locationUpdate": (Position, self.location),
            "statusUpdate": (CrewStatus, self.status),
            "sendMessage": (Said, self.say),
            "emergencyAlert": (Emergency, self.emergency),
            "subscribeToAnalytics": (Nothing, self.analytics),
            "unsubscribeFromAnalytics": (Nothing, self.no_analytics),
            "message.send": (ToThread, self.send),
            "message.read": (OfThread, self.read),
            "message.edit": (Edited, self.edit),
            "message.delete": (OfMessage, self.delete),
            "typing.start": (OfThread, self.typing),
            "typing.stop": (OfThread, self.stopped_typing),
            "thread.subscribe": (OfThread, self.subscribe_thread),
            "thread.unsubscribe": (OfThread, self.unsubscribe_thread),
        }

    def forget(self, socket: Socket) -> None:
        """Of a client that is gone nothing goes on."""
        for key in [key for key in self._typing if key[0] is socket]:
            self._typing.pop(key).cancel()
            self._publish_typing(socket.actor, key[1], "user.stopped_typing")

    # rooms

    async def rejoin(self, socket: Socket, room: str) -> None:
        """A room of an earlier connection, if it may still be joined. Raises ApiError, NotFound."""
        kind, _, identity = room.partition(":")
        if room == ROOM:
            self._join_analytics(socket)
        elif kind == "job" and ObjectId.is_valid(identity):
            await self._may_see(socket.actor, ObjectId(identity))
            self._join(socket, room)
        elif kind == "thread" and ObjectId.is_valid(identity):
            await self._messages.thread(ObjectId(identity), socket.actor.user)
            self._join(socket, room)
        else:
            raise ApiError(400, "There is no such room")

    async def recheck(self, socket: Socket) -> None:
        """Leave what may no more be seen, as a job that is another crew's now."""
        for room in [one for one in socket.rooms if one.startswith(("job:", "thread:"))]:
            try:
                await self.rejoin(socket, room)
            except (NotFound, ApiError):
                self._hub.leave(socket, room)
                socket.tell("unsubscribed", {"room": room})

    async def _may_see(self, actor: Actor, job: ObjectId) -> Any:
        scope = actor.scope("jobs:read")
        if scope is None:
            raise ApiError(403, "Your role may not see jobs")
        return await self._jobs.get(job, within(actor, scope))

    def _join(self, socket: Socket, room: str) -> None:
        if not self._hub.join(socket, room):
            raise ApiError(429, f"At most {MAX_ROOMS} rooms on one connection; leave some")

    async def subscribe_job(self, socket: Socket, asked: OfJob) -> Answer:
        await self._may_see(socket.actor, ObjectId(asked.jobId))
        self._join(socket, f"job:{asked.jobId}")
        socket.tell("jobSubscribed", {"jobId": asked.jobId})
        return {"room": f"job:{asked.jobId}"}

    async def unsubscribe_job(self, socket: Socket, asked: OfJob) -> Answer:
        self._hub.leave(socket, f"job:{asked.jobId}")
        return {}

    async def subscribe_thread(self, socket: Socket, asked: OfThread) -> Answer:
        await self._messages.thread(ObjectId(asked.threadId), socket.actor.user)
        self._join(socket, f"thread:{asked.threadId}")
        return {"room": f"thread:{asked.threadId}"}

    async def unsubscribe_thread(self, socket: Socket, asked: OfThread) -> Answer:
        self._hub.leave(socket, f"thread:{asked.threadId}")
        return {}

    def _join_analytics(self, socket: Socket) -> None:
        if socket.actor.scope("reports:read") is None:
            raise ApiError(403, "Your role may not see reports")
        self._join(socket, ROOM)

    async def analytics(self, socket: Socket, asked: Nothing) -> Answer:
        self._join_analytics(socket)
        socket.tell("analyticsUpdate", await self._statistics.now())
        return {"room": ROOM}

    async def no_analytics(self, socket: Socket, asked: Nothing) -> Answer:
        self._hub.leave(socket, ROOM)
        return {}

    # crews

    async def _on_the_road(self, actor: Actor, job: str | None) -> None:
        if actor.role not in CREW:
            raise ApiError(403, "Only crews tell where they are and what they do")
        if job is not None:
            await self._may_see(actor, ObjectId(job))

    async def location(self, socket: Socket, asked: Position) -> Answer:
        await self._on_the_road(socket.actor, asked.jobId)
        me = str(socket.actor.user)
        data = {"user": me, **asked.model_dump(exclude_none=True)}
        self._events.publish("crewLocationUpdate", [*LEADERS, f"crew:{me}"], data, passing=True)
        if asked.jobId is not None:
            self._events.publish("jobLocationUpdate", [f"job:{asked.jobId}"], data, passing=True)
        return {}

    async def status(self, socket: Socket, asked: CrewStatus) -> Answer:
        await self._on_the_road(socket.actor, asked.jobId)
        me = str(socket.actor.user)
        data = {"user": me, "name": socket.actor.name, **asked.model_dump(exclude_none=True)}
        rooms = [*LEADERS, f"crew:{me}", *([f"job:{asked.jobId}"] if asked.jobId else [])]
        self._events.publish("crewStatusUpdate", rooms, data)
        self._events.publish("teamStatusUpdate", ["crew:all"], data)
        return {}

    async def emergency(self, socket: Socket, asked: Emergency) -> Answer:
        return {"told": await self._crews.call_for_help(socket.actor, asked)}

    # messages that pass

    async def say(self, socket: Socket, asked: Said) -> Answer:
        actor, target = socket.actor, asked.id or ""
        leads = actor.scope("jobs:assign") is not None or actor.scope("system_settings:update") is not None
        kind, rooms = "newMessage", [f"{asked.to}:{target}"]
        if asked.to == "job":
            job = await self._may_see(actor, ObjectId(target))
            rooms += [f"user:{one['member']}" for one in job["crew"]]
        elif asked.to == "user":
            if await self._users.raw.find_one({"_id": ObjectId(target), "active": True}, {"_id": 1}) is None:
                raise NotFound("user")
        elif asked.to == "crew":
            if not leads and actor.role not in CREW:
                raise ApiError(403, "Only crews and those who assign them write to crews")
            rooms = [f"crew:{target or 'all'}"]
        else:
            if not leads:
                raise ApiError(403, "Only those who lead tell everybody")
            kind, rooms = "broadcast", ["everybody"]
        data = {"from": str(actor.user), "name": actor.name, "to": asked.to, "content": asked.content}
        self._events.publish(kind, rooms, data | ({"id": target} if target else {}))
        return {}

    # threads

    async def send(self, socket: Socket, asked: ToThread) -> Answer:
        return await self._messages.send(socket.actor, ObjectId(asked.threadId), asked.content)

    async def read(self, socket: Socket, asked: OfThread) -> Answer:
        return {"readUpTo": await self._messages.mark_read(socket.actor, ObjectId(asked.threadId))}

    async def edit(self, socket: Socket, asked: Edited) -> Answer:
        return await self._messages.change_own(socket.actor, ObjectId(asked.messageId), asked.content)

    async def delete(self, socket: Socket, asked: OfMessage) -> Answer:
        await self._messages.take_back(socket.actor, ObjectId(asked.messageId))
        return {}

    async def typing(self, socket: Socket, asked: OfThread) -> Answer:
        await self._messages.thread(ObjectId(asked.threadId), socket.actor.user)
        key = (socket, asked.threadId)
        running = self._typing.pop(key, None)
        if running is not None:
            running.cancel()
        else:
            self._publish_typing(socket.actor, asked.threadId, "user.typing")
        self._typing[key] = asyncio.get_running_loop().call_later(TYPING_SECONDS, self._stop_typing, key)
        return {}

    async def stopped_typing(self, socket: Socket, asked: OfThread) -> Answer:
        self._stop_typing((socket, asked.threadId))
        return {}

    def _stop_typing(self, key: tuple[Socket, str]) -> None:
        timer = self._typing.pop(key, None)
        if timer is not None:
            timer.cancel()
            self._publish_typing(key[0].actor, key[1], "user.stopped_typing")

    def _publish_typing(self, actor: Actor, thread: str, kind: str) -> None:
        data = {"threadId": thread, "user": str(actor.user), "name": actor.name}
        self._events.publish(kind, [f"thread:{thread}"], data, passing=True)
