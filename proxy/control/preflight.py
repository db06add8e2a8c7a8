"""What has to be so before a sidecar is rolled out: each line ok, or what is wrong and how to mend it."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import aiohttp

from proxy.policy.clusters import cluster_spec, server_tls
from proxy.policy.limits import address_of
from proxy.policy.model import Policy
from proxy.policy.models.clusters import ClusterModel
from proxy.tls import ServerTls, client_context, served_by
from proxy.upstream.pool import shown

DEADLINE = 5.0
SKEW_SECONDS = 2.0
FILES = 4096
CERTIFICATE_DAYS = 14
MAX_REPLY = 4096


class Wrong(Exception):
    """What is wrong, and how to mend it."""


async def preflight(policy: Policy) -> list[tuple[str, str, bool]]:
    """Name, words, and whether it is good; every check runs, whatever the others say."""
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [("files", _files)]
    checks += [
        (f"cluster {name}", functools.partial(_reachable, place, cluster))
        for name, cluster in policy.clusters.items()
        for place in cluster.endpoints
    ]
    tls = server_tls(policy.listener.tls)
    if tls is not None:
        checks.append(("certificates", lambda: _certificates(tls)))
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


async def _reachable(place: tuple[str, int], cluster: ClusterModel) -> str:
    host, port = place
    terms = cluster_spec("preflight", cluster).tls
    context = client_context(terms) if terms else None
    name = (terms.server_name or host) if terms else None
    began = time.perf_counter()
    try:
        if host.startswith("unix:"):
            path = host.removeprefix("unix:")
            _, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname=name)
        else:
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise Wrong(f"{shown(host, port)}: TLS fails ({why}): see the cluster's tls.ca and tls.server_name") from None
    writer.close()
    return f"{shown(host, port)} took a connection in {(time.perf_counter() - began) * 1000:.1f} ms"


async def _certificates(tls: ServerTls) -> str:
    first = min((served_by(pair) for pair in tls.pairs), key=lambda one: one.not_after)
    left = first.not_after - datetime.now(UTC)
    if left < timedelta(days=CERTIFICATE_DAYS):
        raise Wrong(f"{first.file} is good until {first.not_after:%Y-%m-%d %H:%M} UTC only: renew it")
    return f"the first to end is {first.file}, in {left.days} days"


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
    if host.startswith("unix:"):
        free = not os.path.exists(host.removeprefix("unix:"))
        return (
            "listener",
            f"{host} {'is free' if free else 'is there: where a sidecar runs already, all is well'}",
            free,
        )
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, number) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            what = f"{host}:{port}: {error.strerror}. Where a sidecar runs there already, all is well"
            return "listener", what, False
    return "listener", f"{host}:{port} is free", True
