"""Two pods, each SimplePro and its sidecar, with their stores; every link between them through toxiproxy."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.toxics import Toxics
from stack import redis_cluster, servers
from stack.process import ROOT, ServerProcess, Spec, StartFailure

POLICY = ROOT / "chaos" / "policy.yaml"
PODS = ("a", "b")
NODES = 6
APP = {
    "MONGODB_MIN_POOL_SIZE": "0", "MONGODB_SERVER_SELECTION_TIMEOUT_MS": "2000", "MONGODB_CONNECT_TIMEOUT_MS": "2000",
    "MONGODB_SOCKET_TIMEOUT_MS": "4000", "SHUTDOWN_TIMEOUT": "3000", "LOG_LEVEL": "ERROR",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """`client` is the port that clients use; the others are those of the processes, past all links."""

    name: str
    client: int
    port: int
    admin: int
    app: int


class Topology:
    """`kind` is single (one Valkey), clocks (the same, and pod a has a wall clock that can be set) or cluster (six
    nodes, announced at their links). `proxy_command` stands for the sidecar's, for planted faults."""

    def __init__(self, kind: str, folder: Path, proxy_command: Sequence[str] = ()) -> None:
        self.kind = kind
        self.toxics = Toxics()
        self.processes: dict[str, ServerProcess] = {}
        self.pods: dict[str, Pod] = {}
        self.mongodb = ""
        self.nodes: list[int] = []
        self._folder = folder
        self._proxy_command = list(proxy_command)
        self._stopped: set[str] = set()
        self._clocks: dict[str, Path] = {}

    @property
    def names(self) -> list[str]:
        return list(self.processes)

    async def start(self) -> None:
        try:
            await self.toxics.start()
            await self._stores()
            for name in PODS:
                await self._pod(name)
            await self._seed()
        except BaseException:
            await self.stop()
            raise

    async def _run(self, name: str, spec: Spec) -> None:
        self.processes[name] = process = ServerProcess(spec)
        await process.start()

    async def _stores(self) -> None:
        mongo = servers.free_port()
        self.mongodb = f"mongodb://127.0.0.1:{mongo}/chaos?directConnection=true"
        await self._run("mongo", servers.mongo(mongo, self._folder / "mongo"))
        self._mongo = mongo
        if self.kind != "cluster":
            port = servers.free_port()
            self.nodes = [port]
            durable = ("--appendonly", "yes", "--appendfsync", "always")
            await self._run("valkey", servers.valkey(port, self._folder / "valkey", *durable))
            return
        links = []
        for number in range(NODES):
            port = servers.free_port()
            link = await self.toxics.link(f"redis-{number}", port)
            links.append(link)
            name = f"valkey-{number}"
            await self._run(name, redis_cluster.node(port, self._folder / name, name, link))
            self.nodes.append(port)
        self._links = links
        await redis_cluster.create(self.nodes, [f"127.0.0.1:{port}" for port in links])

    async def _store_of(self, who: str) -> dict[str, str]:
        """How a process reaches the store, by a link of its own where there is one server."""
        if self.kind != "cluster":
            port = await self.toxics.link(f"{who}-redis", self.nodes[0])
            return {"REDIS_URL": f"redis://127.0.0.1:{port}"}
        nodes = ",".join(f"127.0.0.1:{port}" for port in self._links)
        return {
            "REDIS_URL": f"redis://127.0.0.1:{self._links[0]}", "REDIS_CLUSTER_MODE": "true",
            "REDIS_CLUSTER_NODES": nodes,
        }  # fmt: skip

    async def _pod(self, name: str) -> None:
        mongo = await self.toxics.link(f"app-{name}-mongo", self._mongo)
        uri = f"mongodb://127.0.0.1:{mongo}/chaos?directConnection=true"
        app, port, admin = (servers.free_port() for _ in range(3))
        store = await self._store_of(f"app-{name}")
        environment = {**APP, **store, **self._clock(f"app-{name}")}
        await self._run(f"app-{name}", servers.app(app, uri, store["REDIS_URL"], environment))
        link = await self.toxics.link(f"{name}-app", app)
        store = await self._store_of(name) | self._clock(f"proxy-{name}")
        spec = servers.proxy(POLICY, port, admin, f"127.0.0.1:{link}", store["REDIS_URL"], store)
        await self._run(f"proxy-{name}", self._launched(spec))
        client = await self.toxics.link(f"client-{name}", port)
        self.pods[name] = Pod(name, client, port, admin, app)

    def _clock(self, name: str) -> dict[str, str]:
        """What lets the wall clock of pod a's processes be set while they run, by libfaketime."""
        if self.kind != "clocks" or not name.endswith("-a"):
            return {}
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            raise StartFailure("libfaketime is missing: install it (Debian: libfaketime), or leave the clocks out")
        self._clocks[name] = path = self._folder / f"clock-{name}"
        path.write_text("+0\n")
        return {
            "LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(path), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set_clock(self, name: str, by: str) -> None:
        """By so many seconds, `+300` or `-300`; within a second."""
        if name not in self._clocks:
            raise LookupError(f"the clock of {name} can't be set. Those that can: {', '.join(self._clocks) or 'none'}")
        self._clocks[name].write_text(f"{by}\n")

    def _launched(self, spec: Spec) -> Spec:
        if not self._proxy_command:
            return spec
        return Spec(
            spec.name, [*self._proxy_command, *spec.command[1:]], spec.ready, spec.environment, grace=spec.grace
        )

    async def _seed(self) -> None:
        store = self.processes["app-a"].spec.environment
        environment = {**os.environ, **store, "MONGODB_URI": self.mongodb}
        seeding = await asyncio.create_subprocess_exec(
            str(servers.BIN / "simplepro-app"), "seed", env=environment, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(60):
            if await seeding.wait():
                raise StartFailure("the database could not be seeded")

    async def kill(self, name: str) -> None:
        process = self._process(name)
        process.signal(signal.SIGKILL)
        await process.stop()

    def pause(self, name: str) -> None:
        self._process(name).signal(signal.SIGSTOP)
        self._stopped.add(name)

    def go_on(self, name: str) -> None:
        self._process(name).signal(signal.SIGCONT)
        self._stopped.discard(name)

    async def restart(self, name: str, environment: Mapping[str, str] | None = None, *, full_log: bool = False) -> None:
        """Stopped as by an orchestrator, and started anew; `full_log` writes its output where nothing fits."""
        process = self._process(name)
        await process.stop()
        spec = process.spec
        command = spec.command
        if full_log and command[0] != "/bin/sh":
            command = ["/bin/sh", "-c", 'exec "$@" >/dev/full 2>/dev/full', "sh", *command]
        elif not full_log and command[0] == "/bin/sh":
            command = command[4:]
        again = Spec(
            spec.name, command, spec.ready, {**spec.environment, **(environment or {})}, spec.deadline, spec.grace
        )
        await self._run(name, again)

    def _process(self, name: str) -> ServerProcess:
        if name not in self.processes:
            raise LookupError(f"there is no process {name}. Known are: {', '.join(self.processes)}")
        return self.processes[name]

    async def heal(self) -> None:
        """Links whole, paused processes running, dead ones started anew."""
        await self.toxics.heal()
        for name in self._clocks:
            self.set_clock(name, "+0")
        for name in list(self._stopped):
            self.go_on(name)
        dead = [name for name, one in self.processes.items() if one.status is not None]
        for name in dead:
            await self._run(name, self.processes[name].spec)
        for name, process in list(self.processes.items()):
            if process.spec.command[0] == "/bin/sh":
                await self.restart(name)

    async def stop(self) -> None:
        """Where this is cancelled, nothing is left running all the same."""
        try:
            await self._stop()
        except BaseException:
            for process in (*self.processes.values(), self.toxics.process):
                process.signal(signal.SIGKILL)
            raise

    async def _stop(self) -> None:
        for name in list(self._stopped):
            self.go_on(name)
        for name in ["proxy-a", "proxy-b", "app-a", "app-b"]:
            if name in self.processes:
                await self.processes[name].stop()
        await asyncio.gather(*(process.stop() for process in self.processes.values()))
        await self.toxics.stop()
