"""`make run`: start everything, show a first request through the policies, go on until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from stack import servers
from stack.process import ROOT, ServerProcess, Spec, StartFailure

PASSWORD = "SimplePro1!"  # noqa: S105  # of the seed's users, for evaluation; the README says it
USERS = (
    "super_admin", "admin", "manager", "dispatcher", "sales", "crew_lead", "crew_member", "customer_service",
)  # fmt: skip
COLOURS = {"valkey": 31, "mongo": 32, "app": 34, "proxy": 35}


class Unusable(Exception):
    """The machine or the environment does not allow the start; the text says what would."""


@dataclass(frozen=True, slots=True)
class Ports:
    proxy: int
    admin: int
    app: int
    redis: int
    mongodb: int


PORTS = {"PROXY_PORT": 8080, "ADMIN_PORT": 9901, "PORT": 4000, "REDIS_PORT": 6379, "MONGODB_PORT": 27017}


def ports(environment: Mapping[str, str]) -> Ports:
    """Raises Unusable where a variable holds no port."""
    chosen = []
    for name, default in PORTS.items():
        text = environment.get(name) or str(default)
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise Unusable(f"{name}={text} is no port: give a number from 1 to 65535")
        chosen.append(int(text))
    return Ports(*chosen)


def plan(at: Ports, environment: Mapping[str, str]) -> list[Spec]:
    """What is started, in order. Raises Unusable for a port in use or a server that is not installed."""
    redis, mongodb = environment.get("REDIS_URL"), environment.get("MONGODB_URI")
    data = Path(environment.get("DATA_DIR") or ROOT / ".data").absolute()
    specs: list[Spec] = []
    _free(at.proxy, "the proxy", "PROXY_PORT")
    _free(at.admin, "the proxy's admin", "ADMIN_PORT")
    _free(at.app, "the application", "PORT")
    if not redis:
        _free(at.redis, "Valkey", "REDIS_PORT", "or use the one that runs there: REDIS_URL=redis://127.0.0.1:{port}")
        specs.append(servers.valkey(at.redis, data / "valkey", "--appendonly", "yes"))
        redis = f"redis://127.0.0.1:{at.redis}"
    if not mongodb:
        _free(at.mongodb, "MongoDB", "MONGODB_PORT", "or use the one there: MONGODB_URI=mongodb://127.0.0.1:{port}")
        specs.append(servers.mongo(at.mongodb, data / "mongo"))
        mongodb = f"mongodb://127.0.0.1:{at.mongodb}/simplepro"
    edge = {"EDGE_PURGE_URL": f"http://127.0.0.1:{at.admin}", "EDGE_PURGE_TOKEN": environment.get("ADMIN_TOKEN", "")}
    specs.append(servers.app(at.app, mongodb, redis, edge))
    policy = ROOT / "config" / "simplepro.yaml"
    specs.append(servers.proxy(policy, at.proxy, at.admin, f"127.0.0.1:{at.app}", redis))
    if len({at.proxy, at.admin, at.app, at.redis, at.mongodb}) < len(PORTS):
        raise Unusable(f"two of {', '.join(PORTS)} are the same port: give each its own")
    for spec in specs:
        if not os.access(spec.command[0], os.X_OK):
            raise Unusable(f"{spec.command[0]} is missing. Run: make setup")
    return specs


def _free(port: int, what: str, variable: str, alternative: str = "") -> None:
    if servers.taken(port):
        more = f", {alternative.format(port=port)}" if alternative else ""
        raise Unusable(
            f"port {port} ({what}) is in use: end what holds it, choose another: {variable}={port + 1}{more}"
        )


class Stack:
    """Starts in order, each once the one before is ready; stops in the reverse order."""

    def __init__(self, specs: list[Spec], quiet: bool = False) -> None:
        self.processes = [ServerProcess(spec, None if quiet else show) for spec in specs]
        self._started: list[ServerProcess] = []

    async def start(self) -> None:
        """Raises StartFailure; what runs already is stopped then by `stop`."""
        for process in self.processes:
            say(f"starting {process.spec.name}")
            self._started.append(process)
            await process.start()

    async def first_end(self) -> ServerProcess:
        """The first that ends by itself."""
        waits = {asyncio.create_task(one.wait()): one for one in self._started}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        return waits[done.pop()]

    async def stop(self) -> None:
        while self._started:
            process = self._started.pop()
            say(f"stopping {process.spec.name}")
            await process.stop()


def show(name: str, line: str) -> None:
    mark = f"\033[{COLOURS.get(name, 37)}m{name:>7}\033[0m" if sys.stdout.isatty() else f"{name:>7}"
    click.echo(f"{mark} | {line}")


def say(text: str) -> None:
    click.echo(f"{'stack':>7} | {text}")


async def reachable(variable: str, url: str, default: int) -> None:
    """Raises Unusable where nobody listens at a server of one's own."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    if url.startswith(("unix:", "mongodb+srv:")):
        return
    for text in hosts:
        host, _, port = text.rpartition(":") if ":" in text else (text, "", str(default))
        try:
            async with asyncio.timeout(3):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            return
        except (OSError, TimeoutError, ValueError):
            continue
    raise Unusable(
        f"{variable}: nobody answers at {', '.join(hosts)}. Start it, or leave {variable} out to have one here"
    )


