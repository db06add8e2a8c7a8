"""Breakers, retries, fallbacks, deadlines and bounds, over real sockets."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import orjson
import pytest

from breaker import State
from proxy.exchange import Exchange
from proxy.headers import Headers
from proxy.listener.fallback import StaleStore
from proxy.listener.overload import OverloadGuard
from tests.conftest import Served, Start
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n%b\r\nabc"


class Application:
    """Answers by `plan`: a status, `reset`, `hang`, or bytes; the last goes on. Counts what reached it."""

    def __init__(self, *plan: int | str | bytes) -> None:
        self.plan: list[int | str | bytes] = list(plan) or [200]
        self.requests: list[tuple[bytes, bytes]] = []
        self.release = asyncio.Event()

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            head, body = await read_request(reader)
            self.requests.append((head, body))
            what = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
            if what == "reset":
                writer.transport.abort()
                return
            if what == "hang":
                await self.release.wait()
                what = 200
            if isinstance(what, bytes):
                writer.write(what)
            else:
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % int(what))


def cluster(port: int, *others: int, more: str = "") -> str:
    endpoints = ", ".join(f'"127.0.0.1:{one}"' for one in (port, *others))
    return f"{endpoints}], timeouts: {{connect: 500ms, wait: 300ms, idle: 4s}}, {more}}}"


def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def until(true: object) -> None:
    async with asyncio.timeout(5):
        while not true():  # type: ignore[operator]  # a callable
            await asyncio.sleep(0.005)


def app(served: Served):  # type: ignore[no-untyped-def]  # the cluster
    return served.proxy.compiled.clusters["app"]


BREAKER = "breaker: {consecutive: 3, open_for: {from: 300ms, to: 2s, jitter: 0%}}"


@pytest.mark.parametrize("plan", [500, "reset"])
async def test_an_open_breaker_lets_nothing_through_but_its_probe(
    serve: Start, upstream: ScriptedUpstream, plan: int | str
) -> None:
    upstream.script = seen = Application(plan)
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=BREAKER))
    statuses = [(await served.ask(POST % b""))[0] for _ in range(3)]
    assert statuses == [500 if plan == 500 else 502] * 3
    reached = len(seen.requests)
    status, fields, body = await served.ask(GET)
    problem = orjson.loads(body)
    assert (status, problem["type"].rpartition(":")[2], problem["rule"]) == (
        503,
        "breaker-open",
        "clusters.app.breaker",
    )
    assert fields["retry-after"] == "1"
    for _ in range(20):
        assert (await served.ask(GET))[0] == 503
    assert len(seen.requests) == reached
    seen.plan = [200]
    await until(lambda: app(served).breaker.available)
    assert (await served.ask(GET))[0] == 200
    assert app(served).breaker.state is State.CLOSED
    text = served.proxy.metrics.expose().decode()
    assert 'proxy_breaker_trips_total{breaker="app",reason="consecutive"} 1.0' in text
    assert 'proxy_breaker_state{breaker="app"} 0.0' in text


async def test_an_upstream_that_hangs_trips_it_by_its_timeouts(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application("hang")
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=BREAKER), route_timeouts="{per_try: 100ms}")
    statuses = [(await served.ask(GET))[0] for _ in range(4)]
    assert statuses == [504, 504, 504, 503]
    assert len(seen.requests) == 3


async def test_a_client_that_goes_away_is_neutral(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application("hang")
    served = await serve(upstream.port, cluster=cluster(upstream.port, more="breaker: {consecutive: 1}"))
    for number in range(1, 4):
        wire = await served.connect()
        wire.send(GET)
        await until(lambda number=number: len(seen.requests) == number)
        wire.reset()
        await until(lambda: app(served).running == 0)
    assert app(served).breaker.state is State.CLOSED


async def test_a_client_in_a_hurry_is_neutral(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application("hang")
    served = await serve(upstream.port, cluster=cluster(upstream.port, more="breaker: {consecutive: 1}"))
    request = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 50\r\n\r\n"
    assert [(await served.ask(request))[0] for _ in range(3)] == [504] * 3
    assert app(served).breaker.state is State.CLOSED
    assert app(served).breaker.trips == {}


async def test_a_client_that_is_slow_to_send_is_neutral(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application()
    served = await serve(
        upstream.port, cluster=cluster(upstream.port, more="breaker: {consecutive: 1}"),
        route_timeouts="{request: 300ms}",
    )  # fmt: skip
    wire = await served.connect()
    wire.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
    assert (await wire.answer())[0] == 504
    assert app(served).breaker.state is State.CLOSED


async def test_an_answer_that_the_route_cuts_was_no_failure(serve: Start, upstream: ScriptedUpstream) -> None:
    """It had begun in time, and was told to the breaker as what it was."""
    upstream.script = Application(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    served = await serve(
        upstream.port, cluster=cluster(upstream.port, more="breaker: {consecutive: 1}"),
        route_timeouts="{request: 300ms}",
    )  # fmt: skip
    wire = await served.connect()
    wire.send(GET)
    assert (await wire.head())[0] == 200
    assert await wire.rest() == b"abc"
    assert app(served).breaker.state is State.CLOSED


async def test_the_routes_own_deadline_counts(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application("hang")
    served = await serve(
        upstream.port, cluster=cluster(upstream.port, more="breaker: {consecutive: 1}"),
        route_timeouts="{request: 300ms}",
    )  # fmt: skip
    assert [(await served.ask(GET))[0] for _ in range(2)] == [504, 503]


async def test_the_operator_holds_it_open_closed_and_resets_it(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application()
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=BREAKER))
    url = f"http://127.0.0.1:{served.proxy.admin.port}"
    async with aiohttp.ClientSession() as session:
        for state, status in (("open", 503), ("closed", 200), ("reset", 200)):
            assert (await session.post(f"{url}/breakers?name=app&state={state}")).status == 200
            assert (await served.ask(GET))[0] == status
        assert (await session.post(f"{url}/breakers?name=other&state=open")).status == 400
        assert (await session.get(f"{url}/breakers")).status == 405
        told = await (await session.get(f"{url}/clusters")).json()
    assert told["app"]["breaker"]["state"] == "closed"
    assert told["app"]["breaker"]["refused"] == 1


# retries

RETRY = "retry: {attempts: 3, on: [connect, reset, timeout, 503], backoff: {base: 1ms, max: 2ms}, floor: 10}"


@pytest.mark.parametrize(("first", "request_bytes", "status", "sent"), [
    (503, GET, 200, 2),
    ("reset", GET, 200, 2),
    (500, GET, 500, 1),
    (503, POST % b"", 503, 1),
    ("reset", POST % b"", 502, 1),
    (503, POST % b"Idempotency-Key: 1\r\n", 200, 2),
    ("reset", b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200, 2),
    ("reset", b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, 2),
    (b"HTTP/1.1 503 X\r\nRetry-After: 60\r\nContent-Length: 2\r\n\r\nno", GET, 503, 1),
])  # fmt: skip
async def test_what_is_made_again_and_what_never(
    serve: Start, upstream: ScriptedUpstream, first: int | str | bytes, request_bytes: bytes, status: int, sent: int
) -> None:
    upstream.script = seen = Application(first, 200)
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=RETRY))
    assert (await served.ask(request_bytes))[0] == status
    assert len(seen.requests) == sent
    assert len({body for _, body in seen.requests}) == 1
    assert (app(served).budget.active, app(served).running) == (0, 0)


async def test_a_body_that_is_too_large_to_keep_is_not_sent_again(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application(503, 200)
    more = RETRY.replace("floor", "replay: 1KiB, floor")
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=more))
    body = b"x" * 5000
    request = b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + body
    assert (await served.ask(request))[0] == 503
    assert len(seen.requests) == 1


async def test_another_attempt_goes_to_another_endpoint(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = good = Application(200)
    served = await serve(upstream.port, cluster=cluster(upstream.port, dead_port(), more=RETRY))
    assert [(await served.ask(POST % b""))[0] for _ in range(6)] == [200] * 6
    assert len(good.requests) == 6
    assert 3 <= app(served).stats.retries["connect"] <= 6


async def test_a_storm_is_held_by_the_budget(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application(503)
    more = "retry: {attempts: 3, on: [503], backoff: {base: 1ms, max: 5ms}, budget: 20%, floor: 3}"
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=more))
    wires = [await served.connect() for _ in range(20)]

    async def client(wire: Wire) -> None:
        for _ in range(50):
            wire.send(GET)
            assert (await wire.answer())[0] == 503

    await asyncio.gather(*(client(wire) for wire in wires))
    assert 1000 < len(seen.requests) <= 1200
    assert app(served).budget.refused > 0


async def test_a_slow_attempt_is_hedged(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = slow = Application("hang")
    async with ScriptedUpstream() as other:
        other.script = fast = Application(200)
        more = "retry: {attempts: 1, hedge_after: 50ms, floor: 10}"
        served = await serve(upstream.port, cluster=cluster(upstream.port, other.port, more=more))
        async with asyncio.timeout(3):
            statuses = [(await served.ask(GET))[0] for _ in range(4)]
        assert statuses == [200] * 4
        assert len(fast.requests) == 4
        assert 1 <= app(served).stats.hedges == len(slow.requests)
        assert (app(served).budget.active, app(served).running) == (0, 0)
        await served.settled_upstream()


@pytest.mark.parametrize("request_line", [b"DELETE /a", b"PUT /a"])
async def test_what_changes_something_is_not_hedged(
    serve: Start, upstream: ScriptedUpstream, request_line: bytes
) -> None:
    upstream.script = slow = Application("hang")
    async with ScriptedUpstream() as other:
        other.script = fast = Application(200)
        more = "balance: round_robin, retry: {attempts: 1, hedge_after: 30ms, floor: 10}"
        served = await serve(upstream.port, cluster=cluster(other.port, upstream.port, more=more))
        wire = await served.connect()
        wire.send(request_line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: len(slow.requests) == 1)
        await asyncio.sleep(0.3)
        slow.release.set()
        assert (await wire.answer())[0] == 200
        assert (len(fast.requests), app(served).stats.hedges) == (0, 0)


async def test_a_first_attempt_that_fails_leaves_it_to_the_second(serve: Start, upstream: ScriptedUpstream) -> None:
    lost = asyncio.Event()

    async def dies(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        await lost.wait()
        writer.transport.abort()

    upstream.script = dies
    async with ScriptedUpstream() as other:
        other.script = second = Application("hang")
        more = "balance: round_robin, retry: {attempts: 1, hedge_after: 30ms, floor: 10}"
        served = await serve(upstream.port, cluster=cluster(other.port, upstream.port, more=more))
        wire = await served.connect()
        wire.send(GET)
        await until(lambda: len(second.requests) == 1)
        lost.set()
        await until(lambda: app(served).endpoints[1].active == 0)
        second.release.set()
        assert (await wire.answer())[0] == 200
        assert (app(served).budget.active, app(served).running) == (0, 0)


async def test_where_both_attempts_fail_the_first_failure_is_told(serve: Start, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as other:
        seen = [Application("hang"), Application("hang")]
        upstream.script, other.script = seen
        more = "retry: {attempts: 1, hedge_after: 30ms, floor: 10}"
        served = await serve(
            upstream.port, cluster=cluster(other.port, upstream.port, more=more), route_timeouts="{per_try: 400ms}"
        )
        status, _, body = await served.ask(GET)
        assert (status, orjson.loads(body)["rule"]) == (504, "timeouts.per_try")
        assert [len(one.requests) for one in seen] == [1, 1]
        assert (app(served).budget.active, app(served).running) == (0, 0)


# deadlines


async def test_a_deadline_is_the_clients_and_the_upstream_is_told(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application("hang")
    served = await serve(upstream.port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    request = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 150\r\nX-Request-Deadline: 99999\r\n\r\n"
    status, _, body = await served.ask(request)
    assert (status, orjson.loads(body)["rule"]) == (504, "timeouts.request")
    assert 0.1 < loop.time() - began < 1
    head = seen.requests[0][0]
    told = int(head.split(b"x-request-deadline: ")[1].split(b"\r\n")[0])
    assert 0 < told <= 150
    assert head.count(b"x-request-deadline") == 1
    assert b"x-request-timeout" not in head


async def test_what_can_not_end_in_time_is_not_begun(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application()
    served = await serve(upstream.port)
    status, _, body = await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 1\r\n\r\n")
    assert (status, orjson.loads(body)["type"].rpartition(":")[2]) == (504, "deadline-exceeded")
    assert seen.requests == []


async def test_no_retry_begins_that_the_deadline_would_end(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application(b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno", 200)
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=RETRY))
    status, _, _ = await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 500\r\n\r\n")
    assert (status, len(seen.requests)) == (503, 1)


# fallbacks


async def test_a_stale_answer_stands_in(serve: Start, upstream: ScriptedUpstream) -> None:
    good = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    upstream.script = Application(good, "reset")
    served = await serve(upstream.port, route_more="fallback: {stale: {}}")
    assert (await served.ask(GET))[0] == 200
    status, fields, body = await served.ask(GET)
    assert (status, body, fields["age"]) == (200, b'{"a":1}', "0")
    assert fields["cache-status"] == "simplepro-proxy; hit; detail=stale-if-error"
    assert fields["x-frame-options"] == "SAMEORIGIN"
    assert (await served.ask(GET.replace(b"/a", b"/b")))[0] == 502
    assert app(served).stats.fallbacks["stale"] == 1


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nVary: x-tenant\r\nContent-Length: 2\r\n\r\nok",
])  # fmt: skip
async def test_what_is_never_kept(serve: Start, upstream: ScriptedUpstream, answer: bytes) -> None:
    upstream.script = Application(answer, "reset")
    served = await serve(upstream.port, route_more="fallback: {stale: {}}")
    assert [(await served.ask(GET))[0] for _ in range(2)] == [200, 502]


@pytest.mark.parametrize("line", [
    b"Cookie: sid=1",
    b"Authorization: Bearer unverified",
    b"X-API-Key: one that only the upstream knows",
])  # fmt: skip
async def test_nobody_gets_anothers_answer(serve: Start, upstream: ScriptedUpstream, line: bytes) -> None:
    upstream.script = Application(200, "reset")
    served = await serve(upstream.port, route_more="fallback: {stale: {}}")
    request = b"GET /a HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
    assert [(await served.ask(request))[0] for _ in range(2)] == [200, 502]
    assert (await served.ask(GET))[0] == 502


async def test_a_fixed_answer_stands_in(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application(503)
    more = "fallback: {answer: {status: 200, media_type: application/json, body: '[]'}}"
    served = await serve(upstream.port, route_more=more)
    status, fields, body = await served.ask(GET)
    assert (status, fields["content-type"], body) == (200, "application/json", b"[]")


async def test_another_cluster_stands_in(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = good = Application(200)
    clusters = f'{dead_port()}"]}}\n  spare: {{endpoints: ["127.0.0.1:{upstream.port}"]}}'
    served = await serve(upstream.port, cluster=f'"127.0.0.1:{clusters}', route_more="fallback: {to: spare}")
    assert (await served.ask(POST % b""))[0] == 200
    assert good.requests[0][1] == b"abc"
    spare = served.proxy.compiled.clusters["spare"]
    assert (app(served).running, spare.running, app(served).stats.fallbacks["cluster"]) == (0, 0, 1)


async def test_where_both_clusters_refuse_the_client_hears_it_once(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = slow = Application("hang")
    bound = f'"127.0.0.1:{upstream.port}"], max_requests: 1'
    served = await serve(
        upstream.port, cluster=f"{bound}}}\n  spare: {{endpoints: [{bound}}}", route_more="fallback: {to: spare}"
    )
    wires = [await served.connect() for _ in range(2)]
    for number, wire in enumerate(wires, 1):
        wire.send(GET)
        await until(lambda number=number: len(slow.requests) == number)
    status, _, body = await served.ask(GET)
    assert (status, orjson.loads(body)["type"].rpartition(":")[2]) == (503, "overloaded")
    assert app(served).stats.fallbacks["cluster"] == 2
    slow.release.set()
    assert [(await wire.answer())[0] for wire in wires] == [200, 200]


def test_answers_that_are_kept_are_bounded_though_they_are_empty() -> None:
    store = StaleStore(60.0, 1000, 100_000, lambda: 0.0)
    for number in range(5_000):
        exchange = Exchange(b"GET", 1, Headers([(b"host", b"a")]), "192.0.2.1", 0.0)
        exchange.path, exchange.query, exchange.host = b"/a", b"%d" % number, b"a"
        store.keep(exchange, 200, [], b"")
    assert 50 < len(store._answers) < 250
    assert store._size <= 100_000


# endpoints


async def test_an_outlier_is_left_out_and_comes_back(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application(200)
    async with ScriptedUpstream() as other:
        other.script = bad = Application(502)
        more = "outlier: {consecutive: 3, ejection: 300ms}"
        served = await serve(upstream.port, cluster=cluster(upstream.port, other.port, more=more))
        statuses = [(await served.ask(GET))[0] for _ in range(20)]
        assert statuses.count(502) == 3
        assert len(bad.requests) == 3
        bad.plan = [200]
        await until(lambda: all(one.fit for one in app(served).endpoints))
        await served.ask(GET)
        await served.ask(GET)
        assert len(bad.requests) == 4
        text = served.proxy.metrics.expose().decode()
        assert 'proxy_ejections_total{cluster="app",detector="consecutive_gateway",mode="enforce"} 1.0' in text


async def test_no_more_than_the_share_is_ejected(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application(502)
    async with ScriptedUpstream() as other:
        other.script = Application(502)
        more = "outlier: {consecutive: 2, ejection: 60s, max_ejected: 50%}"
        served = await serve(upstream.port, cluster=cluster(upstream.port, other.port, more=more))
        for _ in range(20):
            assert (await served.ask(GET))[0] == 502
        assert sum(not one.fit for one in app(served).endpoints) == 1


@pytest.mark.parametrize("path", ["path: /health, ", ""])
async def test_health_checks_take_an_endpoint_out_and_bring_it_back(
    serve: Start, upstream: ScriptedUpstream, path: str
) -> None:
    upstream.script = Application(200)
    port = dead_port()
    more = f"health: {{{path}interval: 30ms, unhealthy_interval: 20ms, unhealthy: 2, healthy: 2, timeout: 500ms}}"
    served = await serve(upstream.port, cluster=cluster(upstream.port, port, more=more))
    await until(lambda: not app(served).endpoints[1].healthy)
    assert [(await served.ask(GET))[0] for _ in range(6)] == [200] * 6
    async with ScriptedUpstream(port) as back:
        back.script = Application(200)
        await until(lambda: app(served).endpoints[1].healthy)


async def test_a_health_answer_that_is_none_is_ill_and_the_next_is_looked_at(
    serve: Start, upstream: ScriptedUpstream
) -> None:
    upstream.script = seen = Application(200)
    more = "health: {path: /h, interval: 30ms, unhealthy_interval: 20ms, unhealthy: 2, healthy: 2, timeout: 500ms}"
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=more))
    for what in (b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 many\r\n\r\n", b"\r\n"):
        seen.plan = [what]
        await until(lambda: not app(served).endpoints[0].healthy)
        seen.plan = [200]
        await until(lambda: app(served).endpoints[0].healthy)


async def test_without_panic_one_that_is_ill_is_tried_where_there_is_no_other(
    serve: Start, upstream: ScriptedUpstream
) -> None:
    upstream.script = Application(200)
    served = await serve(upstream.port, cluster=cluster(upstream.port, upstream.port, more="panic: 0%"))
    for endpoint in app(served).endpoints:
        endpoint.healthy = False
    assert (await served.ask(GET))[0] == 200


async def test_in_a_panic_all_are_used(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = Application(200)
    served = await serve(upstream.port, cluster=cluster(upstream.port, dead_port(), more="panic: 60%"))
    app(served).endpoints[1].healthy = False
    statuses = {(await served.ask(GET))[0] for _ in range(6)}
    assert statuses == {200, 503}
    assert app(served).stats.panics == 6


# how much at once


async def test_low_priorities_are_refused_first(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application("hang")
    routes = "".join(
        f"  {name}: {{match: {{prefix: /{name}}}, to: app, priority: {name}}}\n"
        for name in ("critical", "high", "normal", "low")
    )
    served = await serve(upstream.port, cluster=cluster(upstream.port, more="max_requests: 10"), routes_before=routes)
    wires = []
    for number in range(7):
        wires.append(wire := await served.connect())
        wire.send(b"GET /low HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda number=number: len(seen.requests) == number + 1)
    status, fields, body = await served.ask(b"GET /low HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, orjson.loads(body)["rule"], fields["retry-after"]) == (503, "clusters.app.max_requests", "1")
    for name, more in ((b"normal", 2), (b"high", 1), (b"critical", 3)):
        for _ in range(more):
            wires.append(wire := await served.connect())
            wire.send(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name)
            await until(lambda: len(seen.requests) == len(wires))
        if name != b"critical":
            assert (await served.ask(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name))[0] == 503
    seen.release.set()
    assert [(await wire.answer())[0] for wire in wires] == [200] * 13


async def test_admission_control_refuses_a_share(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = seen = Application(500)
    more = "admission: {success_rate: 90%, of_at_least: 10, most: 80%}"
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=more))
    statuses = [(await served.ask(GET))[0] for _ in range(200)]
    assert set(statuses[:10]) == {500}
    refused = statuses.count(503)
    assert 120 < refused < 175
    assert len(seen.requests) == 200 - refused


async def test_near_its_limits_the_proxy_serves_only_what_is_critical(
    serve: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverloadGuard, "measure", lambda self, lag, memory: None)
    upstream.script = Application()
    routes = "  health: {match: {prefix: /health}, to: app, priority: critical}\n"
    served = await serve(upstream.port, routes_before=routes)
    guard = served.proxy.listener.guard
    guard.level = 1
    status, fields, _ = await served.ask(GET)
    assert (status, fields["connection"]) == (200, "close")
    guard.level = 2
    status, _, body = await served.ask(GET)
    assert (status, orjson.loads(body)["rule"]) == (503, "listener.overload")
    assert (await served.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
