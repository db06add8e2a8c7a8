"""A Cluster of six real servers under load: exact, and no error to a client while masters die and slots move."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.throttle.cluster import slot_of
from stack import servers
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import all_known
from tests.wire import ScriptedUpstream
from upstream_app.seed import PASSWORD

ALL = (
    "{all: {limit: 60/1h, strategy: fixed-window, key: [const:everyone]}, each: {limit: 30/1h, key: [header:x-client]}}"
)


class Cluster:
    def __init__(self, nodes: dict[int, ServerProcess]) -> None:
        self.nodes = nodes

    def policy(self) -> str:
        some = ", ".join(f"127.0.0.1:{port}" for port in list(self.nodes)[:2])
        return f'redis: {{url: "redis://127.0.0.1", cluster: true, nodes: ["{some}"], timeout: 500ms}}\n'

    async def cli(self, *arguments: str, port: int = 0) -> str:
        command = ["redis-cli", "-p", str(port or next(iter(self.nodes))), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        return output.decode()

    async def masters(self, port: int = 0) -> dict[int, str]:
        """Port and id of the masters that live and have slots, as one node sees them."""
        lines = (await self.cli("cluster", "nodes", port=port)).splitlines()
        rows = [line.split() for line in lines]
        return {
            int(row[1].split("@")[0].rsplit(":", 1)[1]): row[0]
            for row in rows
            if "master" in row[2] and "fail" not in row[2] and len(row) > 8
        }

    async def owner(self, slot: int) -> int:
        """The port of the master that has the slot."""
        for line in (await self.cli("cluster", "nodes")).splitlines():
            row = line.split()
            spans = [part.split("-") for part in row[8:] if not part.startswith("[")]
            if "master" in row[2] and any(int(span[0]) <= slot <= int(span[-1]) for span in spans):
                return int(row[1].split("@")[0].rsplit(":", 1)[1])
        raise LookupError(slot)

    async def replicated(self, port: int) -> None:
        """Wait until the master's replica has all that was written: a Cluster may lose what it has not."""
        async with asyncio.timeout(20):
            while True:
                told = await self.cli("info", "replication", port=port)
                offsets = re.findall(r"(?:^slave0:.*offset=|master_repl_offset:)(\d+)", told, re.M)
                if len(offsets) == 2 and offsets[0] == offsets[1]:
                    return
                await asyncio.sleep(0.02)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ports = [servers.free_port() for _ in range(6)]
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port")
    nodes = {
        port: ServerProcess(
            servers.valkey(port, tmp_path / str(port), *options, str(servers.free_port()), name=str(port))
        )
        for port in ports
    }
    await asyncio.gather(*(node.start() for node in nodes.values()))
    made = Cluster(nodes)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    said = await made.cli("--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes")
    assert "[OK] All 16384 slots covered" in said, said
    async with asyncio.timeout(20):
        while any([len(await made.masters(port)) != 3 for port in ports]):
            await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        while (
            sum([("master_link_status:up" in await made.cli("info", "replication", port=port)) for port in ports]) < 3
        ):
            await asyncio.sleep(0.05)
    yield made
    for node in nodes.values():
        await node.stop()


