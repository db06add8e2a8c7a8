"""The Redis client; nothing but the health check uses it until sessions and cache come."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from upstream_app.settings import Settings


def connect(settings: Settings) -> Redis:
    """Connects when first used. RESP 2: redis-py 8.1 drops the first command after an idle close with RESP 3."""
    pool = BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        protocol=2,
        max_connections=20,
        timeout=2,
        socket_connect_timeout=2,
        socket_timeout=2,
        health_check_interval=30,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 2),
        decode_responses=True,
    )
    return Redis.from_pool(pool)
