"""A Redis Cluster of Valkey nodes: made, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from stack import servers
from stack.process import Spec, StartFailure

CLI_SECONDS = 60


async def redis_cli(port: int, *arguments: str) -> str:
    """What redis-cli says. Raises StartFailure where it is not installed, TimeoutError after CLI_SECONDS."""
    try:
        process = await asyncio.create_subprocess_exec(
            "redis-cli", "-p", str(port), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except FileNotFoundError:
        raise StartFailure("redis-cli is missing. Run: make system") from None
    try:
        async with asyncio.timeout(CLI_SECONDS):
            output, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return output.decode()


def node(port: int, data: Path, name: str, announced: int = 0, bus: int = 0) -> Spec:
    """`announced` is the port that clients and other nodes are told, where it is another; `bus` is a free one unless
    given, and has to be given where the data are kept."""
    bus = bus or servers.free_port()
    options = [
        "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(bus),
        "--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(announced or port),
        "--cluster-announce-bus-port", str(bus), "--cluster-config-file", f"nodes-{port}.conf", "--appendonly", "yes",
    ]  # fmt: skip
    return servers.valkey(port, data, *options, name=name)


async def create(nodes: Sequence[int], addresses: Sequence[str], deadline: float = 30) -> None:
    """A replica a master; returns once every node says that all is well. A cluster that is there is kept.

    Raises StartFailure."""
    if "cluster_known_nodes:1\r" in await redis_cli(nodes[0], "cluster", "info"):
        said = await redis_cli(nodes[0], "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes")
        if "All 16384 slots covered" not in said:
            raise StartFailure(f"the cluster could not be made:\n{said[-800:]}")
    try:
        async with asyncio.timeout(deadline):
            for port in nodes:
                while True:
                    if "cluster_state:ok" in await redis_cli(port, "cluster", "info"):
                        break
                    await asyncio.sleep(0.2)
    except TimeoutError:
        raise StartFailure(f"the cluster was not well within {deadline:g} s") from None
