"""`make up`: what docker-compose.yml describes, as processes on loopback, where there is no container engine.

Three pods of SimplePro and its sidecar, nginx in front, a Redis Cluster of six, the MongoDB-protocol server, Prometheus
with the rules of `config/prometheus`. One thing differs: the database is one server, no replica set.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from stack import redis_cluster, servers
from stack.process import ROOT, OnLine, ServerProcess, Spec, StartFailure

PODS = 3
NODES = 6
FIRST = {
    "LB_PORT": 8080,
    "PROXY_PORTS": 8081,
    "ADMIN_PORTS": 9911,
    "APP_PORTS": 4001,
    "PROMETHEUS_PORT": 9090,
    "REDIS_PORTS": 7001,
}
BUS = 10_000
"""By how much a node's bus port is above its own, where data are kept."""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Pod:
    number: int
    proxy: int
    admin: int
    app: int


@dataclass(frozen=True, slots=True)
class Places:
    """Ports on loopback. `kept` where a later run goes on with the stores' data."""

    balancer: int
    prometheus: int
    pods: tuple[Pod, ...]
    mongo: int = field(default_factory=servers.free_port)
    redis: tuple[int, ...] = field(default_factory=lambda: tuple(servers.free_port() for _ in range(NODES)))
    kept: bool = False

    @classmethod
    def free(cls) -> Places:
        pods = tuple(Pod(n, *(servers.free_port() for _ in range(3))) for n in range(1, PODS + 1))
        return cls(servers.free_port(), servers.free_port(), pods)

    @classmethod
    def chosen(cls, environment: Mapping[str, str]) -> Places:
        """Raises StartFailure for what is no port, or is in use."""
        first = {}
        for name, default in FIRST.items():
            text = environment.get(name) or str(default)
            if not text.isdigit() or not 0 < int(text) < 65530:
                raise StartFailure(f"{name}={text} is no port: give a number from 1 to 65529")
            first[name] = int(text)
        pods = tuple(
            Pod(n + 1, first["PROXY_PORTS"] + n, first["ADMIN_PORTS"] + n, first["APP_PORTS"] + n) for n in range(PODS)
        )
        nodes = tuple(first["REDIS_PORTS"] + n for n in range(NODES))
        places = cls(first["LB_PORT"], first["PROMETHEUS_PORT"], pods, redis=nodes, kept=True)
        wanted = [
            ("LB_PORT", places.balancer), ("PROMETHEUS_PORT", places.prometheus),
            *(("PROXY_PORTS", pod.proxy) for pod in pods), *(("ADMIN_PORTS", pod.admin) for pod in pods),
            *(("APP_PORTS", pod.app) for pod in pods), *(("REDIS_PORTS", node) for node in nodes),
            *(("REDIS_PORTS", node + BUS) for node in nodes),
        ]  # fmt: skip
        for name, port in wanted:
            if servers.taken(port):
                raise StartFailure(f"port {port} is in use: end what holds it, or choose others: {name}={port + 100}")
        return places


