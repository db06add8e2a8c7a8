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
"""How long the server may work on one query (maxTimeMS); where OPERATION_MS holds, what is left of that."""
OPERATION_MS = 6_000
"""What one operation may take in all, for who serves requests: a connection waited for, the server, tries."""


LAG_SECONDS = 10.0
OPTIONS: dict[str, Any] = {
    "appname": "simplepro",
    "waitQueueTimeoutMS": 5_000,
    "retryWrites": True,
    "retryReads": True,
    "w": "majority",
    "journal": True,
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


def connect(settings: Settings, *listeners: Any, serving: bool = False) -> Client:
    """Connects when first used. An option that the URI gives is the URI's; `listeners` are pymongo's. Whoever is
    `serving` waits for no operation longer than OPERATION_MS."""
    times = {
        "maxIdleTimeMS": settings.MONGODB_MAX_IDLE_TIME_MS,
        "serverSelectionTimeoutMS": settings.MONGODB_SERVER_SELECTION_TIMEOUT_MS,
        "connectTimeoutMS": settings.MONGODB_CONNECT_TIMEOUT_MS,
        "socketTimeoutMS": settings.MONGODB_SOCKET_TIMEOUT_MS,
        "wTimeoutMS": settings.MONGODB_WTIMEOUT_MS,
    }
    sizes = {"maxPoolSize": settings.MONGODB_MAX_POOL_SIZE, "minPoolSize": settings.MONGODB_MIN_POOL_SIZE}
    deadline = {"timeoutMS": OPERATION_MS} if serving else {}
    given = {name.lower() for name, _ in parse_qsl(urlsplit(settings.MONGODB_URI).query)}
    options = {
        name: value for name, value in {**OPTIONS, **times, **sizes, **deadline}.items() if name.lower() not in given
    }
    return AsyncMongoClient(settings.MONGODB_URI, tz_aware=True, event_listeners=[_Answers(), *listeners], **options)


def replication(client: Client) -> dict[str, Any]:
    """How far each secondary is behind, in seconds, as its last heartbeat told; degraded from LAG_SECONDS on."""
    servers = client.topology_description.server_descriptions().values()
    written = {one.address: one.last_write_date for one in servers if one.last_write_date is not None}
    primary = next((one for one in servers if one.server_type_name == "RSPrimary"), None)
    if primary is None or primary.address not in written:
        return {"status": "up", "topology": client.topology_description.topology_type_name}
    newest = written[primary.address]
    behind = {
        f"{host}:{port}": round(max(0.0, newest - at), 1)
        for (host, port), at in written.items()
        if (host, port) != primary.address
    }
    late = {name: seconds for name, seconds in behind.items() if seconds > LAG_SECONDS}
    told: dict[str, Any] = {"status": "degraded" if late else "up", "lagSeconds": behind}
    return told | ({"reason": f"{', '.join(late)} behind"} if late else {})


def database(client: Client) -> Database:
    return client.get_default_database("simplepro")
