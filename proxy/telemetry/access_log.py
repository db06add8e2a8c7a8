"""One JSON line an exchange, written to its file by a thread; security events go to a logger of their own.

A line holds no query string, no header value, no client address, no token and no body: paths, counts and ids only.
It is made by formatting, from parts that are known to need no escape (a path that does is escaped): 2 µs, where a
dictionary through orjson took 8.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable

import orjson

from proxy.exchange import Exchange
from proxy.telemetry.lines import write_lines

log = logging.getLogger(__name__)

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes of lines that wait to be written."""
FLUSH_SECONDS = 0.2
CLOSE_SECONDS = 1.0

_PLAIN = re.compile(rb"[ !#-\[\]-~]*")
_LINE = (
    b'{"time":"%b.%03dZ","event":"request","method":"%b","path":%b,"status":%d,"duration_ms":%.3f,"route":"%b",'
    b'"endpoint":"%b","bytes_in":%d,"bytes_out":%d,"request_id":"%b","correlation_id":"%b","trace":"%b"%b}\n'
)


class AccessLog:
    """`emit` never blocks: past MAX_QUEUED unwritten bytes it drops and counts."""

    __slots__ = (
        "_every",
        "_fd",
        "_lines",
        "_now",
        "_queued",
        "_second",
        "_second_text",
        "_seen",
        "_silent",
        "_task",
        "_writing",
        "dropped",
        "logfmt",
        "shared",
    )

    def __init__(self, sample: float, fd: int = 1, now: Callable[[], float] = time.time) -> None:
        self.sample(sample)
        self._fd = fd
        self._now = now
        self._lines: list[bytes] = []
        self._queued = 0
        self._second = 0
        self._second_text = b""
        self._seen = 0
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self.dropped = 0
        self.logfmt = False
        """Lines of name=value instead of JSON's; the same facts."""
        self.shared = False
        """Whether other processes write to the same file."""

    def sample(self, share: float | None) -> None:
        """That share of good answers from now on; None writes nothing at all."""
        self._silent = share is None
        self._every = 0 if not share or share <= 0 else max(1, round(1 / share))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="access log")

    def emit(self, exchange: Exchange, seconds: float) -> None:
        """Refusals and failures are always written, the rest one in so many."""
        if self._silent:
            return
        self._seen += 1
        if not exchange.rejection and not exchange.failure and (not self._every or self._seen % self._every):
            return
        if self._queued > MAX_QUEUED:
            self.dropped += 1
            return
        line = self._line(exchange, seconds)
        if self.logfmt:
            line = as_logfmt(line)
        self._queued += len(line)
        self._lines.append(line)

    def _line(self, exchange: Exchange, seconds: float) -> bytes:
        """Times in milliseconds, sizes in bytes of body."""
        now = self._now()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        path, route = exchange.path, exchange.route
        more = b',"upstream_ms":%.3f' % (exchange.upstream_time * 1000) if exchange.upstream_time >= 0 else b""
        if exchange.cached:
            more += b',"cache":"%b"' % exchange.cached.encode()
        if exchange.rejection or exchange.failure or exchange.verdicts or exchange.websocket:
            more += _unusual(exchange)
        return _LINE % (
            self._second_text,
            min(999, round((now - second) * 1000)),
            exchange.method,
            b'"%b"' % path if _PLAIN.fullmatch(path) else orjson.dumps(path.decode("latin-1")),
            exchange.status,
            seconds * 1000,
            route.label if route else b"",
            exchange.endpoint.encode(),
            exchange.bytes_in,
            exchange.bytes_out,
            exchange.request_id,
            exchange.correlation_id,
            exchange.traceparent,
            more,
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if self._lines and (self._writing is None or self._writing.done()):
                self._writing = write_apart(self._write, self._take())

    def _take(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        self._queued = 0
        return lines

    def _write(self, lines: list[bytes]) -> None:
        """A file that can't be written to costs its lines, which are counted, and nothing else."""
        try:
            write_lines(self._fd, lines, shared=self.shared)
        except OSError as error:
            self.dropped += len(lines)
            log.warning("access log can't be written: %s", error.strerror)

    async def close(self) -> None:
        """What is left has a second; who reads it may have stopped, and nobody waits for that."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._writing is not None:
                    await asyncio.shield(self._writing)
                if self._lines:
                    await asyncio.shield(write_apart(self._write, self._take()))
        except TimeoutError:
            log.warning("access log: its reader has stopped; the last lines are lost")


def write_apart(write: Callable[[list[bytes]], None], lines: list[bytes]) -> asyncio.Future[None]:
    """In a thread that nothing waits for at the process's end, since a pipe that nobody reads blocks for ever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        write(lines)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else done.set_result(None))

    threading.Thread(target=run, name="access log", daemon=True).start()
    return done


_WORD = re.compile(r"[^\s\"=]+")


def as_logfmt(line: bytes) -> bytes:
    """A JSON line's facts as name=value, lists and objects by their path; what holds a space or a quote is quoted."""
    words: list[str] = []

    def tell(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                tell(f"{name}.{key}" if name else key, one)
        elif isinstance(value, list):
            for index, one in enumerate(value):
                tell(f"{name}.{index}", one)
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words.append(f"{name}={text if _WORD.fullmatch(text) else orjson.dumps(text).decode()}")

    tell("", orjson.loads(line))
    return " ".join(words).encode() + b"\n"


def _unusual(exchange: Exchange) -> bytes:
    fields: dict[str, object] = {}
    if exchange.rejection:
        fields["rejection"] = exchange.rejection
    if exchange.failure:
        fields["failure"] = exchange.failure
    if exchange.verdicts:
        fields["verdicts"] = [
            {"rule": v.rule, "reason": v.reason, "enforced": v.enforced}
            | ({"detail": v.detail or v.why} if v.detail or v.why else {})
            for v in exchange.verdicts
        ]
    if exchange.websocket:
        fields["websocket"] = True
    return b"," + orjson.dumps(fields)[1:-1]
