"""What a client gets where the upstream has nothing good: an earlier answer, one from the policy, another cluster's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.exchange import Exchange, Response
from proxy.headers import HOP_BY_HOP, Headers, Pair
from proxy.listener.rescue import REASONS, http_date

if TYPE_CHECKING:
    from proxy.upstream.cluster import Cluster

_UNKEPT = HOP_BY_HOP | {b"content-length", b"set-cookie", b"age"}
_KEY_FIELDS = (b"x-api-key", b"api-key", b"x-auth-token", b"proxy-authorization")
"""Credentials that an upstream may know though the proxy does not."""
_VARIES_BY = (b"accept", b"accept-encoding", b"accept-language", b"origin")


ENTRY_BYTES = 500
"""What an entry costs beside its bytes."""

Key = tuple[bytes | str | None, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """`size` is what it takes of the bound: key, fields, body, and what every entry costs."""

    status: int
    pairs: tuple[Pair, ...]
    body: bytes
    at: float
    size: int


class StaleStore:
    """Answers of GET requests of one route, for when there are none; bounded in bytes, the longest unused go first.

    Kept by target, host, verified user and the request fields that answers vary by; never of requests with cookies or
    with credentials that were not verified, nor answers that say no-store or set cookies (RFC 9111 section 3, 4.2.4).
    """

    __slots__ = ("_answers", "_clock", "_longest", "_most", "_size", "max_body")

    def __init__(self, longest: float, max_body: int, most: int, clock: Callable[[], float]) -> None:
        self._answers: OrderedDict[Key, Kept] = OrderedDict()
        self._longest = longest
        self._most = most
        self._size = 0
        self._clock = clock
        self.max_body = max_body

    def key(self, exchange: Exchange) -> Key | None:
        index = exchange.headers.index
        if exchange.method != b"GET" or b"cookie" in index or b"range" in index or exchange.websocket:
            return None
        if b"authorization" in index and exchange.verified is None:
            return None
        if not exchange.api_key and any(name in index for name in _KEY_FIELDS):
            return None
        return (exchange.path, exchange.query, exchange.host, exchange.user, *(index.get(one) for one in _VARIES_BY))

    def keeps(self, exchange: Exchange, response: Response) -> bool:
        """Whether this answer is one to keep."""
        if response.status != 200 or self.key(exchange) is None or b"set-cookie" in response.headers.index:
            return False
        control = b",".join(response.headers.all(b"cache-control")).lower()
        varies = b",".join(response.headers.all(b"vary")).lower().replace(b" ", b"").split(b",")
        if b"no-store" in control or (b"private" in control and not exchange.user):
            return False
        return all(not one or one in _VARIES_BY or one == b"authorization" for one in varies)

    def keep(self, exchange: Exchange, status: int, pairs: list[Pair], body: bytes) -> None:
        key = self.key(exchange)
        if key is None or len(body) > self.max_body:
            return
        self._drop(key)
        fields = tuple(pair for pair in pairs if pair[0] not in _UNKEPT)
        size = ENTRY_BYTES + len(body) + sum(len(part) for pair in (key, *fields) for part in pair if part)
        self._answers[key] = kept = Kept(status, fields, body, self._clock(), size)
        self._size += kept.size
        while self._size > self._most:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: Key) -> None:
        before = self._answers.pop(key, None)
        if before is not None:
            self._size -= before.size

    def find(self, exchange: Exchange) -> Response | None:
        key = self.key(exchange)
        kept = self._answers.get(key) if key is not None else None
        if kept is None or key is None:
            return None
        age = self._clock() - kept.at
        if age > self._longest:
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        pairs = [
            *kept.pairs,
            (b"content-length", b"%d" % len(kept.body)),
            (b"age", b"%d" % age),
            (b"cache-status", b"simplepro-proxy; hit; detail=stale-if-error"),
        ]
        return Response(kept.status, REASONS[kept.status], Headers(pairs), body=kept.body, own=True)


class Keeper:
    """Collects one answer as it passes, for the store; lets go of one that is too large."""

    __slots__ = ("_exchange", "_pairs", "_pieces", "_size", "_store")

    def __init__(self, store: StaleStore, exchange: Exchange, pairs: list[Pair]) -> None:
        self._store = store
        self._exchange = exchange
        self._pairs = pairs
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, ended: bool) -> None:
        self._size += len(data)
        if self._size > self._store.max_body:
            self._pieces.clear()
            return
        self._pieces.append(data)
        if ended:
            self._store.keep(self._exchange, 200, self._pairs, b"".join(self._pieces))


@dataclass(frozen=True, slots=True)
class Fallback:
    """`kinds` are reasons of rejections, and statuses, that it stands in for; tried in this order."""

    kinds: frozenset[str]
    cluster: Cluster | None = None
    stale: StaleStore | None = None
    answer: tuple[int, bytes, bytes] | None = None
    """Status, media type, body."""

    def keeper(self, exchange: Exchange, response: Response) -> Keeper | None:
        """Who keeps this answer, where it is one to keep; its fields as they are before any policy changes them."""
        if self.stale is None or not self.stale.keeps(exchange, response):
            return None
        return Keeper(self.stale, exchange, list(response.headers.pairs))

    def response(self, exchange: Exchange) -> tuple[str, Response] | None:
        """What it is, and the answer; None where there is none."""
        if self.stale is not None and (found := self.stale.find(exchange)) is not None:
            return "stale", found
        if self.answer is None:
            return None
        status, media_type, body = self.answer
        pairs: list[Pair] = [
            (b"date", http_date()),
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        return "static", Response(status, REASONS[status], Headers(pairs), body=body, own=True)