class Twin:
    """Started in the compose file's order and stopped in the reverse one."""

    def __init__(self, places: Places, folder: Path, scrape: str = "15s", on_line: OnLine | None = None) -> None:
        self.places = places
        self.processes: list[ServerProcess] = []
        self._folder = folder
        self._scrape = scrape
        self._on_line = on_line

    @property
    def environment(self) -> dict[str, str]:
        """Where the stores are, in the variables that the application and the sidecar read."""
        nodes = [f"127.0.0.1:{port}" for port in self.places.redis]
        return {
            "REDIS_URL": f"redis://{nodes[0]}", "REDIS_CLUSTER_MODE": "true", "REDIS_CLUSTER_NODES": ",".join(nodes),
            "MONGODB_URI": f"mongodb://127.0.0.1:{self.places.mongo}/simplepro?directConnection=true",
        }  # fmt: skip

    async def start(self) -> None:
        """Raises StartFailure, and stops what it had started."""
        for tool in ("nginx", "prometheus", "redis-cli"):
            if found(tool) is None:
                raise StartFailure(f"{tool} is missing. Run: make system")
        try:
            await self._stores()
            await asyncio.gather(*(self._pod(pod) for pod in self.places.pods))
            await self._run(self._balancer())
            await self._run(self._prometheus())
        except BaseException:
            await self.stop()
            raise

    async def _run(self, spec: Spec) -> None:
        process = ServerProcess(spec, self._on_line)
        self.processes.append(process)
        await process.start()

    async def _stores(self) -> None:
        names = [(port, f"redis-{number}") for number, port in enumerate(self.places.redis, 1)]
        bus = BUS if self.places.kept else 0
        nodes = [
            redis_cluster.node(port, self._folder / name, name, bus=port + bus if bus else 0) for port, name in names
        ]
        mongo = servers.mongo(self.places.mongo, self._folder / "mongo")
        await asyncio.gather(*map(self._run, [*nodes, mongo]))
        await redis_cluster.create(self.places.redis, [f"127.0.0.1:{port}" for port in self.places.redis])
        for step in ("migrate", "seed"):
            await self._told(step)

    async def _told(self, step: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(servers.BIN / "simplepro-app"), step, env={**os.environ, **self.environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(90):
                said, _ = await process.communicate()
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            raise StartFailure(f"simplepro-app {step}:\n{said.decode(errors='replace')[-800:]}")

    async def _pod(self, pod: Pod) -> None:
        stores = self.environment
        edge = {"EDGE_PURGE_URL": f"http://127.0.0.1:{pod.admin}", "EDGE_PURGE_TOKEN": stores.get("ADMIN_TOKEN", "")}
        application = servers.app(
            pod.app, stores["MONGODB_URI"], stores["REDIS_URL"], {**stores, **edge, "MONGODB_MIN_POOL_SIZE": "0"}
        )
        await self._run(named(application, f"app-{pod.number}"))
        settings = {**stores, "TRUSTED_PROXIES": "127.0.0.0/8"}
        policy = ROOT / "config" / "simplepro.yaml"
        sidecar = servers.proxy(
            policy, pod.proxy, pod.admin, f"127.0.0.1:{pod.app}", stores["REDIS_URL"], settings
        )  # fmt: skip
        await self._run(named(sidecar, f"proxy-{pod.number}"))

    def _balancer(self) -> Spec:
        text = (ROOT / "config" / "nginx" / "nginx.conf").read_text()
        for pod in self.places.pods:
            text = text.replace(f"server app-{pod.number}:8080", f"server 127.0.0.1:{pod.proxy}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.places.balancer};")
        folder = self._folder / "nginx"
        folder.mkdir(parents=True, exist_ok=True)
        own = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
        text = f"pid {folder}/pid;\ndaemon off;\n" + text.replace("http {\n", f"http {{\n{own}", 1)
        (folder / "nginx.conf").write_text(text)
        command = [str(found("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        return Spec("balancer", command, servers.serves(self.places.balancer, "/api/health/live"))

    def _prometheus(self) -> Spec:
        source = ROOT / "config" / "prometheus"
        settings: dict[str, Any] = yaml.safe_load((source / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": self._scrape, "evaluation_interval": self._scrape}
        settings["rule_files"] = [str(source / "rules" / "*.yml")]
        del settings["alerting"]
        admins = [f"127.0.0.1:{pod.admin}" for pod in self.places.pods]
        for job in settings["scrape_configs"]:
            job.pop("authorization", None)
            of_pods = job["job_name"].startswith("simplepro-")
            job["static_configs"][0]["targets"] = admins if of_pods else [f"127.0.0.1:{self.places.prometheus}"]
        folder = self._folder / "prometheus"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        command = [
            str(found("prometheus")), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.places.prometheus}", "--log.level=warn",
        ]  # fmt: skip
        return Spec("prometheus", command, servers.serves(self.places.prometheus, "/-/ready"))

    async def stop(self) -> None:
        """In the reverse order; the pods together. Nothing is left running where this is cancelled."""
        try:
            while self.processes:
                pods = [one for one in self.processes if one.spec.name.startswith(("app-", "proxy-"))]
                last = pods if self.processes[-1] in pods else [self.processes[-1]]
                for process in last:
                    self.processes.remove(process)
                await asyncio.gather(*(process.stop() for process in last))
        except BaseException:
            for process in self.processes:
                process.signal(signal.SIGKILL)
            raise


def named(spec: Spec, name: str) -> Spec:
    return Spec(name, spec.command, spec.ready, spec.environment, spec.deadline, spec.grace)


def found(tool: str) -> str | None:
    """Debian keeps servers where a user's PATH does not look."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/usr/local/sbin:/sbin")


def guide(places: Places) -> str:
    pods = "\n".join(
        f"  pod {pod.number}: http://127.0.0.1:{pod.proxy}, admin http://127.0.0.1:{pod.admin}/ui"
        for pod in places.pods
    )
    return f"""
Ready.
  through the load balancer: http://127.0.0.1:{places.balancer}/api/health/ready
{pods}
  Prometheus: http://127.0.0.1:{places.prometheus}/alerts
Ctrl-C ends everything; data stays in .data/twin (DATA_DIR)
"""


async def main() -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    places = Places.chosen(os.environ)
    data = Path(os.environ.get("DATA_DIR") or ROOT / ".data").absolute() / "twin"  # noqa: ASYNC240
    twin = Twin(places, data, os.environ.get("SCRAPE_INTERVAL") or "15s")
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(twin.start())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        starting.result()
        click.echo(guide(places))
        ends = {asyncio.create_task(one.wait()): one for one in twin.processes}
        await asyncio.wait({*ends, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task, process in ends.items():
            if task.done():
                click.echo(f"{process.spec.name} ended by itself with status {process.status}", err=True)
                return 1
            task.cancel()
        return 0
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await twin.stop()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except StartFailure as problem:
        click.echo(problem, err=True)
        sys.exit(1)
