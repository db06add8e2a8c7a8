"""Spans of the exchanges that are sampled, to an OpenTelemetry collector; the extra `otel` brings what this needs.

Which exchange is sampled is known before it begins (proxy.filters.request_id); for the others nothing is made, since a
span costs 70 µs and more.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy import __version__

if TYPE_CHECKING:
    from proxy.exchange import Exchange

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0
MAX_QUEUED = 2048


def installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class TraceTerms:
    """`endpoint` takes OTLP over HTTP; `most` is spans a second, past which exchanges go without."""

    endpoint: str
    service: str
    most: int
    headers: tuple[tuple[str, str], ...] = ()


class _Ids:
    """What the next span is called: the exchange has its ids before its span is made."""

    trace = span = 0

    def generate_span_id(self) -> int:
        return self.span

    def generate_trace_id(self) -> int:
        return self.trace

    def is_trace_id_random(self) -> bool:
        return True


class Traces:
    """`ended` makes an exchange's span; a thread of its own sends them, and drops what a slow collector leaves."""

    def __init__(self, terms: TraceTerms) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self.terms = terms
        self.spans = self.skipped = 0
        self._ids = _Ids()
        self._second, self._made = 0, 0
        self._api: Any = trace
        self._root = Context()
        exporter = OTLPSpanExporter(endpoint=terms.endpoint, headers=dict(terms.headers), timeout=5)
        resource = Resource.create({"service.name": terms.service, "service.version": __version__})
        self._provider: Any = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=self._ids,  # type: ignore[arg-type]  # its shape is enough
            shutdown_on_exit=False,
        )  # fmt: skip
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED))
        self._tracer = self._provider.get_tracer("simplepro-proxy", __version__)

    def ended(self, exchange: Exchange, seconds: float) -> None:
        now = time.time_ns()
        second = now // 1_000_000_000
        if second != self._second:
            self._second, self._made = second, 0
        self._made += 1
        if self._made > self.terms.most:
            self.skipped += 1
            return
        self.spans += 1
        api, ids, parts = self._api, self._ids, exchange.traceparent.split(b"-")
        ids.trace, ids.span = int(parts[1], 16), int(parts[2], 16)
        context = self._root
        if exchange.parent_span:
            parent = api.SpanContext(ids.trace, int(exchange.parent_span, 16), True, api.TraceFlags(1))
            context = api.set_span_in_context(api.NonRecordingSpan(parent), self._root)
        route = exchange.route.name if exchange.route else ""
        method = exchange.method.decode("latin-1")
        span = self._tracer.start_span(
            f"{method} {route}".rstrip(), context, api.SpanKind.SERVER, _attributes(exchange, method, route),
            start_time=now - round(seconds * 1e9),
        )  # fmt: skip
        if exchange.status >= 500 or exchange.failure:
            span.set_status(api.Status(api.StatusCode.ERROR, exchange.rejection or exchange.failure))
        span.end(now)

    async def close(self) -> None:
        """What is queued has a moment to leave; a collector that is away does not hold the end up."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            log.warning("the last spans did not leave in time")


def _attributes(exchange: Exchange, method: str, route: str) -> dict[str, Any]:
    """By OpenTelemetry's HTTP conventions; no query, no address, no user."""
    told: dict[str, Any] = {
        "http.request.method": method, "http.route": route, "url.path": exchange.path.decode("latin-1"),
        "url.scheme": exchange.scheme.decode(), "http.response.status_code": exchange.status,
        "network.protocol.version": f"1.{exchange.minor}", "simplepro.request_id": exchange.request_id.decode(),
    }  # fmt: skip
    if exchange.endpoint:
        told["simplepro.endpoint"] = exchange.endpoint
    if exchange.upstream_time >= 0:
        told["simplepro.upstream_ms"] = round(exchange.upstream_time * 1000, 3)
    if exchange.cached:
        told["simplepro.cache"] = exchange.cached
    if exchange.rejection:
        told["error.type"] = exchange.rejection
        told["simplepro.rule"] = next((one.rule for one in reversed(exchange.verdicts) if one.enforced), "")
        told["simplepro.decision"] = exchange.decision.decode()
    return told
