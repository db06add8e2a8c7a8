"""Sessions in Redis: one hash each, with the id of the refresh token that is good now, and a set of them a user.

Rotation is one script: the next refresh token takes the place of the one before, or, where that was used already, all
of the user's sessions end. What ends is told to the sidecars too, which refuse its tokens from then on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from redis.exceptions import RedisError

from breaker import Breaker, BreakerOpen
from upstream_app.auth.tokens import ACCESS_SECONDS, REFRESH_SECONDS
from upstream_app.redis import Client
from upstream_app.web.errors import ApiError

DEADLINE = 2.0
MAX_FAILURES, LOCK_SECONDS = 5, 900
WAITS, WAIT_SECONDS = 15, 0.1
MANY_SESSIONS = 50
"""Of one user, from where on those that expired are looked for at each log-in."""

ROTATE = """
local held = redis.call('HGET', KEYS[1], 'refresh')
if not held then return 'gone' end
if held ~= ARGV[1] then return 'reused' end
redis.call('HSET', KEYS[1], 'refresh', ARGV[2], 'seen', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 'rotated'
"""

TRY = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tries = tonumber(redis.call('HGET', KEYS[1], 'tries') or '0')
if tries >= tonumber(ARGV[1]) then
  local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0')
  return {0, redis.call('TTL', KEYS[1]), now - last < tonumber(ARGV[3]) and 1 or 0}
end
redis.call('HSET', KEYS[1], 'tries', tries + 1, 'last', now)
if tries == 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return {1, 0, 0}
"""
"""A try counts before its password is looked at, so that guesses at once are no more than guesses in turn."""

UNTRY = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HINCRBY', KEYS[1], 'tries', -1)
"""


REVOKE = """
local changes = redis.call('HINCRBY', KEYS[1], '', 1)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' 1')
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
redis.call('PUBLISH', KEYS[1], ARGV[1] .. '\\n' .. ARGV[3] .. '\\n1')
return changes
"""
"""On the sidecars' board (docs/throttling.md)."""


class SessionsAway(ApiError):
    def __init__(self) -> None:
        super().__init__(503, "Sessions can't be reached; try again shortly", headers={"Retry-After": "2"})


class Sessions:
    def __init__(self, redis: Client, breaker: Breaker, prefix: str = "simplepro") -> None:
        self._redis = redis
        self._breaker = breaker
        self._prefix = f"{prefix}-app"
        self._revoked = f"{prefix}:revoked"
        self.on_ended: list[Callable[[str], None]] = []
        """Called with the id of each session that was ended."""

    async def begin(self, session: str, user: str, refresh: str, agent: str) -> None:
        at = _now()
        fields: Mapping[Any, Any] = {"user": user, "refresh": refresh, "agent": agent[:200], "created": at, "seen": at}
        await self._ask(self._redis.hset(self._session(session), mapping=fields))
        await self._ask(self._redis.expire(self._session(session), REFRESH_SECONDS))
        await self._ask(self._redis.sadd(self._user(user), session))
        await self._ask(self._redis.expire(self._user(user), REFRESH_SECONDS))
        if await self._ask(self._redis.scard(self._user(user))) > MANY_SESSIONS:
            await self.of(user)

    async def lives(self, session: str) -> bool:
        return bool(await self._ask(self._redis.exists(self._session(session))))

    async def rotate(self, session: str, user: str, before: str, after: str) -> bool:
        """False where the session is over; where `before` was used already, all of the user's sessions end."""
        script = self._redis.eval(ROTATE, 1, self._session(session), before, after, _now(), str(REFRESH_SECONDS))
        said = await self._ask(script)
        if said == "reused":
            await self.end_all(user)
        elif said == "rotated":
            await self._ask(self._redis.sadd(self._user(user), session))
            await self._ask(self._redis.expire(self._user(user), REFRESH_SECONDS))
        return bool(said == "rotated")

    async def of(self, user: str) -> list[dict[str, str]]:
        found = []
        for session in sorted(await self._ask(self._redis.smembers(self._user(user)))):
            fields = await self._ask(self._redis.hgetall(self._session(session)))
            if fields:
                shown = {key: fields[key] for key in ("agent", "created", "seen")}
                found.append({"id": session, **shown})
            else:
                await self._ask(self._redis.srem(self._user(user), session))
        return found

    async def end(self, session: str, user: str) -> bool:
        """Whether there was one, of that user."""
        if await self._ask(self._redis.hget(self._session(session), "user")) != user:
            return False
        await self._ask(self._redis.delete(self._session(session)))
        await self._ask(self._redis.srem(self._user(user), session))
        await self._tell(f"session:{session}")
        for hook in self.on_ended:
            hook(session)
        return True

    async def end_all(self, user: str, but: str = "") -> int:
        ended = 0
        for session in await self._ask(self._redis.smembers(self._user(user))):
            if session != but:
                ended += await self.end(session, user)
        return ended

    async def _tell(self, name: str) -> None:
        """Revoke at the sidecars, for as long as an access token may live."""
        milliseconds = ACCESS_SECONDS * 1000
        until = int(time.time() * 1000) + milliseconds
        await self._ask(self._redis.eval(REVOKE, 1, self._revoked, name, str(until), str(milliseconds)))

    # lock-out

    async def begin_try(self, whom: str) -> int:
        """Count one try, before a password is looked at; seconds for which there may be none, 0 where there may.

        While others may still be looked at, one of them may turn out to be right: that is awaited, for a moment."""
        left = 0
        for _ in range(WAITS):
            terms = (str(MAX_FAILURES), str(LOCK_SECONDS), str(int(WAITS * WAIT_SECONDS * 1000)))
            admitted, left, running = await self._ask(self._redis.eval(TRY, 1, self._tries(whom), *terms))
            if admitted:
                return 0
            if not running:
                break
            await asyncio.sleep(WAIT_SECONDS)
        return max(1, int(left))

    async def end_try(self, whom: str, *, good: bool) -> None:
        """A good one forgives those before it; one whose password could not be looked at was none."""
        await self._ask(
            self._redis.delete(self._tries(whom)) if good else self._redis.eval(UNTRY, 1, self._tries(whom))
        )

    async def _ask(self, command: Any) -> Any:
        """Within a deadline, and not at all while Redis is known to be away. Raises SessionsAway."""
        try:
            async with self._breaker.attempt(), asyncio.timeout(DEADLINE):
                return await cast("Awaitable[Any]", command)
        except BreakerOpen:
            command.close()
            raise SessionsAway from None
        except (RedisError, OSError, TimeoutError):
            raise SessionsAway from None

    def _session(self, session: str) -> str:
        return f"{self._prefix}:session:{session}"

    def _user(self, user: str) -> str:
        return f"{self._prefix}:sessions:{user}"

    def _tries(self, whom: str) -> str:
        return f"{self._prefix}:tries:{json.dumps(whom.casefold())}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
