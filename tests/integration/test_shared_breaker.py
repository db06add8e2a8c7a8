"""Three sidecars on one store: one's own bad link stays one's own, an outage is everybody's, and one probes."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from breaker import State
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.proxy.upstream.test_resilience import Application, dead_port
from tests.wire import ScriptedUpstream

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PODS = 3
BREAKER = "breaker: {consecutive: 3, open_for: {from: 1s, to: 8s, jitter: 0%}, share: quorum}"


async def pods(serve: Start, ports: list[int], store: int) -> list[Served]:
    more = f'redis: {{url: "redis://127.0.0.1:{store}", timeout: 500ms}}\n'
    served = [
        await serve(port, more=more, cluster=f'"127.0.0.1:{port}"], timeouts: {{wait: 2s}}, {BREAKER}}}')
        for port in ports
    ]
    for pod in served:
        fleet, limiting = pod.proxy.fleet, pod.proxy.limiting
        assert fleet
        assert limiting
        await until(lambda fleet=fleet, limiting=limiting: fleet.listening and limiting.peers == PODS)  # type: ignore[misc]
    return served


async def all_open(served: list[Served]) -> None:
    """Two of the three see an outage; so does the fleet."""
    for pod in served[:2]:
        for _ in range(3):
            assert (await pod.ask(GET))[0] == 503
    await until(lambda: states(served) == [State.OPEN] * PODS)


def states(served: list[Served]) -> list[State]:
    return [one.proxy.compiled.clusters["app"].breakers[0].state for one in served]


async def test_a_pod_with_a_bad_link_opens_its_own_alone(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    upstream.script = Application(200)
    served = await pods(serve, [dead_port(), upstream.port, upstream.port], valkey[1])
    for _ in range(5):
        statuses = [(await pod.ask(GET))[0] for pod in served]
        assert statuses == [503, 200, 200]
    shared = [pod.proxy.shared_breakers.by_fleet["app"] for pod in served]
    await until(lambda: all(one.votes == 1 for one in shared))
    assert states(served) == [State.OPEN, State.CLOSED, State.CLOSED]
    assert [one.agreed.state for one in shared] == ["closed"] * PODS
    assert shared[0].needed == 2


async def test_an_outage_opens_all_and_one_probes_for_all(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    upstream.script = seen = Application(503)
    served = await pods(serve, [upstream.port] * PODS, valkey[1])
    await all_open(served)
    reached = len(seen.requests)
    assert reached == 6, "the third pod opened without a failure of its own"
    loop = asyncio.get_running_loop()
    began, arrived = loop.time(), []
    while loop.time() < began + 6:
        for pod in served:
            before = len(seen.requests)
            await pod.ask(GET)
            arrived += [loop.time() - began] * (len(seen.requests) - before)
        await asyncio.sleep(0.02)
    gaps = [later - earlier for earlier, later in pairwise(arrived)]
    assert 2 <= len(arrived) <= 3, f"one probe an interval, the intervals growing: {arrived}"
    assert all(gap > 0.9 for gap in gaps)
    seen.plan = [200]

    async def good() -> bool:
        for pod in served:
            await pod.ask(GET)
        return states(served) == [State.CLOSED] * PODS

    async with asyncio.timeout(15):
        while not await good():
            await asyncio.sleep(0.05)
    assert [(await pod.ask(GET))[0] for pod in served] == [200] * PODS
    assert {pod.proxy.shared_breakers.by_fleet["app"].votes for pod in served} == {0}


async def test_without_the_store_each_stands_alone(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    upstream.script = seen = Application(503)
    served = await pods(serve, [upstream.port] * PODS, valkey[1])
    await all_open(served)
    await valkey[0].stop()
    seen.plan = [200]
    await until(lambda: all(pod.proxy.compiled.clusters["app"].breakers[0].available for pod in served))
    assert [(await pod.ask(GET))[0] for pod in served] == [200] * PODS
    assert states(served) == [State.CLOSED] * PODS
