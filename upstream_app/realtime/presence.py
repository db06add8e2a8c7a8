"""Who is online, over all instances: each instance holds a lease on each of its users, which a killed one loses."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import Any, cast

import structlog
from redis.exceptions import RedisError

from upstream_app.auth.permissions import Actor
from upstream_app.background import Background
from upstream_app.events import Events
from upstream_app.redis import Client

log = structlog.get_logger("simplepro.realtime")
LEASES, ONLINE = "{simplepro-app:presence}:leases", "{simplepro-app:presence}:online"
LEASE_SECONDS, EVERY = 30.0, 10.0
DEADLINE = 2.0
MAX_SHOWN = 500
WATCHERS = ["role:dispatcher", "role:manager", "role:admin", "role:super_admin"]

CHANGE = """
local changed, time = {}, redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function gone(member)
  if redis.call('ZREM', KEYS[1], member) == 1 then
    local user = string.match(member, '^[^/]+')
    if redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then
      redis.call('HDEL', KEYS[2], user)
      changed[#changed + 1] = user
    end
  end
end
if ARGV[1] == 'hold' then
  for at = 3, #ARGV do
    if redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[at]) == 1 then
      local user = string.match(ARGV[at], '^[^/]+')
      if redis.call('HINCRBY', KEYS[2], user, 1) == 1 then changed[#changed + 1] = user end
    end
  end
elseif ARGV[1] == 'leave' then
  for at = 3, #ARGV do gone(ARGV[at]) end
else
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 500)) do gone(member) end
end
return changed
"""
"""Users that came, or went, by what was asked: hold leases for ARGV[2] seconds, leave them, or sweep what ran out; by
the store's clock, since instances' differ."""


class Presence(Background):
    """`enter` and `leave` a socket; what that changes for a user is told to those who watch."""

    def __init__(self, redis: Client, events: Events) -> None:
        super().__init__("presence")
        self._redis = redis
        self._events = events
        self._instance = secrets.token_hex(8)
        self._sockets: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    async def close(self) -> None:
        await super().close()
        await self._change("leave", list(self._sockets))

    async def enter(self, actor: Actor) -> None:
        user = str(actor.user)
        self._sockets[user] += 1
        self._names[user] = actor.username
        if self._sockets[user] == 1:
            await self._change("hold", [user])

    async def leave(self, actor: Actor) -> None:
        user = str(actor.user)
        self._sockets[user] -= 1
        if self._sockets[user] <= 0:
            del self._sockets[user]
            await self._change("leave", [user])
            self._names.pop(user, None)

    async def online(self) -> list[str]:
        """Ids of users, up to MAX_SHOWN; none while Redis is away."""
        try:
            async with asyncio.timeout(DEADLINE):
                return sorted(await cast("Any", self._redis.hkeys(ONLINE)))[:MAX_SHOWN]
        except (RedisError, OSError, TimeoutError):
            return []

    async def _change(self, what: str, users: list[str]) -> None:
        members = [f"{user}/{self._instance}" for user in users]
        if what != "sweep" and not members:
            return
        try:
            async with asyncio.timeout(DEADLINE):
                script = self._redis.eval(CHANGE, 2, LEASES, ONLINE, what, str(LEASE_SECONDS), *members)
                changed = await cast("Any", script)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("presence is not kept", error=type(error).__name__)
            return
        for user in changed:
            data = {"user": user, "username": self._names.get(user)}
            self._events.publish("userOnline" if what == "hold" else "userOffline", WATCHERS, data, passing=True)

    async def _run(self) -> None:
        while not self._closing:
            await asyncio.sleep(EVERY)
            await self._change("hold", list(self._sockets))
            await self._change("sweep", [])
