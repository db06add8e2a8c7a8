"""The Redis client for sessions, cache and events: one server, or a Cluster (REDIS_CLUSTER_MODE)."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from upstream_app.settings import Settings

Client = Redis | RedisCluster
SECONDS = 2.0


class _Steady:
    """redis-py lets uvloop's RuntimeError through where the server closed while a command was written: it is a lost
    connection like any other."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]  # a connection's
        except RuntimeError as error:
            raise RedisConnectionError("the server closed the connection meanwhile") from error


class SteadyConnection(_Steady, Connection):
    """Without TLS."""


class SteadyTls(_Steady, SSLConnection):
    """With it."""


_KINDS: dict[type[Any], type[Any]] = {Connection: SteadyConnection, SSLConnection: SteadyTls}


def _steady(pool: ConnectionPool) -> None:
    pool.connection_class = _KINDS.get(pool.connection_class, pool.connection_class)


def connect(settings: Settings) -> Client:
    """Connects when first used. RESP 2: redis-py 8.1 drops the first command after an idle close with RESP 3."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 2)
    if settings.REDIS_CLUSTER_MODE:
        cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in settings.cluster_nodes],
            protocol=2, max_connections=20, socket_connect_timeout=SECONDS, socket_timeout=SECONDS,
            decode_responses=True, retry=retry, **_account(settings),
        )  # fmt: skip
        kind = cluster.connection_kwargs.get("connection_class", Connection)
        cluster.connection_kwargs["connection_class"] = _KINDS.get(kind, kind)
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_class = cluster.connection_kwargs["connection_class"]
        return cluster
    pool = BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        protocol=2,
        max_connections=20,
        timeout=2,
        socket_connect_timeout=SECONDS,
        socket_timeout=SECONDS,
        health_check_interval=30,
        retry=retry,
        decode_responses=True,
    )
    _steady(pool)
    return Redis.from_pool(pool)


def listener(settings: Settings) -> Redis:
    """A connection to listen on; of a Cluster any node will do, since messages reach all."""
    if settings.REDIS_CLUSTER_MODE:
        host, port = settings.cluster_nodes[0]
        client = Redis(
            host=host, port=port, protocol=2, decode_responses=True, socket_timeout=SECONDS, **_account(settings)
        )
    else:
        client = Redis.from_url(settings.REDIS_URL, protocol=2, decode_responses=True, socket_timeout=SECONDS)
    _steady(client.connection_pool)
    return client


def _account(settings: Settings) -> dict[str, Any]:
    """User, password and TLS of the URL, for nodes that are named apart; `?ssl_ca_certs=FILE` as redis-py has it."""
    parts = urlsplit(settings.REDIS_URL)
    found: dict[str, Any] = {"username": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    if parts.scheme == "rediss":
        found |= {"ssl": True, **{name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}}
    return {name: value for name, value in found.items() if value}
