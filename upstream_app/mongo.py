"""The MongoDB client as the report wants it; topology comes from the URI alone."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase

from upstream_app.settings import Settings

Document = dict[str, Any]
Database = AsyncDatabase[Document]
Client = AsyncMongoClient[Document]

MAX_TIME_MS = 5_000
"""How long the server may work on one query (maxTimeMS)."""


OPTIONS: dict[str, Any] = {
    "appname": "simplepro",
    "maxIdleTimeMS": 300_000,
    "waitQueueTimeoutMS": 5_000,
    "serverSelectionTimeoutMS": 5_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 45_000,
    "retryWrites": True,
    "retryReads": True,
    "w": "majority",
    "journal": True,
    "wTimeoutMS": 10_000,
}


class Asked:
    """Whether the database answered a command of one piece of work."""

    __slots__ = ("answered",)

    def __init__(self) -> None:
        self.answered = False


_asked: ContextVar[Asked | None] = ContextVar("asked", default=None)


def asking() -> Asked:
    """Of what this task does from now on, and the tasks that it makes."""
    asked = Asked()
    _asked.set(asked)
    return asked


class _Answers(monitoring.CommandListener):
    def started(self, event: monitoring.CommandStartedEvent) -> None: ...

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        asked = _asked.get()
        if asked is not None:
            asked.answered = True

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def connect(settings: Settings, *listeners: Any) -> Client:
    """Connects when first used. An option that the URI gives is the URI's; `listeners` are pymongo's."""
    sizes = {"maxPoolSize": settings.MONGODB_MAX_POOL_SIZE, "minPoolSize": settings.MONGODB_MIN_POOL_SIZE}
    given = {name.lower() for name, _ in parse_qsl(urlsplit(settings.MONGODB_URI).query)}
    options = {name: value for name, value in {**OPTIONS, **sizes}.items() if name.lower() not in given}
    return AsyncMongoClient(settings.MONGODB_URI, tz_aware=True, event_listeners=[_Answers(), *listeners], **options)


def database(client: Client) -> Database:
    return client.get_default_database("simplepro")
