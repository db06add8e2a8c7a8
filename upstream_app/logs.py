"""The application's log: one JSON line an event on standard error, secrets masked by key."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar

import orjson
import structlog

MASKED = frozenset({"password", "token", "authorization", "cookie", "ssn", "secret", "apikey", "creditcard"})

MAX_DEPTH = 8
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this task serves."""


def mask(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Wherever in the event the key stands; the request's id is added where one runs."""
    for key, value in event.items():
        event[key] = masked(key, value)
    if "request_id" not in event and (current := request_id.get()):
        event["request_id"] = current
    return event


def masked(key: str, value: object, depth: int = 0) -> object:
    if any(word in key.lower().replace("_", "").replace("-", "") for word in MASKED):
        return "***"
    if depth >= MAX_DEPTH:
        return value if isinstance(value, str | int | float | bool | None) else "…"
    if isinstance(value, Mapping):
        return {name: masked(str(name), one, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked("", one, depth + 1) for one in value]
    return value


def configure(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask,
            structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value, default=str).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
