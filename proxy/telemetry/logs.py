"""The proxy's own log and its security events: JSON lines on standard error; standard output is the access log's.

Who reads them may stop reading, and a disk may be full: neither stops the proxy. Lines go to a queue with a bound, a
thread writes them, and what can't be written is counted.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from datetime import UTC, datetime
from typing import TextIO, cast

import structlog

from proxy.telemetry.lines import write_lines

MAX_QUEUED = 1024 * 1024
"""Bytes of lines that wait to be written."""
CLOSE_SECONDS = 1.0


class Sink:
    """What loggers take for a text file; `write` never blocks and never raises."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._queued = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def write(self, text: str) -> int:
        data = text.encode(errors="backslashreplace")
        with self._wake:
            if self._queued + len(data) > MAX_QUEUED:
                self.dropped += 1
                return len(text)
            self._lines.append(data)
            self._queued += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._wake.notify_all()
        return len(text)

    def flush(self) -> None:
        """Loggers call it after every line, and need not wait."""

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._lines:
                    self._wake.wait()
                lines, self._lines = self._lines, []
            try:
                write_lines(self._fd, lines, shared=True)
            except OSError:
                self.dropped += len(lines)
            with self._wake:
                self._queued = sum(map(len, self._lines))
                self._wake.notify_all()

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Wait so long for what is queued; whether it was written or counted."""
        end = time.monotonic() + seconds
        with self._wake:
            while self._queued:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._wake.wait(left)
        return True


sink = Sink()
atexit.register(sink.close)


class JsonLines(logging.Formatter):
    """A line a record, whatever is in it; a traceback is a field."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if request_id := record.__dict__.get("request_id"):
            line["request_id"] = str(request_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str) -> None:
    """Set up, or change the level of, structlog and the standard library's loggers alike."""
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler(cast(TextIO, sink))
        handler.setFormatter(JsonLines())
        logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(level)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, sink)),
    )
