"""The Redis client for sessions, cache and events: one server, or a Cluster (REDIS_CLUSTER_MODE)."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from upstream_app.settings import Settings

Client = Redis | RedisCluster
SECONDS = 2.0


def connect(settings: Settings) -> Client:
    """Connects when first used. RESP 2: redis-py 8.1 drops the first command after an idle close with RESP 3."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 2)
    if settings.REDIS_CLUSTER_MODE:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in settings.cluster_nodes],
            protocol=2, max_connections=20, socket_connect_timeout=SECONDS, socket_timeout=SECONDS,
            decode_responses=True, retry=retry, **_account(settings),
        )  # fmt: skip
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
    return Redis.from_pool(pool)


def listener(settings: Settings) -> Redis:
    """A connection to listen on; of a Cluster any node will do, since messages reach all."""
    if settings.REDIS_CLUSTER_MODE:
        host, port = settings.cluster_nodes[0]
        return Redis(
            host=host, port=port, protocol=2, decode_responses=True, socket_timeout=SECONDS, **_account(settings)
        )
    return Redis.from_url(settings.REDIS_URL, protocol=2, decode_responses=True, socket_timeout=SECONDS)


def _account(settings: Settings) -> dict[str, Any]:
    """User, password and TLS of the URL, for nodes that are named apart; `?ssl_ca_certs=FILE` as redis-py has it."""
    parts = urlsplit(settings.REDIS_URL)
    found: dict[str, Any] = {"username": unquote(parts.username or ""), "password": unquote(parts.password or "")}
    if parts.scheme == "rediss":
        found |= {"ssl": True, **{name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}}
    return {name: value for name, value in found.items() if value}