async def test_the_application_runs_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """Sessions, rotation, log-out told to sidecars, cache and events, on keys of any slot."""
    mongo_port, port = servers.free_port(), servers.free_port()
    mongo = ServerProcess(servers.mongo(mongo_port, tmp_path / "mongo"))
    await mongo.start()
    nodes = ",".join(f"127.0.0.1:{one}" for one in list(cluster.nodes)[:3])
    environment = {"REDIS_CLUSTER_MODE": "true", "REDIS_CLUSTER_NODES": nodes, "MONGODB_MIN_POOL_SIZE": "0"}
    uri, some = f"mongodb://127.0.0.1:{mongo_port}/cluster", f"redis://127.0.0.1:{next(iter(cluster.nodes))}"
    app = ServerProcess(servers.app(port, uri, some, environment))
    seeding = await asyncio.create_subprocess_exec(
        str(servers.BIN / "simplepro-app"), "seed", env={**os.environ, **environment, "MONGODB_URI": uri},
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert await seeding.wait() == 0
        await app.start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            for name in ("manager", "sales", "dispatcher"):
                credentials = {"username": name, "password": PASSWORD}
                told = (await (await session.post("/api/auth/login", json=credentials)).json())["data"]
                refreshed = await session.post("/api/auth/refresh", json={"refresh_token": told["refresh_token"]})
                assert refreshed.status == 200, await refreshed.text()
                mine = {"Authorization": f"Bearer {told['access_token']}"}
                for _ in range(3):
                    assert (await session.get("/api/customers?limit=3", headers=mine)).status == 200
                assert (await session.post("/api/auth/logout", headers=mine)).status == 200
                assert (await session.get("/api/auth/profile", headers=mine)).status == 401
            health = await (await session.get("/api/health/detailed")).json()
        assert health["details"]["redis"]["status"] == "up"
        assert health["details"]["cache"]["errors"] == 0
        revoked = await cluster.cli(
            "hgetall", "simplepro:revoked", port=await cluster.owner(slot_of("simplepro:revoked"))
        )
        assert revoked.count("session:") == 3
    finally:
        await app.stop()
        await mongo.stop()


async def ask(served: Served, client: str, times: int) -> Counter[int]:
    wire = await served.connect()
    found: Counter[int] = Counter()
    for _ in range(times):
        wire.send(f"GET / HTTP/1.1\r\nHost: a\r\nX-Client: {client}\r\n\r\n".encode())
        found[(await wire.answer())[0]] += 1
    wire.close()
    return found


def test_slots_are_the_specifications() -> None:
    assert slot_of("123456789") == 12739
    assert slot_of("{user1000}.following") == slot_of("{user1000}.followers") == slot_of("user1000")
    assert slot_of("foo{}{bar}") != slot_of("bar")


async def test_exact_over_nodes_and_all_or_nothing(serve: Start, upstream: ScriptedUpstream, cluster: Cluster) -> None:
    proxies = [await serve(upstream.port, more=cluster.policy(), limits=ALL) for _ in range(2)]
    found = await asyncio.gather(*(ask(proxies[n % 2], f"c{n % 4}", 12) for n in range(8)))
    total = sum(found, Counter())
    limiting = proxies[0].proxy.limiting
    assert limiting is not None
    assert limiting.store.stats.failures == {}
    assert limiting.decisions["local"] == 0
    assert total == {200: 60, 429: 36}


async def test_a_master_dies_under_load(serve: Start, upstream: ScriptedUpstream, cluster: Cluster) -> None:
    limits = "{each: {limit: 100000/1h, key: [header:x-client]}}"
    served = await serve(upstream.port, more=cluster.policy(), limits=limits)
    stop = asyncio.Event()
    seen: Counter[int] = Counter()

    async def client(name: str) -> None:
        while not stop.is_set():
            seen.update(await ask(served, name, 20))

    clients = [asyncio.create_task(client(f"c{n}")) for n in range(12)]
    masters = await cluster.masters()
    victim = next(iter(masters))
    survivor = next(port for port in cluster.nodes if port != victim)
    cluster.nodes[victim].signal(signal.SIGKILL)
    async with asyncio.timeout(30):
        while len(now := await cluster.masters(survivor)) != 3 or victim in now:
            await asyncio.sleep(0.05)
    limiting = served.proxy.limiting
    assert limiting is not None
    async with asyncio.timeout(2):
        while True:
            before = limiting.decisions["local"]
            asked = seen.total()
            while seen.total() < asked + 240:
                await asyncio.sleep(0.01)
            if limiting.decisions["local"] == before:
                break
    stop.set()
    await asyncio.gather(*clients)
    assert set(seen) == {200}


async def test_a_master_that_dies_lets_no_more_through_than_stated(
    serve: Start, upstream: ScriptedUpstream, cluster: Cluster
) -> None:
    """Before, alone, and after: twice the amount plus the number of sidecars, though the successor may have missed the
    last writes."""
    limit = "{all: {limit: 300/1h, strategy: fixed-window, key: [const:everyone]}}"
    proxies = [await serve(upstream.port, more=cluster.policy(), limits=limit) for _ in range(2)]
    await all_known(proxies)
    seen = Counter(await ask(proxies[0], "a", 200))
    (charge,) = next(iter(proxies[0].proxy.compiled.throttles[-1]._limits[0].known.values()))
    slot = slot_of(f"simplepro:{charge.key}")
    victim = await cluster.owner(slot)
    survivor = next(port for port in cluster.nodes if port != victim)
    cluster.nodes[victim].signal(signal.SIGKILL)
    while len(now := await cluster.masters(survivor)) != 3 or victim in now:
        for served in proxies:
            seen += await ask(served, "a", 40)
    for _ in range(10):
        for served in proxies:
            seen += await ask(served, "a", 40)
        await asyncio.sleep(0.2)
    assert set(seen) == {200, 429}
    assert 300 <= seen[200] <= 2 * 300 + 2
    assert (await ask(proxies[0], "a", 20))[429] == 20
    alone = [one.proxy.limiting.decisions["local"] for one in proxies if one.proxy.limiting]
    assert len(alone) == 2
    assert sum(alone) > 0


async def test_slots_move_under_load(serve: Start, upstream: ScriptedUpstream, cluster: Cluster) -> None:
    limits = "{each: {limit: 1000/1h, strategy: fixed-window, key: [header:x-client]}}"
    served = await serve(upstream.port, more=cluster.policy(), limits=limits)
    stop = asyncio.Event()
    seen: Counter[int] = Counter()

    async def client(name: str) -> None:
        while not stop.is_set():
            seen.update(await ask(served, name, 20))

    clients = [asyncio.create_task(client(f"c{n}")) for n in range(12)]
    first, second, _ = (await cluster.masters()).values()
    said = await cluster.cli(
        "--cluster", "reshard", f"127.0.0.1:{next(iter(cluster.nodes))}", "--cluster-from", first,
        "--cluster-to", second, "--cluster-slots", "2000", "--cluster-yes",
    )  # fmt: skip
    assert "Moving slot" in said
    stop.set()
    await asyncio.gather(*clients)
    assert set(seen) <= {200, 429}
    assert seen[200] <= 12_000
    limiting = served.proxy.limiting
    assert limiting is not None
    assert limiting.decisions["local"] == 0
