"""One JSON line an exchange, written off the hot path in batches; security events go to a logger of their own.

Neither holds a query string, a header value, a client's token or a body: paths, counts and ids only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from proxy.exchange import Exchange

MAX_QUEUED = 20_000
FLUSH_SECONDS = 0.2

Record = tuple[float, Exchange, float]


class AccessLog:
    """`emit` never blocks: past MAX_QUEUED unwritten records it drops and counts."""

    __slots__ = ("_every", "_fd", "_now", "_queue", "_seen", "_task", "dropped")

    def __init__(self, sample: float, fd: int = 1, now: Callable[[], float] | None = None) -> None:
        self._every = 0 if sample <= 0 else max(1, round(1 / sample))
        self._fd = fd
        self._now = now or (lambda: datetime.now(UTC).timestamp())
        self._queue: list[Record] = []
        self._seen = 0
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="access log")

    def emit(self, exchange: Exchange, seconds: float) -> None:
        """Refusals and failures are always written, the rest one in so many."""
        self._seen += 1
        if not exchange.rejection and not exchange.failure and (not self._every or self._seen % self._every):
            return
        if len(self._queue) >= MAX_QUEUED:
            self.dropped += 1
            return
        self._queue.append((self._now(), exchange, seconds))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if self._queue:
                await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        records, self._queue = self._queue, []
        data = b"".join([orjson.dumps(line(*record), option=orjson.OPT_APPEND_NEWLINE) for record in records])
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._flush()


def line(at: float, exchange: Exchange, seconds: float) -> dict[str, object]:
    """Times in milliseconds, sizes in bytes of body."""
    fields: dict[str, object] = {
        "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "event": "request",
        "method": exchange.method.decode("latin-1"),
        "path": exchange.path.decode("latin-1"),
        "status": exchange.status,
        "duration_ms": round(seconds * 1000, 3),
        "route": exchange.route.name if exchange.route else "",
        "endpoint": exchange.endpoint,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "request_id": exchange.request_id.decode(),
        "correlation_id": exchange.correlation_id.decode(),
        "trace": exchange.traceparent.decode(),
    }
    if exchange.upstream_time >= 0:
        fields["upstream_ms"] = round(exchange.upstream_time * 1000, 3)
    if exchange.rejection:
        fields["rejection"] = exchange.rejection
    if exchange.failure:
        fields["failure"] = exchange.failure
    if exchange.verdicts:
        fields["verdicts"] = [{"rule": v.rule, "reason": v.reason, "enforced": v.enforced} for v in exchange.verdicts]
    if exchange.websocket:
        fields["websocket"] = True
    return fields
