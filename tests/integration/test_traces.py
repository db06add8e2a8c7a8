"""Spans of sampled exchanges reach a collector by OTLP, with the client's span above and the application's below."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.telemetry.access_log import as_logfmt
from tests.conftest import Start
from tests.wire import ScriptedUpstream

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.tokens: set[str] = set()
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        data = await request.read()
        told = ExportTraceServiceRequest()
        told.ParseFromString(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        self.tokens.add(request.headers.get("x-token", ""))
        for one in told.resource_spans:
            self.services |= {row.value.string_value for row in one.resource.attributes if row.key == "service.name"}
            for scope in one.scope_spans:
                self.spans += scope.spans
        return web.Response()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", made.take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def terms(collector: Collector, more: str) -> str:
    return (
        f'traces: {{endpoint: "http://127.0.0.1:{collector.port}/v1/traces", headers: {{x-token: sesame}}, {more}}}\n'
    )


def attributes(span: Span) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def test_a_span_stands_between_the_clients_and_the_applications(
    serve: Start, upstream: ScriptedUpstream, collector: Collector
) -> None:
    served = await serve(upstream.port, more=terms(collector, "sample: 0%"), limits="{few: {limit: 1/1h}}")
    traced = f"traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: vendor=1\r\n"
    _, _, body = await served.ask(f"GET /a?secret=1 HTTP/1.1\r\nHost: a\r\n{traced}\r\n".encode())
    sent = body.decode().split("traceparent: ")[1].split("\r\n")[0]
    assert "tracestate: vendor=1" in body.decode()
    refused = await served.ask(f"GET /a HTTP/1.1\r\nHost: a\r\n{traced}\r\n".encode())
    assert refused[0] == 429
    _, _, body = await served.ask(f"GET /b HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{TRACE}-{PARENT}-00\r\n\r\n".encode())
    exporter = served.proxy.traces
    assert exporter is not None
    await asyncio.to_thread(exporter._provider.force_flush)
    first, second = collector.spans
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert sent == f"00-{TRACE}-{first.span_id.hex()}-01"
    assert first.name == "GET everything" or first.name.startswith("GET ")
    told = attributes(first)
    assert (told["http.response.status_code"], told["url.path"]) == (200, "/a")
    assert "secret" not in str(told)
    assert first.end_time_unix_nano > first.start_time_unix_nano
    assert first.kind == Span.SPAN_KIND_SERVER
    assert attributes(second)["error.type"] == "rate-limited"
    assert second.status.code == Status.STATUS_CODE_UNSET, "a refusal is no failure of ours"
    assert collector.services == {"simplepro-proxy"}
    assert collector.tokens == {"sesame"}


@pytest.mark.parametrize(("share", "least", "most"), [("0%", 0, 0), ("100%", 40, 40), ("50%", 8, 32)])
async def test_a_share_is_sampled_and_the_flag_tells(
    share: str, least: int, most: int, serve: Start, upstream: ScriptedUpstream, collector: Collector
) -> None:
    served = await serve(upstream.port, more=terms(collector, f"sample: {share}"))
    flags = []
    for _ in range(40):
        _, _, body = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        flags.append(body.decode().split("traceparent: ")[1].split("\r\n")[0][-2:])
    exporter = served.proxy.traces
    assert exporter is not None
    assert exporter.spans == flags.count("01")
    assert least <= exporter.spans <= most
    url = f"http://127.0.0.1:{served.proxy.admin.port}/metrics"
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert "trace_id" not in await answer.text()
        async with session.get(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"}) as answer:
            families = list(openmetrics(await answer.text()))  # type: ignore[no-untyped-call]  # it has no types
    durations = next(one for one in families if one.name == "proxy_request_duration_seconds")
    examples = [one for one in durations.samples if one.exemplar]
    assert bool(examples) == bool(exporter.spans)
    assert all(len(one.exemplar.labels["trace_id"]) == 32 for one in examples if one.exemplar)
    assert all(one.exemplar.value <= float(one.labels["le"]) for one in examples if one.exemplar)


async def test_what_is_not_followed_passes_as_it_came_and_most_is_a_bound(
    serve: Start, upstream: ScriptedUpstream, collector: Collector
) -> None:
    given = f"00-{TRACE}-{PARENT}-01"
    served = await serve(upstream.port, more=terms(collector, "sample: 0%, follow: false"))
    _, _, body = await served.ask(f"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {given}\r\n\r\n".encode())
    assert f"traceparent: {given}" in body.decode()
    busy = await serve(upstream.port, more=terms(collector, "sample: 100%, most: 3"))
    for _ in range(12):
        await busy.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    exporter = busy.proxy.traces
    assert exporter is not None
    assert exporter.spans + exporter.skipped == 12
    assert exporter.skipped >= 3


async def test_a_collector_that_is_away_holds_nothing_up(serve: Start, upstream: ScriptedUpstream) -> None:
    dead = Collector()
    dead.port = 9
    served = await serve(upstream.port, more=terms(dead, "sample: 100%"))
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.policy.load.otel_installed", lambda: False)
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\nlistener: {address: '127.0.0.1:0'}\nadmin: {address: '127.0.0.1:0'}\n"
        "traces: {endpoint: 'http://127.0.0.1:4318/v1/traces'}\nclusters: {app: {endpoints: ['127.0.0.1:1']}}\n"
        "routes: {all: {match: {prefix: /}, to: app}}\n"
    )
    with pytest.raises(PolicyError) as told:
        load(path, {})
    assert "simplepro-proxy[otel]" in str(told.value.findings[0])
    assert ":4:" in str(told.value.findings[0])


def test_logfmt_has_the_same_facts() -> None:
    line = orjson.dumps({"a": 1, "b": "x y", "c": [{"d": True}], "e": 'q"', "f": ""})
    assert as_logfmt(line) == b'a=1 b="x y" c.0.d=true e="q\\"" f=""\n'
