"""One scenario after the other: calm, fault, heal, recovery, and what the history says."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from pymongo import AsyncMongoClient

from chaos.history import History
from chaos.invariants import ALWAYS
from chaos.load import PASSWORD, Load
from chaos.scenario import Fault, Scenario
from chaos.topology import Topology
from stack.redis_cluster import redis_cli

CALM = 2.0
AFTER = 2.0
"""Seconds of load after the stated time of recovery, which have to be good."""
USER = "super_admin"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """`broken` has what every invariant found; empty texts are good."""

    scenario: Scenario
    history: History
    broken: dict[str, str]

    @property
    def passed(self) -> bool:
        return not any(self.broken.values())


@contextlib.asynccontextmanager
async def running(kind: str, proxy_command: Sequence[str] = ()) -> AsyncIterator[Topology]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        topology = Topology(kind, Path(folder), proxy_command)
        await topology.start()
        try:
            yield topology
        finally:
            await topology.stop()


async def run_all(scenarios: Sequence[Scenario], say: Say, proxy_command: Sequence[str] = ()) -> AsyncGenerator[Result]:
    """Those of one stack share it; what one leaves broken is started anew."""
    for kind in ("single", "clocks", "cluster"):
        chosen = [one for one in scenarios if one.stack == kind]
        if not chosen:
            continue
        stores = "a Redis Cluster of six" if kind == "cluster" else "one Valkey"
        more = ", pod a by a clock that can be set" if kind == "clocks" else ""
        say(f"starting two pods, {stores}, MongoDB, toxiproxy{more}")
        async with running(kind, proxy_command) as topology:
            for scenario in chosen:
                say(f"{scenario.name}: {scenario.about}")
                yield await run(scenario, topology)


async def run(scenario: Scenario, topology: Topology) -> Result:
    connector = aiohttp.TCPConnector(limit=0, force_close=False)
    async with aiohttp.ClientSession(connector=connector) as session:
        token = await _log_in(topology, session)
        load = Load(topology, session, token)
        history = load.history
        load.start()
        try:
            await asyncio.sleep(CALM)
            begin = history.now
            history.fault = (begin, float("inf"))
            await _break(scenario, topology)
            await asyncio.sleep(max(0.0, scenario.lasts - (history.now - begin)))
            history.fault = (begin, history.now)
            await topology.heal()
            history.fault = (begin, max(history.fault[1], history.now))
            await asyncio.sleep(scenario.expect.recovered + AFTER)
        finally:
            await load.stop()
    await _read_back(load, topology)
    return Result(scenario, history, {name: check(history, scenario) for name, check in ALWAYS.items()})


async def _log_in(topology: Topology, session: aiohttp.ClientSession) -> str:
    """Over every pod, so that all are known to be well; what the last scenario broke may need a moment."""
    token = ""
    async with asyncio.timeout(30):
        for pod in topology.pods.values():
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with session.post(
                        f"http://127.0.0.1:{pod.client}/api/auth/login", json={"username": USER, "password": PASSWORD}
                    ) as answer:
                        if answer.status == 200:
                            token = str((await answer.json())["data"]["access_token"])
                            break
                await asyncio.sleep(0.2)
    return token


async def _break(scenario: Scenario, topology: Topology) -> None:
    """All faults, each at its time; they end with `until`, or with the scenario."""
    async with asyncio.TaskGroup() as group:
        for fault in scenario.faults:
            group.create_task(_one(fault, topology, scenario.lasts))


async def _one(fault: Fault, topology: Topology, lasts: float) -> None:
    await asyncio.sleep(fault.after)
    links = [link for name in fault.links for link in _matching(name, topology.toxics.links)]
    for link in links:
        if fault.down:
            await topology.toxics.down(link)
        elif fault.toxic:
            await topology.toxics.add(link, fault.toxic, fault.stream, fault.toxicity, **fault.attributes)
    if fault.flap is not None:
        loop = asyncio.get_running_loop()
        end = loop.time() + lasts - fault.after
        while loop.time() < end:
            for link in links:
                await topology.toxics.down(link)
            await asyncio.sleep(fault.flap)
            for link in links:
                await topology.toxics.up(link)
            await asyncio.sleep(fault.flap)
    for name in await _processes(fault.kill, topology):
        await topology.kill(name)
    for name in await _processes(fault.stop, topology):
        topology.pause(name)
    for name in fault.restart:
        await topology.restart(name)
    for name in fault.clock:
        topology.set_clock(name, fault.by)
    for name in fault.full_log:
        await topology.restart(name, full_log=True)
    if fault.store:
        for port in topology.nodes:
            await redis_cli(port, *fault.store)
    if fault.move_slots:
        await _move_slots(topology)
    if fault.until is not None:
        await asyncio.sleep(max(0.0, fault.until - fault.after))
        for name in await _processes(fault.stop, topology):
            topology.go_on(name)
        for link in links:
            await topology.toxics.up(link)


def _matching(name: str, links: list[str]) -> list[str]:
    """`*-redis` stands for all that end so."""
    found = [one for one in links if one == name or (name.startswith("*") and one.endswith(name[1:]))]
    if not found:
        raise LookupError(f"there is no link {name}. Known are: {', '.join(links)}")
    return found


async def _processes(names: list[str], topology: Topology) -> list[str]:
    """`master` stands for the first node of a cluster that is one."""
    found = []
    for name in names:
        if name != "master":
            found.append(name)
            continue
        found.append(f"valkey-{topology.nodes.index(await _master(topology))}")
    return found


async def _master(topology: Topology) -> int:
    """The first node that says it is a master with slots."""
    for port in topology.nodes:
        if "role:master" in await redis_cli(port, "info", "replication"):
            return port
    raise LookupError("no node is a master")


async def _move_slots(topology: Topology) -> None:
    """A thousand slots from one master to another, as when a cluster grows."""
    masters = [port for port in topology.nodes if "role:master" in await redis_cli(port, "info", "replication")]
    ids = [(await redis_cli(port, "cluster", "myid")).strip() for port in masters[:2]]
    said = await redis_cli(
        masters[0], "--cluster", "reshard", f"127.0.0.1:{masters[0]}", "--cluster-from", ids[0], "--cluster-to", ids[1],
        "--cluster-slots", "1000", "--cluster-yes",
    )  # fmt: skip
    if "Moving slot" not in said:
        raise RuntimeError(f"the slots were not moved: {said[-400:]}")


async def _read_back(load: Load, topology: Topology) -> None:
    """What is in the database, past all links."""
    client: AsyncMongoClient[dict[str, str]] = AsyncMongoClient(topology.mongodb, serverSelectionTimeoutMS=5000)
    try:
        for where, field in (("customers", "email"), ("opportunities", "title")):
            async for one in client.get_default_database()[where].find({}, {field: 1}):
                key = one.get(field, "")
                if key.startswith(load.run):
                    load.history.stored[key] = load.history.stored.get(key, 0) + 1
    finally:
        await client.close()
