"""Which endpoints are asked, and how much at once: outliers, slow start, hedging by percentile, adaptive limits."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from proxy.upstream.cluster import Cluster
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.proxy.upstream.test_resilience import BREAKER, GET, Application, app, cluster
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

OUTLIER = "outlier: {consecutive: 0, interval: 50ms, ejection: 60s, hosts: 3, requests: 10, deviations: 1.2"


async def several(serve: Start, more: str, plans: list[Application], upstreams: list[ScriptedUpstream]) -> Served:
    for one, plan in zip(upstreams, plans, strict=True):
        one.script = plan
    first, *others = [one.port for one in upstreams]
    return await serve(first, cluster=cluster(first, *others, more=more))


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_one_whose_answers_are_worse_than_the_others_is_left_out(
    serve: Start, upstream: ScriptedUpstream, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedUpstream() as second, ScriptedUpstream() as third:
        plans = [Application(200), Application(200), Application(500)]
        more = f"balance: round_robin, {OUTLIER}, mode: {mode}}}"
        served = await several(serve, more, plans, [upstream, second, third])
        outlier = app(served).outlier
        counts = outlier.ejections if mode == "enforce" else outlier.shadowed

        async def asked() -> bool:
            await served.ask(GET)
            return bool(counts)

        async with asyncio.timeout(10):
            while not await asked():
                pass
        assert counts == {"success_rate": 1}
        reached = len(plans[2].requests)
        statuses = [(await served.ask(GET))[0] for _ in range(12)]
        left_out = mode == "enforce"
        assert (statuses.count(500), len(plans[2].requests) - reached) == ((0, 0) if left_out else (4, 4))
        said = "is left out" if left_out else "would be left out"
        assert f"127.0.0.1:{third.port} {said} for 60 s: success_rate" in caplog.text


async def test_a_detector_that_only_shadows_takes_nobody_out(serve: Start, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as other:
        plans = [Application(200), Application(502)]
        more = "balance: round_robin, outlier: {consecutive: 3, mode: shadow}"
        served = await several(serve, more, plans, [upstream, other])
        statuses = [(await served.ask(GET))[0] for _ in range(12)]
        assert statuses.count(502) == 6
        assert app(served).outlier.shadowed == {"consecutive_gateway": 2}
        text = served.proxy.metrics.expose().decode()
        assert 'proxy_ejections_total{cluster="app",detector="consecutive_gateway",mode="shadow"} 2.0' in text


async def test_one_that_comes_back_gets_its_share_little_by_little(serve: Start, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as other:
        plans = [Application(200), Application(200)]
        served = await several(serve, "balance: round_robin, slow_start: 60s", plans, [upstream, other])
        endpoint, loop = app(served).endpoints[1], asyncio.get_running_loop()
        wire = await served.connect()

        async def share(seconds_ago: float) -> float:
            before = [len(plan.requests) for plan in plans]
            endpoint.warm_since = loop.time() - seconds_ago
            for _ in range(400):
                wire.send(GET)
                assert (await wire.answer())[0] == 200
            asked = [len(plan.requests) - old for plan, old in zip(plans, before, strict=True)]
            return asked[1] / sum(asked)

        begun, halfway, over = await share(0), await share(30), await share(61)
        assert 0.02 < begun < 0.16, "a tenth of a half, to begin with"
        assert 0.22 < halfway < 0.42
        assert over == 0.5


async def test_what_is_slower_than_most_is_hedged(
    serve: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script = plan = Application(200)
    async with ScriptedUpstream() as other:
        other.script = Application(200)
        more = "balance: round_robin, retry: {attempts: 1, hedge_after: p95, floor: 50}"
        served = await serve(upstream.port, cluster=cluster(upstream.port, other.port, more=more))
        found = app(served)
        assert found.hedge_after == 0, "nothing is known yet"
        wire = await served.connect()
        for _ in range(200):
            wire.send(GET)
            assert (await wire.answer())[0] == 200
        await until(lambda: 0 < found.hedge_after <= 0.25)
        plan.plan = ["hang"]
        began = time.perf_counter()
        for _ in range(4):
            assert (await served.ask(GET))[0] == 200
        assert time.perf_counter() - began < 3
        assert found.stats.hedges >= 1


async def test_the_limit_follows_what_a_real_upstream_takes(serve: Start, upstream: ScriptedUpstream) -> None:
    """It serves 4 at once in 10 ms; 40 askers would queue for 100. The limit comes down from 40, and no low priority
    gets in the way of what is critical."""
    places = asyncio.Semaphore(4)

    async def limited(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            async with places:
                await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = limited
    more = "adaptive: {least: 2, most: 100, start: 40, window: 50ms}, max_connections: 100"
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=more))
    found = app(served)
    assert isinstance(found, Cluster)
    over = asyncio.Event()
    refused = 0

    async def asker() -> None:
        nonlocal refused
        wire = await served.connect()
        while not over.is_set():
            wire.send(GET)
            status = (await wire.answer())[0]
            refused += status == 503
            if status == 503:
                await asyncio.sleep(0.01)

    for _ in range(4):
        wire = await served.connect()
        for _ in range(30):
            wire.send(GET)
            await wire.answer()
    askers = [asyncio.create_task(asker()) for _ in range(40)]
    await until(lambda: found.limit < 20)
    over.set()
    await asyncio.gather(*askers)
    assert refused > 0
    assert found.stats.refused["adaptive"] == refused


async def test_a_websocket_is_none_of_the_requests_that_run(serve: Start, upstream: ScriptedUpstream) -> None:
    accept = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

    async def sockets(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        await reader.read()

    upstream.script = sockets
    served = await serve(upstream.port, cluster=cluster(upstream.port, more="max_requests: 2"))
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    wires = [await served.connect() for _ in range(5)]
    for wire in wires:
        wire.send(handshake)
        assert (await wire.answer())[0] == 101
    assert app(served).running == 0
    for wire in wires:
        wire.close()
    await served.settled_upstream()
    assert app(served).running == 0


async def test_a_deadline_may_have_other_names(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application(200)
    times = "{asked_in: X-Patience, told_in: X-Time-Left}"
    served = await serve(upstream.port, route_timeouts=times)
    status, _, _ = await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Patience: 900\r\nX-Time-Left: 99999\r\n\r\n")
    head = seen.requests[0][0].lower()
    assert status == 200
    assert b"x-patience" not in head
    assert head.count(b"x-time-left") == 1
    assert 0 < int(head.split(b"x-time-left: ")[1].split(b"\r\n")[0]) <= 900


async def test_nothing_begins_that_is_faster_than_any_answer_of_late(serve: Start, upstream: ScriptedUpstream) -> None:
    async def slow(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            await asyncio.sleep(0.2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = slow
    served = await serve(upstream.port)
    hurried = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 100\r\n\r\n"
    assert (await served.ask(hurried))[0] == 504, "nothing is known: it is tried"
    assert (await served.ask(GET))[0] == 200
    began = time.perf_counter()
    status, _, body = await served.ask(hurried)
    assert (status, b"deadline-exceeded" in body) == (504, True)
    assert time.perf_counter() - began < 0.09


async def test_what_an_operator_forces_is_seen(
    serve: Start, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.script = Application()
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=BREAKER))
    told: list[str] = []
    app(served).breaker.on_change.append(lambda breaker, old, new, reason: told.append(reason))
    url = f"http://127.0.0.1:{served.proxy.admin.port}"
    async with aiohttp.ClientSession() as session:
        await session.post(f"{url}/breakers?name=app&state=open")
        text = await (await session.get(f"{url}/metrics")).text()
        assert 'proxy_breaker_forced{breaker="app",state="open"} 1.0' in text
        await session.post(f"{url}/breakers?name=app&state=reset")
        text = await (await session.get(f"{url}/metrics")).text()
        assert 'proxy_breaker_forced{breaker="app",state="open"} 0.0' in text
    assert told == ["forced open", "reset"]
