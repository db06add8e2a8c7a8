"""Purges over three sidecars under load, and SimplePro's own use of the edge."""

from __future__ import annotations

import asyncio

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


async def pods(serve: Start, upstream: ScriptedUpstream, port: int, cache: str = "{cache: {}}") -> list[Served]:
    store = f'redis: {{url: "redis://127.0.0.1:{port}", timeout: 500ms}}\n'
    limits = "{any: {limit: 1000000/1m}}"
    served = [await serve(upstream.port, policies=cache, more=store, limits=limits) for _ in range(3)]
    for one in served:
        await until(lambda one=one: one.proxy.fleet is not None and one.proxy.fleet.listening)  # type: ignore[misc]
    await all_known(served)
    return served


async def test_after_a_purge_no_sidecar_serves_what_was(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
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
