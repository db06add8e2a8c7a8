"""What has to be so before a sidecar is rolled out: each line ok, or what is wrong and how to mend it."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Awaitable, Callable

import aiohttp

from proxy.policy.limits import address_of
from proxy.policy.model import Policy

DEADLINE = 5.0
SKEW_SECONDS = 2.0
FILES = 4096
MAX_REPLY = 4096


class Wrong(Exception):
    """What is wrong, and how to mend it."""


async def preflight(policy: Policy) -> list[tuple[str, str, bool]]:
    """Name, words, and whether it is good; every check runs, whatever the others say."""
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [("files", _files)]
    for name, cluster in policy.clusters.items():
        for host, port in cluster.endpoints:
            checks.append((f"cluster {name}", lambda host=host, port=port: _reachable(host, port)))  # type: ignore[misc]
    if policy.redis is not None:
        checks += [("redis", lambda: _redis(policy)), ("clock", lambda: _clock(policy))]
    jwt = policy.identity.jwt if policy.identity else None
    if jwt is not None and jwt.keys_url is not None:
        url = jwt.keys_url
        checks.append(("keys", lambda: _keys(url)))
    told = []
    for name, check in checks:
        try:
            async with asyncio.timeout(DEADLINE):
                told.append((name, await check(), True))
        except Wrong as wrong:
            told.append((name, str(wrong), False))
        except TimeoutError:
            told.append((name, f"no answer within {DEADLINE:g} s: is it up, and may this machine reach it?", False))
        except (OSError, aiohttp.ClientError) as error:
            told.append((name, f"{error}: is it up, and is the address right?", False))
    return told


async def _files() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FILES:
        raise Wrong(f"{hard} open files at most, and each connection takes two: raise it (ulimit -Hn, LimitNOFILE)")
    return f"{hard} may be open"


async def _reachable(host: str, port: int) -> str:
    began = time.perf_counter()
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return f"{host}:{port} took a connection in {(time.perf_counter() - began) * 1000:.1f} ms"


async def _ask(policy: Policy, *words: str) -> bytes:
    """A line of the answer, over a connection of its own. Raises Wrong where Redis says no."""
    if policy.redis is None:
        raise Wrong("the policy names no redis")
    address = address_of(policy.redis)
    nodes = policy.redis.nodes if policy.redis.cluster else []
    host, port = nodes[0] if nodes else (address.host, address.port)
    reader, writer = await asyncio.open_connection(host, port, ssl=address.tls or None)
    try:
        commands = [list(words)]
        if address.password:
            commands.insert(0, ["AUTH", *([address.username] if address.username else []), address.password])
        for command in commands:
            parts = b"".join(b"$%d\r\n%b\r\n" % (len(one.encode()), one.encode()) for one in command)
            writer.write(b"*%d\r\n%b" % (len(command), parts))
        answer = b""
        for _ in commands:
            answer = await _reply(reader)
            if answer.startswith(b"-"):
                raise Wrong(f"Redis says: {answer[1:120].decode(errors='replace').strip()}")
        return answer
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if line.startswith(b"$") and not line.startswith(b"$-1"):
        return await reader.readexactly(min(MAX_REPLY, int(line[1:]) + 2))
    if line.startswith(b"*"):
        return b"\n".join([await _reply(reader) for _ in range(int(line[1:]))])
    return line


async def _redis(policy: Policy) -> str:
    if policy.redis is not None and policy.redis.cluster:
        info = dict(
            line.split(b":", 1) for line in (await _ask(policy, "CLUSTER", "INFO")).split(b"\r\n") if b":" in line
        )
        if info.get(b"cluster_state") != b"ok":
            state = info.get(b"cluster_state", b"not told").decode()
            raise Wrong(f"the cluster's state is {state}: see redis-cli --cluster check")
        return f"cluster of {info[b'cluster_known_nodes'].decode()}, all slots covered"
    answer = await _ask(policy, "PING")
    if not answer.startswith(b"+PONG"):
        raise Wrong(f"what answers is no Redis: {answer[:40]!r}")
    return "answers"


async def _clock(policy: Policy) -> str:
    began = time.time()
    seconds, micros = [int(one) for one in (await _ask(policy, "TIME")).split()]
    skew = seconds + micros / 1e6 - (began + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        raise Wrong(f"{skew:+.1f} s beside Redis's: run NTP on both; tokens end by this clock")
    return f"{skew * 1000:+.0f} ms beside Redis's"


async def _keys(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise Wrong(f"{url} answers {answer.status}: tokens can't be verified without its keys")
        keys = (await answer.json(content_type=None)).get("keys", [])
    if not keys:
        raise Wrong(f"{url} names no keys")
    return f"{len(keys)} at {url}"


def can_listen(policy: Policy) -> tuple[str, str, bool]:
    """Whether the listener's address is free."""
    host, port = policy.listener.address
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, number) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            what = f"{host}:{port}: {error.strerror}. Where a sidecar runs there already, all is well"
            return "listener", what, False
    return "listener", f"{host}:{port} is free", True
