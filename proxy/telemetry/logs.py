"""The proxy's own log and its security events: JSON lines on standard error; standard output is the access log's."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Set up, or change the level of, structlog and the standard library's loggers alike."""
    logging.basicConfig(format='{"event": "%(message)s", "logger": "%(name)s"}')
    logging.getLogger().setLevel(level)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
