"""Answers in memory, under one bound of bytes, found by key and by tag; which of them goes first; what is forgotten.

Segmented least recently used: a new answer is on probation, one that is asked for again is protected, up to four fifths
of the bound. So answers that nobody asks for twice never push out those that many ask for.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxy.cache.freshness import Kept
from proxy.headers import Headers, Pair

ENTRY_BYTES = 1500
"""What an entry costs beside its bytes: objects, and its places in the indexes."""
PAIR_BYTES = 180
"""What a field costs beside its bytes."""
PROTECTED = 0.8
REMEMBERED = 4096
"""Purges that answers under way are held against."""

Key = tuple[object, ...]
Url = tuple[bytes, bytes, bytes]
"""Host, path, query with its question mark."""


class Purge(NamedTuple):
    """What is forgotten: `tag`, `url` or `prefix`, and its value; `soft` leaves it to be served stale.

    Of several tags (space between) any is enough.
    """

    kind: str
    value: str
    soft: bool = False

    @property
    def tags(self) -> list[bytes]:
        return self.value.encode("latin-1", "replace").split()

    def hits(self, url: Url, tags: tuple[bytes, ...], parameters: frozenset[bytes] | None = None) -> bool:
        """`parameters` are those of the query that the answer was chosen by; None for all."""
        if self.kind == "all":
            return True
        if self.kind == "tag":
            return any(tag in tags for tag in self.tags)
        host, _, rest = self.value.encode("latin-1", "replace").partition(b"/")
        target = url[1] + url[2]
        if host and host != url[0]:
            return False
        wanted = b"/" + rest
        if self.kind != "url":
            return target.startswith(wanted)
        path, mark, query = wanted.partition(b"?")
        return path == url[1] and same_query(mark + query, url[2], parameters)


def same_query(one: bytes, other: bytes, parameters: frozenset[bytes] | None) -> bool:
    """Whether two queries (with their question marks) choose the same answer by these parameters; None for all."""
    return one == other if parameters is None else chosen(one, parameters) == chosen(other, parameters)


def chosen(query: bytes, parameters: frozenset[bytes]) -> bytes:
    """Of a query (with its question mark) the parameters of these names, in their order."""
    kept = [one for one in query[1:].split(b"&") if one.partition(b"=")[0] in parameters]
    return b"?" + b"&".join(kept) if kept else b""


@dataclass(eq=False, slots=True)
class Entry:
    """One answer. `varies` holds names and values of the request fields that it was chosen by; times are seconds of the
    store's clock, `at` when it came (or was last found good)."""

    key: Key
    url: Url
    varies: tuple[tuple[bytes, bytes | None], ...]
    status: int
    reason: bytes
    headers: Headers
    body: bytes
    kept: Kept
    at: float
    tags: tuple[bytes, ...]
    size: int
    route: str = ""
    targeted: tuple[Pair, ...] = ()
    """Fields that spoke to this cache alone: nobody else is told, and they count when it is found good again."""
    hits: int = 0
    outdated: float = float("inf")
    """When a soft purge met it: it is stale from then on, whatever it says itself."""
    parameters: frozenset[bytes] | None = None
    """Of the URL's query those that it was chosen by; None for all."""
    arrived: int = 0
    """The place of its head among all that came here."""

    def age(self, now: float) -> float:
        return self.kept.age + now - self.at

    def ttl(self, now: float) -> float:
        """Seconds that it is still fresh; below zero how long it has been stale."""
        return min(self.kept.lifetime - self.age(now), self.outdated - now)

    def fresh(self, now: float) -> bool:
        kept = self.kept
        return kept.lifetime > kept.age + now - self.at and not kept.validates and now < self.outdated


@dataclass(slots=True)
class StoreStats:
    evictions: int = 0
    purged: int = 0
    refused: int = 0
    """Answers that were not kept since too much was under way."""


def size_of(url: Url, headers: Headers, body: bytes, tags: tuple[bytes, ...]) -> int:
    fields = sum(len(name) + len(value) + PAIR_BYTES for name, value in headers.pairs)
    return ENTRY_BYTES + len(body) + fields + sum(len(part) for part in (*url, *tags)) * 2


