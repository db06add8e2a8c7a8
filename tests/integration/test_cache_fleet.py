"""Purges over three sidecars under load, and SimplePro's own use of the edge."""

from __future__ import annotations

import asyncio

import pytest

from proxy.cache import edges as edges_module
from proxy.cache.edges import Edges
from proxy.cache.store import Purge
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import all_known, until
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


class Versions:
    """An origin whose every answer tells how many writes there were when it was asked, and takes its time."""

    def __init__(self) -> None:
        self.version = 0
        self.asked = 0

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            self.asked += 1
            body = b"%d" % self.version
            await asyncio.sleep(0.003)
            fields = b"Cache-Control: max-age=600\r\nSurrogate-Key: everything\r\nContent-Length: %d" % len(body)
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, body))


def edges_of(one: Served) -> Edges:
    edges = one.proxy.shared.edges
    assert edges is not None
    return edges


async def pods(serve: Start, upstream: ScriptedUpstream, port: int, more: str = "", cache: str = "") -> list[Served]:
    store = f'redis: {{url: "redis://127.0.0.1:{port}", timeout: 500ms}}\n{more}\n'
    limits = "{any: {limit: 1000000/1m}}"
    served = [await serve(upstream.port, policies=cache or "{cache: {}}", more=store, limits=limits) for _ in range(3)]
    for one in served:
        await until(lambda one=one: one.proxy.fleet is not None and one.proxy.fleet.listening)  # type: ignore[misc]
    await all_known(served)
    return served


async def test_after_a_purge_no_sidecar_serves_what_was(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges_module, "CONFIRM_SECONDS", 15.0)
    origin = upstream.script = Versions()
    served = await pods(serve, upstream, valkey[1])
    wires = [[await Wire.connect(one.proxy.listener.port) for _ in range(4)] for one in served]
    since = 0
    """The version that every answer to a request from now on has, at least."""
    stop = asyncio.Event()
    hits = [0]

    async def reader(wire: Wire, number: int) -> None:
        while not stop.is_set():
            least = since
            wire.send(GET % (number % 5))
            _, fields, body = await wire.answer()
            hits[0] += "; hit" in fields["cache-status"]
            assert int(body) >= least, "older than a purge that had returned"
            number += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(reader(wire, at)) for group in wires for at, wire in enumerate(group)]
    for _ in range(30):
        await asyncio.sleep(0.01)
        origin.version += 1
        _, confirmed, peers = await edges_of(served[origin.version % 3]).purge(Purge("tag", "everything"))
        assert (confirmed, peers) == (3, 3)
        since = origin.version
    stop.set()
    await asyncio.gather(*tasks)
    assert hits[0] > 100
    for group in wires:
        for wire in group:
            wire.close()


async def test_a_write_at_one_sidecar_is_heard_by_all(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    origin = upstream.script = Versions()
    one, other, third = await pods(serve, upstream, valkey[1])
    for pod in (one, other, third):
        assert (await pod.ask(GET % 1))[2] == b"0"
    origin.version = 1
    await one.ask(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    assert (await one.ask(GET % 1))[2] == b"1"
    await until(lambda: not len(edges_of(other).store) and not len(edges_of(third).store))
    assert (await other.ask(GET % 1))[2] == (await third.ask(GET % 1))[2] == b"1"


async def test_a_sidecar_that_can_not_be_reached_is_told_of(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    upstream.script = Versions()
    one, other, _ = await pods(serve, upstream, valkey[1])
    await one.ask(GET % 1)
    fleet = other.proxy.fleet
    assert fleet is not None
    await fleet.close()
    wire = await Wire.connect(one.proxy.admin.port)
    wire.send(b"POST /cache/purge?tag=everything HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    status, _, body = await wire.answer()
    wire.close()
    assert (status, b'"confirmed": 2' in body, b'"sidecars": 3' in body) == (504, True, True)
    assert not len(edges_of(one).store)


SECOND = "cache: {redis: {max_body: 64KiB}}"


async def test_many_who_ask_three_sidecars_at_once_make_one_request(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    origin = upstream.script = Versions()
    served = await pods(serve, upstream, valkey[1], SECOND)
    answers = await asyncio.gather(*(served[at % 3].ask(GET % 1) for at in range(1000)))
    assert {answer[2] for answer in answers} == {b"0"}
    assert origin.asked == 1
    for one in served:
        assert (await one.ask(GET % 1))[1]["cache-status"].startswith("simplepro-proxy; hit")
    assert origin.asked == 1
    seconds = [edges_of(one).second for one in served]
    assert sum(one.hits for one in seconds if one is not None) == 2
    assert sum(one.kept for one in seconds if one is not None) == 1


async def test_the_second_level_is_purged_too(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    origin = upstream.script = Versions()
    one, other, third = await pods(serve, upstream, valkey[1], SECOND)
    await one.ask(GET % 1)
    assert (await other.ask(GET % 1))[1]["cache-status"].startswith("simplepro-proxy; hit")
    origin.version = 1
    await third.ask(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    assert (await third.ask(GET % 1))[2] == b"1"
    await edges_of(one).purge(Purge("tag", "everything"))
    origin.version = 2
    assert {(await pod.ask(GET % 1))[2] for pod in (third, one, other)} == {b"2"}


async def test_a_leader_that_fails_leaves_the_lease_to_another(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    served = await pods(serve, upstream, valkey[1], SECOND)
    asked = 0

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1
        if asked > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok")
            await reader.read()
        await asyncio.sleep(0.1)

    upstream.script = script
    answers = await asyncio.gather(*(served[at % 3].ask(GET % 1) for at in range(30)))
    assert sorted({answer[0] for answer in answers}) == [200, 502]
    assert [answer[0] for answer in answers].count(502) == 1
    assert asked == 2


async def test_without_redis_the_upstream_is_asked(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    upstream.script = Versions()
    served = await pods(serve, upstream, valkey[1], SECOND)
    await valkey[0].stop()
    for one in served:
        assert (await one.ask(GET % 1))[0] == 200
        assert (await one.ask(GET % 1))[1]["cache-status"].startswith("simplepro-proxy; hit")
