"""Which endpoint is taken."""

from __future__ import annotations

import asyncio

import pytest

from proxy.policy.models.clusters import ClusterModel
from proxy.upstream.cluster import Cluster, ClusterSpec
from proxy.upstream.pool import PoolLimits
from tests.conftest import Start
from tests.wire import Reader, ScriptedUpstream, Writer

ENDPOINTS = (("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3))


def cluster(balance: str) -> Cluster:
    limits = PoolLimits(1, 1, 1.0, 1.0, 1.0)
    return Cluster(ClusterSpec("app", ENDPOINTS, balance, limits), asyncio.get_running_loop())


async def test_round_robin_takes_each_in_turn() -> None:
    chosen = cluster("round_robin")
    picked = [chosen.attempt().endpoint.address for _ in range(9)]
    assert picked[:3] == picked[3:6] == picked[6:]
    assert len(set(picked)) == 3


async def test_least_request_takes_the_idlest_and_turns_among_equals() -> None:
    chosen = cluster("least_request")
    assert len({chosen.attempt().endpoint.address for _ in range(3)}) == 3
    busy, idle, busier = chosen.endpoints
    busy.active, idle.active, busier.active = 2, 1, 3
    for _ in range(5):
        attempt = chosen.attempt()
        assert attempt.endpoint is idle
        attempt.end()


@pytest.mark.parametrize("balance", ["round_robin", "least_request"])
async def test_both_endpoints_serve(serve: Start, upstream: ScriptedUpstream, balance: str) -> None:
    async with ScriptedUpstream() as other:
        endpoints = f'"127.0.0.1:{upstream.port}", "127.0.0.1:{other.port}"], balance: {balance}, timeouts: {{}}}}'
        served = await serve(upstream.port, cluster=endpoints)
        for _ in range(8):
            assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
        assert upstream.connections
        assert other.connections


async def test_connections_stay_within_their_bound(serve: Start, upstream: ScriptedUpstream) -> None:
    open_now = most = 0
    go = asyncio.Event()

    async def slow(reader: Reader, writer: Writer) -> None:
        nonlocal open_now, most
        while True:
            await reader.readuntil(b"\r\n\r\n")
            open_now += 1
            most = max(most, open_now)
            await go.wait()
            open_now -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = slow
    served = await serve(upstream.port, max_connections=3)
    wires = [await served.connect() for _ in range(12)]
    for wire in wires:
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    pool = served.proxy.compiled.clusters["app"].endpoints[0].pool
    async with asyncio.timeout(5):
        while pool.waiting < 9 or open_now < 3:
            await asyncio.sleep(0)
    go.set()
    assert [(await wire.answer())[0] for wire in wires] == [200] * 12
    assert (most, upstream.connections) == (3, 3)


def test_the_models_defaults_are_bounded() -> None:
    model = ClusterModel.model_validate({"endpoints": ["127.0.0.1:1"]})
    assert (model.max_connections, model.max_waiting) == (512, 4096)
