"""Boards on Redis: each is one hash, changes are told by pub/sub, and read again where one may have been missed.

A hash's fields are the facts, `<end in the store's milliseconds> <value>`; the field without a name counts changes.
Anybody may write one by the same script, or by HSET and PUBLISH: name, milliseconds and value, a line each, on the
channel that is called as the hash is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from proxy.fleet.board import MAX_FACTS, Board
from proxy.throttle.address import StoreAddress
from proxy.throttle.cluster import ClusterStore, slot_of
from proxy.throttle.link import Reply, pack
from proxy.throttle.store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
WHOLE_EVERY = 12
"""Polls after which a board is read whole though its count of changes stands: somebody may write without counting."""
PING_SECONDS = 2.0
BACKOFF_FROM, BACKOFF_TO = 0.05, 2.0
MAX_UNSENT = 10_000

PUT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holds = tonumber(ARGV[2])
if holds > 0 and (redis.call('HLEN', KEYS[1]) < MOST or redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1) then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + holds) .. ' ' .. ARGV[3])
elseif holds <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
local changes = redis.call('HINCRBY', KEYS[1], '', 1)
if redis.call('PTTL', KEYS[1]) < math.max(holds, 86400000) then
  redis.call('PEXPIRE', KEYS[1], math.max(holds, 86400000))
end
redis.call('PUBLISH', KEYS[1], ARGV[1] .. '\\n' .. ARGV[2] .. '\\n' .. ARGV[3])
return changes
""".replace("MOST", str(MAX_FACTS))
"""Told to all though the store has no more room for it; what no longer holds leaves with the next whole reading."""
PUT_IF = (
    """
local current = redis.call('HGET', KEYS[1], ARGV[1])
local epoch = current and tonumber(string.match(current, '^%d+ (%d+)')) or 0
if epoch ~= tonumber(ARGV[4]) then return 0 end
"""
    + PUT
)
"""The same, only where the value there begins with that number; 0 where it does not."""
READ = """
local changes = redis.call('HGET', KEYS[1], '') or '0'
if changes == ARGV[1] then return {changes} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer, all = {changes}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= '' then
    local ends, value = string.match(all[i + 1], '^(%d+) ?(.*)$')
    if ends and tonumber(ends) > now then
      answer[#answer + 1] = all[i]
      answer[#answer + 1] = tonumber(ends) - now
      answer[#answer + 1] = value
    else
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
return answer
"""


def _text(raw: bytes) -> str:
    """Whoever wrote it: what is no UTF-8 is told by replacement characters, and matches nothing."""
    return raw.decode(errors="replace")


class Fleet:
    """Keeps the boards of all sidecars alike; `store` writes and reads, a connection of its own listens."""

    def __init__(
        self, store: Store | ClusterStore, account: StoreAddress, prefix: str, boards: Iterable[Board]
    ) -> None:
        self._store = store
        self._account = account
        self._boards = {f"{prefix}:{board.name}": board for board in boards}
        self._seen = dict.fromkeys(self._boards, b"")
        self._unsent: dict[tuple[str, str], tuple[str, int]] = {}
        self._polls = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = False
        self._closing = False
        store.on_revived.append(self._on_revived)
        for key, board in self._boards.items():
            board.send = self._sender(key)

    @property
    def boards(self) -> list[Board]:
        return list(self._boards.values())

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="fleet: listen"),
            asyncio.create_task(self._poll(), name="fleet: poll"),
        ]
        if self._store.available:
            self._on_revived()

    async def close(self) -> None:
        """redis-py may take a cancellation for a time-out of its own; so the loop looks at `_closing`, too."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # writing

    def _sender(self, key: str) -> Callable[[str, str, int], None]:
        def send(name: str, value: str, milliseconds: int) -> None:
            def answered(reply: Reply) -> None:
                if isinstance(reply, Exception) and len(self._unsent) < MAX_UNSENT:
                    self._unsent[key, name] = (value, milliseconds)

            self._unsent.pop((key, name), None)
            self._store.ask(pack("EVAL", PUT, 1, key, name, milliseconds, value), answered, slot_of(key))

        return send

    def propose(
        self, board: Board, name: str, epoch: int, value: str, milliseconds: int, then: Callable[[bool], None]
    ) -> None:
        """Change a fact only where it has that epoch (the first word of its value); told to all, to us too."""
        key = next(key for key, one in self._boards.items() if one is board)

        def answered(reply: Reply) -> None:
            then(isinstance(reply, int) and reply > 0)

        self._store.ask(pack("EVAL", PUT_IF, 1, key, name, milliseconds, value, epoch), answered, slot_of(key))

    def _on_revived(self) -> None:
        """What was said while the store was away is said now; then the whole is read."""
        unsent, self._unsent = self._unsent, {}
        for (key, name), (value, milliseconds) in unsent.items():
            self._boards[key].send(name, value, milliseconds)
        self._read(whole=True)

    # reading

    def _read(self, *, whole: bool) -> None:
        for key, board in self._boards.items():
            self._read_one(key, board, b"?" if whole else self._seen[key])

    def _read_one(self, key: str, board: Board, seen: bytes) -> None:
        def answered(reply: Reply) -> None:
            if not isinstance(reply, list):
                return
            self._seen[key] = reply[0]
            if len(reply) > 1 or reply[0] != seen:
                facts = zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
                rows = {_text(name): (_text(value), left / 1000) for name, left, value in facts}
                rows |= {name: (value, left / 1000) for (at, name), (value, left) in self._unsent.items() if at == key}
                board.replace({name: row for name, row in rows.items() if row[1] > 0})

        self._store.ask(pack("EVAL", READ, 1, key, seen), answered, slot_of(key))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
            self._polls += 1
            for board in self._boards.values():
                board.sweep()
            if self._store.available:
                self._read(whole=self._polls % WHOLE_EVERY == 0)

    async def _listen(self) -> None:
        pause = BACKOFF_FROM
        while not self._closing:
            try:
                await self._listen_once()
            except (RedisError, OSError, TimeoutError) as error:
                if self.listening:
                    log.warning("fleet: not listening any more: %s", type(error).__name__)
                    pause = BACKOFF_FROM
                self.listening = False
            except Exception:
                log.exception("fleet: listening failed")
                self.listening = False
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # jitter
            pause = min(2 * pause, BACKOFF_TO)

    async def _listen_once(self) -> None:
        host, port = self._store.location
        account = self._account
        client = Redis(
            host=host, port=port, protocol=2, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS,
            **account.for_redis,
        )  # fmt: skip
        async with client, client.pubsub() as channel:
            await channel.subscribe(*self._boards)
            if not self.listening:
                log.info("fleet: listening on %s:%d", host, port)
            self.listening = True
            self._read(whole=True)
            while not self._closing:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=PING_SECONDS)
                if message is None:
                    await channel.ping()
                elif message["type"] == "message":
                    self._on_message(message["channel"].decode(), message["data"])

    def _on_message(self, channel: str, data: bytes) -> None:
        name, _, rest = data.partition(b"\n")
        milliseconds, _, value = rest.partition(b"\n")
        board = self._boards.get(channel)
        if board is None or not milliseconds.isdigit():
            log.warning("fleet: a message that makes no sense on %s", channel)
            return
        board.learn(_text(name), _text(value), int(milliseconds) / 1000)
