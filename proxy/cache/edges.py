"""All routes' caches of one sidecar: they share a store; a purge reaches every other sidecar before it is answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from proxy.cache.edge import Edge, Soon
from proxy.cache.flight import Flight
from proxy.cache.second import SecondLevel
from proxy.cache.store import Key, Purge, Store, Url
from proxy.cache.terms import EdgeStats, EdgeTerms

if TYPE_CHECKING:
    from proxy.filter import Rule
    from proxy.fleet.board import Board, Fact

log = logging.getLogger(__name__)

PURGE_SECONDS = 600.0
"""A purge is remembered so long, for sidecars that can't be reached when it is made."""
WRITE_SECONDS = 60.0
ACK_SECONDS = 10.0
CONFIRM_SECONDS = 2.0


class Edges:
    """`purges` and `purged` are boards: what is to be forgotten, and who has. `name` tells this process from others."""

    def __init__(self, name: str, purges: Board, purged: Board, store: Store, soon: Soon) -> None:
        self.store = store
        self._soon = soon
        self.stats: dict[str, EdgeStats] = {}
        self.flights: dict[Key, Flight] = {}
        self.peers: Callable[[], int] = lambda: 1
        self.second: SecondLevel | None = None
        self._edges: WeakSet[Edge] = WeakSet()
        self._name = name
        self._purges = purges
        self._purged = purged
        self._seen: dict[str, None] = {}
        self._next = 0
        self._waits: dict[str, asyncio.Event] = {}
        self._acks: dict[str, set[str]] = {}
        purges.on_change.append(self._on_purge)
        purged.on_change.append(self._on_ack)

    def edge(self, route: str, rule: Rule | None, terms: EdgeTerms, *, shadow: bool) -> Edge:
        stats = EdgeStats() if rule is None else self.stats.setdefault(route, EdgeStats())
        edge = Edge(route, rule, terms, self.store, self.flights, stats, self._soon, shadow=shadow)
        edge.on_written = self.invalidated
        edge.second = self.second
        self._edges.add(edge)
        return edge

    def resize(self, most: int, variants: int) -> None:
        self.store.most, self.store.variants = most, variants
        self.store.hold(0)

    def share(self, second: SecondLevel | None) -> None:
        """Use this second level, for all routes."""
        self.second = second
        for edge in self._edges:
            edge.second = second

    # forgetting

    def _id(self) -> str:
        self._next += 1
        return f"{self._name}-{self._next}"

    async def purge(self, purge: Purge) -> tuple[int, int, int]:
        """How many answers it met here, how many sidecars have done it, and how many there are."""
        name = self._id()
        self._seen[name] = None
        met = self.store.purge(purge)
        others = self.peers() - 1
        done = self._waits[name] = asyncio.Event()
        acks = self._acks[name] = set[str]()
        try:
            self._purges.put(name, _told(purge), PURGE_SECONDS)
            async with asyncio.timeout(CONFIRM_SECONDS):
                while len(acks) < others:
                    done.clear()
                    await done.wait()
        except TimeoutError:
            log.warning("a purge was confirmed by %d of %d other sidecars", len(acks), others)
        finally:
            del self._waits[name]
            del self._acks[name]
        return met, len(acks) + 1, max(others, len(acks)) + 1

    def invalidated(self, url: Url) -> None:
        """An unsafe request went well: here it is forgotten already, others hear of it."""
        host, path, query = url
        name = self._id()
        self._seen[name] = None
        life = WRITE_SECONDS if self.second is None else PURGE_SECONDS
        self._purges.put(name, _told(Purge("url", (host + path + query).decode("latin-1")), "w"), life)

    def _on_purge(self, name: str, fact: Fact | None) -> None:
        if fact is None:
            self._seen.pop(name, None)
            return
        if name in self._seen:
            return
        self._seen[name] = None
        kind, how, at, value = fact.value.split(" ", 3)
        self.store.purge(Purge(kind, value, how == "s"), float(at))
        if how != "w":
            self._purged.put(f"{name} {self._name}", "done", ACK_SECONDS)

    def _on_ack(self, name: str, fact: Fact | None) -> None:
        purge, _, whose = name.partition(" ")
        if fact is not None and purge in self._waits:
            self._acks[purge].add(whose)
            self._waits[purge].set()

    # telling

    def told(self, top: int) -> dict[str, Any]:
        """What is kept and what it was good for; the largest and the most asked for, without their queries."""
        store = self.store
        now = store.clock()
        entries = list(store.entries())

        def row(entry: Any) -> dict[str, Any]:
            host, path, query = entry.url
            return {
                "url": (host + path).decode("latin-1") + ("?…" if query else ""), "route": entry.route,
                "status": entry.status, "bytes": entry.size, "hits": entry.hits, "age": round(entry.age(now)),
                "ttl": round(entry.ttl(now)), "tags": [one.decode("latin-1") for one in entry.tags[:20]],
            }  # fmt: skip

        tags: dict[str, int] = {}
        for entry in entries:
            for tag in entry.tags:
                tags[tag.decode("latin-1")] = tags.get(tag.decode("latin-1"), 0) + 1
        return {
            "entries": len(store), "bytes": store.size, "most": store.most, "under_way": len(self.flights),
            "second": None if self.second is None else {
                "hits": self.second.hits, "misses": self.second.misses, "waits": self.second.waits,
                "kept": self.second.kept, "failures": self.second.failures,
            },
            "evictions": store.stats.evictions, "purged": store.stats.purged, "refused": store.stats.refused,
            "routes": {
                name: {
                    "results": stats.results, "stored": stats.stored, "not_kept": stats.unkept,
                    "bytes_served": stats.bytes_served, "shadow": {"same": stats.same, "wrong": stats.wrong},
                }
                for name, stats in self.stats.items()
            },
            "hottest": [row(one) for one in sorted(entries, key=lambda one: -one.hits)[:top]],
            "largest": [row(one) for one in sorted(entries, key=lambda one: -one.size)[:top]],
            "tags": dict(sorted(tags.items(), key=lambda one: -one[1])[:top]),
        }  # fmt: skip


def _told(purge: Purge, how: str = "") -> str:
    """`how` is w for a write, which nobody waits for, else s (soft) or h."""
    return f"{purge.kind} {how or ('s' if purge.soft else 'h')} {time.time():.3f} {purge.value}"
