"""/api/messages: threads between people, about a job, in a group; the newest first, by cursor."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from bson import ObjectId
from pydantic import Field, StringConstraints, model_validator
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.auth.permissions import Actor, within
from upstream_app.auth.store import UserStore
from upstream_app.customers.model import Text, Written
from upstream_app.documents import Collection, Duplicate, NotFound, Versions, now
from upstream_app.events import Events
from upstream_app.jobs.store import JobStore
from upstream_app.mongo import MAX_TIME_MS, Database, Document
from upstream_app.notifications.api import Notifier
from upstream_app.web.answers import success
from upstream_app.web.endpoint import ANY_USER, Call, Endpoint, shown
from upstream_app.web.errors import ApiError
from upstream_app.web.lists import Identity, Page, Whole, listed

THREAD_INDEXES = [
    IndexModel([("members", ASCENDING), ("_id", DESCENDING)], name="members"),
    IndexModel([("pair", ASCENDING)], name="pair", unique=True, sparse=True),
]
MESSAGE_INDEXES = [IndexModel([("thread", ASCENDING), ("_id", DESCENDING)], name="thread")]
MENTION = re.compile(r"(?<![\w@.])@([A-Za-z0-9_.-]{1,60}[A-Za-z0-9_])")
Content = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=5_000)]


class NewThread(Written):
    kind: Literal["direct", "job", "group"]
    members: Annotated[list[Identity], Field(min_length=1, max_length=100)]
    title: Text | None = None
    jobId: Identity | None = None

    @model_validator(mode="after")
    def _fits(self) -> NewThread:
        if self.kind == "direct" and len(set(self.members)) != 1:
            raise ValueError("a direct thread has one other member")
        if (self.kind == "job") != (self.jobId is not None):
            raise ValueError("a job thread names its job, and no other does")
        return self


class NewMessage(Written):
    content: Content


class MessageQuery(Page):
    limit: Annotated[int, Whole, Field(ge=1, le=100)] = 50


def threads(database: Database) -> Collection:
    return Collection(database, "threads", "thread", THREAD_INDEXES, unique={"pair": "members"}, hidden=("pair",))


def messages(database: Database) -> Collection:
    return Collection(database, "messages", "message", MESSAGE_INDEXES)


class MessageApi:
    def __init__(
        self,
        opened: Collection,
        written: Collection,
        users: UserStore,
        jobs: JobStore,
        events: Events,
        notifier: Notifier,
    ) -> None:
        self.threads = opened
        self.messages = written
        self._users = users
        self._jobs = jobs
        self._events = events
        self._notifier = notifier

    def endpoints(self) -> list[Endpoint]:
        threads = "/api/messages/threads"
        one = f"{threads}/{{thread}}"
        return [
            Endpoint("GET", threads, self.find, ANY_USER, "One's threads", query=Page),
            Endpoint("POST", threads, self.open, ANY_USER, "Open a thread", NewThread, status=201),
            Endpoint("GET", one, self.get, ANY_USER, "One of one's threads"),
            Endpoint("GET", f"{one}/messages", self.read, ANY_USER, "Its messages", query=MessageQuery),
            Endpoint("POST", f"{one}/messages", self.write, ANY_USER, "Write", NewMessage, status=201),
            Endpoint("POST", f"{one}/read", self.receipt, ANY_USER, "Read up to now"),
            Endpoint("GET", "/api/messages/{id}", self.one, ANY_USER, "One message"),
            Endpoint("PATCH", "/api/messages/{id}", self.edit, ANY_USER, "Edit one's message", NewMessage),
            Endpoint("DELETE", "/api/messages/{id}", self.remove, ANY_USER, "Take one's message back"),
        ]

    async def thread(self, identity: ObjectId, user: ObjectId) -> Document:
        """One of the user's. Raises NotFound."""
        return await self.threads.get(identity, {"members": user})

    async def find(self, call: Call) -> web.Response:
        asked = call.query(Page)
        found, total = await self.threads.find({"members": call.actor.user}, asked)
        return listed("threads", found, total, asked)

    async def get(self, call: Call) -> web.Response:
        return shown(self.threads.shown(await self.thread(call.id("thread", "thread"), call.actor.user)))

    async def one(self, call: Call) -> web.Response:
        """Of a thread of one's own."""
        found = await self.messages.get(call.id(noun="message"))
        try:
            await self.thread(found["thread"], call.actor.user)
        except NotFound:
            raise NotFound("message") from None
        return shown(self.messages.shown(found))

    async def open(self, call: Call) -> web.Response:
        """A direct thread that is there already is given again."""
        given, me = call.body(NewThread), call.actor.user
        members = sorted({me, *(ObjectId(one) for one in given.members)})
        if await self._users.raw.count_documents({"_id": {"$in": members}, "active": True}) != len(members):
            raise ApiError(400, "Validation failed", validation=[{"field": "members", "message": "not all are users"}])
        fields: dict[str, Any] = {"kind": given.kind, "members": members, "title": given.title, "readUpTo": {}}
        if given.jobId is not None:
            scope = call.actor.scope("jobs:read")
            if scope is None:
                raise NotFound("job")
            fields["jobId"] = ObjectId(given.jobId)
            await self._jobs.get(fields["jobId"], within(call.actor, scope))
        if given.kind == "direct":
            if len(members) != 2:
                raise ApiError(400, "Nobody writes to oneself")
            fields["pair"] = "-".join(str(one) for one in members)
            if found := await self._direct(fields["pair"]):
                return found
        try:
            made = await self.threads.insert(fields)
        except Duplicate:
            if found := await self._direct(fields["pair"]):
                return found
            raise
        return shown(made, "Thread opened", 201, "/api/messages/threads")

    async def _direct(self, pair: str) -> web.Response | None:
        found = await self.threads.raw.find_one({"pair": pair}, max_time_ms=MAX_TIME_MS)
        return shown(self.threads.shown(found), "It was there already") if found else None

    async def read(self, call: Call) -> web.Response:
        thread = await self.thread(call.id("thread", "thread"), call.actor.user)
        asked = call.query(MessageQuery)
        found, total = await self.messages.find({"thread": thread["_id"]}, asked)
        return listed("messages", found, total, asked)

    async def write(self, call: Call) -> web.Response:
        content = call.body(NewMessage).content
        made = await self.send(call.actor, call.id("thread", "thread"), content)
        return shown(made, "Sent", 201, "/api/messages")

    async def send(self, actor: Actor, thread_id: ObjectId, content: str) -> Document:
        """The message as it is shown. Raises NotFound."""
        thread = await self.thread(thread_id, actor.user)
        fields = {"thread": thread["_id"], "author": actor.user, "content": content}
        made = await self.messages.insert(fields | {"edited": False, "removed": False})
        others = [one for one in thread["members"] if one != actor.user]
        self._events.publish("message.created", [f"thread:{thread['_id']}", *(f"user:{one}" for one in others)], made)
        data = {"threadId": str(thread["_id"])}
        named = await self._users.by_names(MENTION.findall(fields["content"])[:20])
        mentioned = [one["_id"] for one in named if one["_id"] in others]
        await self._notifier.tell(mentioned, "mention", f"{actor.username} mentioned you", data)
        rest = [one for one in others if one not in mentioned]
        await self._notifier.tell(rest, "message_received", f"{actor.username} wrote", data)
        return made

    async def receipt(self, call: Call) -> web.Response:
        return success({"readUpTo": await self.mark_read(call.actor, call.id("thread", "thread"))})

    async def mark_read(self, actor: Actor, thread: ObjectId) -> datetime:
        """To when all is read. Raises NotFound."""
        me, at = str(actor.user), now()

        def edit(document: Document) -> Document:
            return document | {"readUpTo": {**document["readUpTo"], me: at}}

        changed = await self.threads.change(thread, edit, which={"members": actor.user})
        data = {"threadId": changed["id"], "user": me, "at": at}
        self._events.publish("message.read_receipt", [f"thread:{changed['id']}"], data)
        return at

    async def edit(self, call: Call) -> web.Response:
        content, identity = call.body(NewMessage).content, call.id(noun="message")
        return shown(await self.change_own(call.actor, identity, content, call.expected), "Edited")

    async def change_own(self, actor: Actor, identity: ObjectId, content: str, expected: Versions = None) -> Document:
        """The message as it is shown. Raises NotFound, Conflict."""

        def change(document: Document) -> Document:
            if document["removed"]:
                raise NotFound("message")
            return document | {"content": content, "edited": True}

        changed = await self.messages.change(identity, change, expected, which={"author": actor.user})
        self._events.publish("message.edited", [f"thread:{changed['thread']}"], changed)
        return changed

    async def remove(self, call: Call) -> web.Response:
        await self.take_back(call.actor, call.id(noun="message"), call.expected)
        return success({}, "Taken back")

    async def take_back(self, actor: Actor, identity: ObjectId, expected: Versions = None) -> None:
        """The message stays as one that was taken back, without its text. Raises NotFound, Conflict."""

        def change(document: Document) -> Document:
            return document | {"content": "", "removed": True}

        changed = await self.messages.change(identity, change, expected, which={"author": actor.user})
        self._events.publish("message.deleted", [f"thread:{changed['thread']}"], {"messageId": changed["id"]})
