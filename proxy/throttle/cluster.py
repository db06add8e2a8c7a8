"""A Redis Cluster as one store: each key's slot has a node, redirections are followed, the map is kept fresh.

A node that is away costs the decisions of its slots their share (`on_store_failure`), nobody an error; its replica's
promotion is learnt from the others (CLUSTER SLOTS), or from a MOVED. `ASK` goes over the connection that the command
follows on, so a migrating slot is written to where it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import replace

import hiredis

from proxy.throttle.address import StoreAddress
from proxy.throttle.link import OnReply, Reply, StoreError, pack
from proxy.throttle.store import CONNECT_SECONDS, Store, StoreStats

SLOTS = 16_384
REFRESH_SECONDS = 5.0
HURRY_SECONDS = 0.1
"""How soon the map is asked for again once it was found wrong, or a node away."""
MAX_REDIRECTIONS = 8
AGAIN_SECONDS = 0.005
"""A slot that is moving has some of a command's keys here and some there."""
Node = tuple[str, int]


def slot_of(key: str) -> int:
    """CRC16 (XMODEM) of the hash tag, as the Cluster specification has it."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key.encode(), 0) % SLOTS


class ClusterStore:
    """Behaves as a Store does; `slot` says which node is asked."""

    def __init__(
        self, seeds: tuple[Node, ...], account: StoreAddress, deadline: float, scripts: dict[str, str]
    ) -> None:
        self._account = account
        self._deadline = deadline
        self._scripts = scripts
        self._nodes: dict[Node, Store] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: set[Node] = set()
        self._wrong = asyncio.Event()
        self._known = asyncio.Event()
        self._complete = asyncio.Event()
        self._refresher: asyncio.Task[None] | None = None
        self.stats = StoreStats()
        self.on_revived: list[Callable[[], None]] = []
        for seed in seeds:
            self._nodes[seed] = self._new(seed)

    @property
    def available(self) -> bool:
        return self._known.is_set() and any(self._nodes[node].available for node in self._masters)

    @property
    def location(self) -> Node:
        """Some node that answers, where one does."""
        for node, store in self._nodes.items():
            if store.available:
                return node
        return next(iter(self._nodes))

    @property
    def pending(self) -> int:
        """Commands that wait for an answer."""
        return sum(store.pending for store in self._nodes.values())

    def start(self) -> None:
        for store in self._nodes.values():
            store.start()
        self._refresher = asyncio.create_task(self._keep_map(), name="cluster map")

    async def first_try(self) -> None:
        """Wait until all masters answer, but no longer than two connections may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                await self._complete.wait()

    def ask(self, command: bytes, then: OnReply, slot: int = 0) -> None:
        self._ask(command, then, slot, self._slots[slot], MAX_REDIRECTIONS, asking=False)

    def _ask(self, command: bytes, then: OnReply, slot: int, node: Node | None, left: int, *, asking: bool) -> None:
        if node is None or not left:
            self._wrong.set()
            then(StoreError("no node has this slot"))
            return

        def answered(reply: Reply) -> None:
            if isinstance(reply, StoreError):
                self._wrong.set()
            elif isinstance(reply, hiredis.ReplyError):
                kind, _, rest = str(reply).partition(" ")
                if kind in ("MOVED", "ASK"):
                    target = self._target(rest, node)
                    if kind == "MOVED":
                        self._slots[slot] = target
                        self._masters.add(target)
                        self._wrong.set()
                    self._ask(command, then, slot, target, left - 1, asking=kind == "ASK")
                    return
                if kind == "TRYAGAIN" and left > 1:
                    again = (command, then, slot, self._slots[slot], left - 1)
                    asyncio.get_running_loop().call_later(AGAIN_SECONDS, lambda: self._ask(*again, asking=False))
                    return
                if kind in ("CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"):
                    self._wrong.set()
                    reply = StoreError(kind)
            then(reply)

        store = self._store(node)
        if asking:
            store.ask(pack("ASKING"), lambda _: None)
        store.ask(command, answered)

    def _target(self, rest: str, asked: Node) -> Node:
        """`<slot> <host>:<port>`; an empty host is the one that was asked."""
        host, _, port = rest.rpartition(" ")[2].rpartition(":")
        return host or asked[0], int(port)

    def _store(self, node: Node) -> Store:
        store = self._nodes.get(node)
        if store is None:
            store = self._nodes[node] = self._new(node)
            store.start()
        return store

    def _new(self, node: Node) -> Store:
        address = replace(self._account, host=node[0], port=node[1])
        store = Store(address, self._deadline, self._scripts, self.stats)
        store.on_revived.append(self._on_node_revived)
        return store

    def _on_node_revived(self) -> None:
        self._wrong.set()
        self._check_complete()

    def _check_complete(self) -> None:
        if self._known.is_set() and all(self._nodes[node].available for node in self._masters):
            self._complete.set()
            for revived in self.on_revived:
                revived()

    async def _keep_map(self) -> None:
        while True:
            self._wrong.clear()
            for node, store in list(self._nodes.items()):
                if store.available and await self._read_map(node, store):
                    break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS if self._known.is_set() else HURRY_SECONDS):
                    await self._wrong.wait()
            await asyncio.sleep(HURRY_SECONDS)

    async def _read_map(self, node: Node, store: Store) -> bool:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        store.ask(pack("CLUSTER", "SLOTS"), lambda reply: None if future.done() else future.set_result(reply))
        reply = await future
        if not isinstance(reply, list) or not reply:
            return False
        masters: set[Node] = set()
        for first, last, master, *_ in reply:
            owner = ((master[0] or b"").decode() or node[0], int(master[1]))
            masters.add(owner)
            self._slots[first : last + 1] = [owner] * (last - first + 1)
        self._masters = masters
        for one in masters:
            self._store(one)
        if not self._known.is_set():
            self._known.set()
            self._check_complete()
        return True

    async def close(self) -> None:
        if self._refresher:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        for store in self._nodes.values():
            await store.close()
