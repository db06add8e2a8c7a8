"""A circuit breaker for what may fail: pybreaker's states, listeners and storage; admission and outcome are its own.

The proxy runs one for each cluster and endpoint; SimplePro puts one around Redis and one around MongoDB.

    breaker = Breaker("redis", Settings(consecutive=Consecutive(5)))

    async with breaker.attempt():
        async with asyncio.timeout(1):
            await client.ping()

    @breaker
    async def ping() -> None: ...

Deadlines go inside the attempt, so that a call that was too slow counts as failed. A cancelled call is neutral.
"""

from breaker.attempt import Attempt
from breaker.breaker import Breaker, BreakerOpen, State
from breaker.settings import Consecutive, ErrorRate, OpenTime, Settings, SlowRate

__all__ = [
    "Attempt",
    "Breaker",
    "BreakerOpen",
    "Consecutive",
    "ErrorRate",
    "OpenTime",
    "Settings",
    "SlowRate",
    "State",
]
