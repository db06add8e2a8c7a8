"""The second level: answers in Redis, for all sidecars, and one of them that asks the upstream for all.

What is kept there is small and fresh; every use is checked against the purges that this sidecar knows: all of them, for
longer than an answer stays there. Redis away or slow: the upstream is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, Protocol

import orjson

from proxy.cache.freshness import Kept
from proxy.cache.store import Entry, Key, Store, size_of
from proxy.headers import Headers

STAYS_SECONDS = 540.0
"""At most; purges are remembered for longer."""
SKEW_SECONDS = 2.0
"""By how much the clocks of sidecars may differ."""
POLL_SECONDS = 0.02
LEAST_SECONDS = 1.0

LOOK = """
local found = redis.call('GET', KEYS[1])
if found then return found end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""
"""The answer, else 1 for who is to ask the upstream, 0 where another does."""
KEEP = """
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
LET_GO = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Asks(Protocol):
    """A store of scripts: keys, arguments, and who is told the reply (an Exception where there is none)."""

    def __call__(
        self, script: str, keys: tuple[str, ...], arguments: tuple[bytes | str | int, ...],
        then: Callable[[Any], None],
    ) -> None: ...  # fmt: skip


Found = Callable[[Entry | None, bool], None]
"""The answer, or whether this sidecar is to ask the upstream for all."""


class SecondLevel:
    """`later` calls something after so many seconds; `available` says whether purges are heard now."""

    def __init__(
        self, ask: Asks, prefix: str, name: str, max_body: int, store: Store,
        later: Callable[[float, Callable[[], None]], object], available: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.max_body = max_body
        self.available = available
        self.hits = self.misses = self.waits = self.failures = self.kept = 0
        self._ask = ask
        self._prefix = prefix
        self._name = name
        self._store = store
        self._later = later
        self._leases = 0

    def _keys(self, key: Key) -> tuple[str, str]:
        digest = blake2b(repr(key).encode(), digest_size=20).hexdigest()
        answer = f"{self._prefix}:edge:{{{digest}}}"
        return answer, f"{answer}:lease"

    def look(self, key: Key, seconds: float, then: Found) -> str:
        """Who holds the lease, if it becomes this one's; within `seconds` `then` is told."""
        self._leases += 1
        lease = f"{self._name}-{self._leases}"
        until = time.monotonic() + seconds
        keys = self._keys(key)
        waited = False

        def ask() -> None:
            self._ask(LOOK, keys, (lease, max(1, round(seconds * 1000))), answered)

        def answered(reply: Any) -> None:
            nonlocal waited
            if isinstance(reply, bytes):
                entry = self._read(reply, key)
                self.hits += entry is not None
                self.misses += entry is None
                then(entry, False)
            elif isinstance(reply, Exception):
                self.failures += 1
                then(None, False)
            elif reply == 0 and time.monotonic() < until:
                self.waits += not waited
                waited = True
                self._later(POLL_SECONDS, ask)
            else:
                self.misses += 1
                then(None, reply == 1)

        ask()
        return lease

    def let_go(self, key: Key, lease: str) -> None:
        self._ask(LET_GO, (self._keys(key)[1],), (lease,), lambda _: None)

    def keep(self, entry: Entry, lease: str, began: float) -> None:
        """`began` is when it was asked for, in seconds since 1970."""
        stays = min(entry.ttl(self._store.clock()), STAYS_SECONDS)
        if stays < LEAST_SECONDS or len(entry.body) > self.max_body:
            if lease:
                self.let_go(entry.key, lease)
            return
        self.kept += 1
        value = self._written(entry, began)
        self._ask(KEEP, self._keys(entry.key), (lease, value, round(stays * 1000)), self._on_kept)

    def _on_kept(self, reply: Any) -> None:
        self.failures += isinstance(reply, Exception)

    def _written(self, entry: Entry, began: float) -> bytes:
        def text(value: bytes) -> str:
            return value.decode("latin-1")

        head = {
            "url": [text(one) for one in entry.url], "status": entry.status, "reason": text(entry.reason),
            "varies": [[text(name), None if value is None else text(value)] for name, value in entry.varies],
            "fields": [[text(name), text(value)] for name, value in entry.headers.pairs], "kept": asdict(entry.kept),
            "targeted": [[text(name), text(value)] for name, value in entry.targeted],
            "parameters": None if entry.parameters is None else sorted(text(one) for one in entry.parameters),
            "tags": [text(one) for one in entry.tags], "route": entry.route, "began": began,
            "at": time.time() - (self._store.clock() - entry.at),
        }  # fmt: skip
        packed = orjson.dumps(head)
        return len(packed).to_bytes(4, "big") + packed + entry.body

    def _read(self, value: bytes, key: Key) -> Entry | None:
        """None where it can't be read, or was purged since it was asked for."""
        try:
            size = int.from_bytes(value[:4], "big")
            head, body = orjson.loads(value[4 : 4 + size]), value[4 + size :]
            host, path, query = (str(one).encode("latin-1") for one in head["url"])
            headers = Headers([(name.encode("latin-1"), told.encode("latin-1")) for name, told in head["fields"]])
            tags = tuple(one.encode("latin-1") for one in head["tags"])
            varies = tuple(
                (name.encode("latin-1"), None if told is None else told.encode("latin-1"))
                for name, told in head["varies"]
            )
            targeted = tuple((name.encode("latin-1"), told.encode("latin-1")) for name, told in head["targeted"])
            named = head["parameters"]
            parameters = None if named is None else frozenset(one.encode("latin-1") for one in named)
            kept, began = Kept(**head["kept"]), float(head["began"])
            at = self._store.clock() - max(0.0, time.time() - float(head["at"]))
            reason, status, route = str(head["reason"]).encode("latin-1"), int(head["status"]), str(head["route"])
        except (ValueError, KeyError, TypeError, AttributeError):
            self.failures += 1
            return None
        url = (host, path, query)
        if self._store.purged_after(began - SKEW_SECONDS, url, tags, parameters):
            return None
        size = size_of(url, headers, body, tags)
        return Entry(
            key, url, varies, status, reason, headers, body, kept, at, tags, size, route, targeted,
            parameters=parameters,
        )  # fmt: skip
