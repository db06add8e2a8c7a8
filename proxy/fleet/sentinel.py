"""Where the master is, as Redis Sentinel says."""

from __future__ import annotations

from redis.asyncio import Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from proxy.throttle.address import StoreAddress
from proxy.throttle.link import StoreError
from proxy.throttle.store import Locate

ASK_SECONDS = 0.3
"""For each Sentinel that is asked; a connection to the store has a second in all."""


def locator(nodes: tuple[tuple[str, int], ...], master: str, account: StoreAddress) -> Locate:
    """Ask the Sentinels, one after the other, until one knows. Raises StoreError."""
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves its constructor untyped
        list(nodes),
        sentinel_kwargs={
            "socket_timeout": ASK_SECONDS,
            "socket_connect_timeout": ASK_SECONDS,
            **account.for_redis,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
        },
    )

    async def locate() -> tuple[str, int]:
        try:
            host, port = await sentinel.discover_master(master)
        except RedisError as error:
            raise StoreError(f"no Sentinel knows the master: {type(error).__name__}") from None
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return str(host), int(port)

    return locate