class Store:
    """`most` bytes in all, at most `variants` answers by key. What is on its way in counts, too (`hold`, `let_go`)."""

    def __init__(self, most: int, variants: int, clock: Callable[[], float]) -> None:
        self.most = most
        self.variants = variants
        self.clock = clock
        self.size = 0
        self.pending = 0
        self._arrivals = 0
        self.stats = StoreStats()
        self._variants: dict[Key, list[Entry]] = {}
        self._probation: OrderedDict[Entry, None] = OrderedDict()
        self._protected: OrderedDict[Entry, None] = OrderedDict()
        self._protected_size = 0
        self._paths: dict[tuple[bytes, bytes], set[Entry]] = {}
        self._tags: dict[bytes, set[Entry]] = {}
        self._purges: deque[tuple[int, Purge, float]] = deque(maxlen=REMEMBERED)
        self._purged = 0

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def entries(self) -> Iterator[Entry]:
        yield from self._protected
        yield from self._probation

    def all_of(self, key: Key) -> list[Entry]:
        """The newest first."""
        return self._variants.get(key, [])

    def touch(self, entry: Entry) -> None:
        entry.hits += 1
        if entry in self._protected:
            self._protected.move_to_end(entry)
            return
        if self._probation.pop(entry, True) is not None:
            return
        self._protected[entry] = None
        self._protected_size += entry.size
        while self._protected_size > self.most * PROTECTED and len(self._protected) > 1:
            oldest, _ = self._protected.popitem(last=False)
            self._protected_size -= oldest.size
            self._probation[oldest] = None

    # what is on its way in

    def hold(self, size: int) -> bool:
        """Room for bytes that come; False where too much is on its way already."""
        if self.pending + size > self.most // 2:
            self.stats.refused += 1
            return False
        self.pending += size
        self._shrink()
        return True

    def arrival(self) -> int:
        """Clocks have ticks, and two heads may come in one."""
        self._arrivals += 1
        return self._arrivals

    def let_go(self, size: int) -> None:
        self.pending -= size

    @property
    def purges(self) -> int:
        """How many there were; an answer under way remembers it, and `outlived` tells whether it may still be kept."""
        return self._purged

    def outlived(
        self, since: int, url: Url, tags: tuple[bytes, ...], parameters: frozenset[bytes] | None = None
    ) -> bool:
        """Whether a purge since then meets it; so it is taken, too, where that can't be told any more."""
        if self._purged == since:
            return False
        if self._purged - since > len(self._purges):
            return True
        return any(purge.hits(url, tags, parameters) for number, purge, _ in self._purges if number > since)

    def purged_after(
        self, moment: float, url: Url, tags: tuple[bytes, ...], parameters: frozenset[bytes] | None = None
    ) -> bool:
        """Whether a purge made after that moment (seconds since 1970) meets it; so it is taken where none can tell."""
        purges = self._purges
        if len(purges) == REMEMBERED and moment <= purges[0][2]:
            return True
        return any(purge.hits(url, tags, parameters) for _, purge, at in purges if at >= moment)

    def put(self, entry: Entry) -> None:
        """In the place of what has the same key and is chosen by the same."""
        if entry.size > self.most // 2:
            self.stats.refused += 1
            return
        there = self._variants.setdefault(entry.key, [])
        names = [name for name, _ in entry.varies]
        for old in [one for one in there if [name for name, _ in one.varies] != names or one.varies == entry.varies]:
            self.drop(old)
        there = self._variants.setdefault(entry.key, [])
        while len(there) >= self.variants:
            self.drop(there[-1])
            there = self._variants.setdefault(entry.key, [])
        there.insert(0, entry)
        self._probation[entry] = None
        self._paths.setdefault(entry.url[:2], set()).add(entry)
        for tag in entry.tags:
            self._tags.setdefault(tag, set()).add(entry)
        self.size += entry.size
        self._shrink()

    def _shrink(self) -> None:
        while self.size + self.pending > self.most and len(self):
            self.drop(next(iter(self._probation or self._protected)))
            self.stats.evictions += 1

    def drop(self, entry: Entry) -> None:
        if self._probation.pop(entry, True) is not None:
            if self._protected.pop(entry, True) is not None:
                return
            self._protected_size -= entry.size
        self.size -= entry.size
        there = self._variants[entry.key]
        there.remove(entry)
        if not there:
            del self._variants[entry.key]
        _discard(self._paths, entry.url[:2], entry)
        for tag in entry.tags:
            _discard(self._tags, tag, entry)

    def purge(self, purge: Purge, at: float | None = None) -> int:
        """How many answers it met. `at` is when it was made, in seconds since 1970."""
        self._purged += 1
        self._purges.append((self._purged, purge, time.time() if at is None else at))
        met = self._met(purge)
        for entry in met:
            if purge.soft:
                entry.outdated = min(entry.outdated, self.clock())
            else:
                self.drop(entry)
        self.stats.purged += len(met)
        return len(met)

    def _met(self, purge: Purge) -> list[Entry]:
        if purge.kind == "tag":
            return list({entry for tag in purge.tags for entry in self._tags.get(tag, ())})
        return [entry for entry in self.entries() if purge.hits(entry.url, entry.tags, entry.parameters)]

    def invalidate(self, url: Url) -> int:
        """An unsafe request changed what is there (RFC 9111 section 4.4)."""
        self._purged += 1
        host, path, query = url
        self._purges.append((self._purged, Purge("url", (host + path + query).decode("latin-1")), time.time()))
        met = [one for one in self._paths.get(url[:2], ()) if same_query(query, one.url[2], one.parameters)]
        for entry in met:
            self.drop(entry)
        return len(met)


def _discard(index: dict[Any, set[Entry]], key: Any, entry: Entry) -> None:
    index[key].discard(entry)
    if not index[key]:
        del index[key]