async def seeded(stack: Stack) -> None:
    """Something to look at, where the database is empty and this is no production."""
    app = next(one.spec for one in stack.processes if one.spec.name == "app")
    environment = {**os.environ, **app.environment}
    if "production" in (environment.get("ENVIRONMENT"), environment.get("NODE_ENV")):
        say("no seed data in production")
        return
    process = await asyncio.create_subprocess_exec(
        app.command[0], "seed", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await process.communicate()
    say(f"seed: {said.decode().strip() or 'failed'}")


async def first_request(port: int) -> str:
    """A log-in and a list through the proxy, the list whole, as curl -i would show it."""
    credentials = json.dumps({"username": "manager", "password": PASSWORD})
    entered = await ask(port, "POST", "/api/auth/login", "", credentials)
    token = entered.partition('"access_token":"')[2].partition('"')[0]
    if not token:
        return f"POST /api/auth/login\n\n{entered}"
    path = "/api/customers?limit=1"
    return f"GET {path}\n\n" + await ask(port, "GET", path, f"Authorization: Bearer {token}\r\n", "")


async def ask(port: int, method: str, path: str, fields: str, body: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        framing = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}Connection: close\r\n\r\n"
        writer.write((head + body).encode())
        async with asyncio.timeout(10):
            return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()


def guide(at: Ports) -> str:
    proxy, admin = f"http://127.0.0.1:{at.proxy}", f"http://127.0.0.1:{at.admin}"
    return f"""
Ready. Through the proxy ({proxy}):
  curl -i {proxy}/api/health/ready
  TOKEN=$(curl -s {proxy}/api/auth/login -H 'content-type: application/json' \\
       -d '{{"username":"manager","password":"{PASSWORD}"}}' | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
  curl -i '{proxy}/api/customers?search=ada' -H "authorization: Bearer $TOKEN"
  curl -i {proxy}/api/customers -H 'content-type: text/plain' -d x      # refused, and why
Users (password {PASSWORD}): {", ".join(USERS)}
What the application answers: {proxy}/api/docs
The proxy's admin ({admin}): /readyz /metrics /clusters /routes /limits /bans /config_dump
The application alone: http://127.0.0.1:{at.app}
Ctrl-C ends everything; data stays in .data/ (DATA_DIR)
"""


async def main() -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    at = ports(os.environ)
    specs = plan(at, os.environ)
    for variable, default in (("REDIS_URL", 6379), ("MONGODB_URI", 27017)):
        if url := os.environ.get(variable):
            await reachable(variable, url, default)
    stack = Stack(specs)
    stopped = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(stack.start())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        starting.result()
        await seeded(stack)
        click.echo(f"\n{await first_request(at.proxy)}\n{guide(at)}")
        ending = asyncio.create_task(stack.first_end())
        await asyncio.wait({ending, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            ended = ending.result()
            say(f"{ended.spec.name} ended by itself with status {ended.status}")
            return 1
        ending.cancel()
        return 0
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await stack.stop()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except (Unusable, StartFailure) as problem:
        click.echo(problem, err=True)
        sys.exit(1)
