"""The application's log: one JSON line an event on standard error, secrets masked by key."""

from __future__ import annotations

import logging
import sys

import orjson
import structlog

MASKED = frozenset({"password", "token", "authorization", "cookie", "ssn", "secret", "apikey", "creditcard"})


def mask(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in event:
        if any(word in key.lower().replace("_", "") for word in MASKED):
            event[key] = "***"
    return event


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
