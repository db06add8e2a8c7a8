"""The limiter that all pods share, in Redis; while the store is away, each sidecar enforces its share alone.

Error bound while the store is away: with P the last known number of live sidecars, each admits up to ceil(amount / P)
a window, beside what had been admitted before; so within one window at most twice the amount plus P units pass. What
was admitted meanwhile is charged to the store when it is back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha1
from math import ceil

import hiredis

from proxy.throttle.charge import Charge, Decision, OnDecision, Outcome, Settlement, Strategy
from proxy.throttle.cluster import ClusterStore, slot_of
from proxy.throttle.local import LocalLimiter
from proxy.throttle.script import DECIDE, SETTLE
from proxy.throttle.store import Locate, Reply, Store, StoreAddress, StoreError, pack

HEARTBEAT_SECONDS = 2.0
PEER_LIVES_MS = 7_000
MAX_OWED = 10_000
"""Keys whose charges are remembered while the store is away."""

PEERS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]))
return redis.call('ZCARD', KEYS[1])
"""


class RedisLimiter:
    """`prefix` keeps deployments on one server apart, `name` this sidecar from the others; `peers` is how many live."""

    def __init__(
        self,
        address: StoreAddress,
        prefix: str,
        deadline: float,
        nodes: tuple[tuple[str, int], ...] = (),
        locate: Locate | None = None,
    ) -> None:
        """With `nodes` the store is a Cluster, and `address` only says who we are to it; so it does with `locate`."""
        self.store: Store | ClusterStore = (
            ClusterStore(nodes, address, deadline, SCRIPTS)
            if nodes
            else Store(address, deadline, SCRIPTS, locate=locate)
        )
        self._whole = not nodes
        self.store.on_revived.append(self._on_revived)
        self.peers = 1
        self.fallback = LocalLimiter(lambda: time.monotonic() * 1000)
        self.decisions = {"redis": 0, "local": 0}
        self._prefix = prefix
        self.name = os.urandom(8).hex()
        self._owed: dict[str, tuple[Charge, int]] = {}
        self._heart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look for the store; serving does not wait for it longer than one attempt."""
        self.store.start()
        await self.store.first_try()
        self._heart = asyncio.create_task(self._beat(), name="heartbeat")

    async def close(self) -> None:
        if self._heart:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await self.store.close()

    # deciding

    def decide(self, charges: Sequence[Charge], reservation: str, then: OnDecision) -> None:
        store = self.store
        if not store.available:
            store.stats.failed("away")
            then(self.decided_alone(charges, reservation))
            return

        groups = [] if self._whole else _by_identity(charges)
        if len(groups) > 1:
            _Together(self, charges, groups, reservation, then).start()
            return

        def answered(decision: Decision | None) -> None:
            if decision is None:
                then(self.decided_alone(charges, reservation))
            else:
                self.decisions["redis"] += 1
                then(decision)

        self.ask_one(charges, reservation, answered)

    def ask_one(self, charges: Sequence[Charge], reservation: str, then: Callable[[Decision | None], None]) -> None:
        """Decide charges whose keys share a slot; None where the store does not answer."""
        store = self.store
        slot = 0 if self._whole else slot_of(f"{self._prefix}:{charges[0].key}")

        def answered(reply: Reply) -> None:
            if isinstance(reply, list):
                then(_decision(reply))
            elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                store.ask(self._decide_command(charges, reservation, whole=True), answered, slot)
            else:
                if not isinstance(reply, StoreError):
                    store.stats.failed(str(reply).split(" ", 1)[0].lower())
                then(None)

        store.ask(self._decide_command(charges, reservation), answered, slot)

    def _decide_command(self, charges: Sequence[Charge], reservation: str, *, whole: bool = False) -> bytes:
        """The script's call as it travels; what of it recurs with a charge is kept on the charge."""
        keys: list[bytes] = []
        arguments: list[bytes] = []
        for charge in charges:
            wire = charge.wire
            if wire is None:
                wire = charge.wire = self._wire(charge)
            keys.append(wire[0])
            arguments.append(wire[1])
        count = len(charges)
        script = b"$4\r\nEVAL\r\n" + _bulk(DECIDE) if whole else _EVALSHA
        head = b"*%d\r\n%b%b" % (5 + 8 * count, script, _bulk(2 * count))
        return b"".join([head, *keys, b"$2\r\n-1\r\n", _bulk(reservation), *arguments])

    def _wire(self, charge: Charge) -> tuple[bytes, bytes]:
        quota = charge.quota
        key = f"{self._prefix}:{charge.key}"
        flags = charge.holds + 2 * quota.shadow
        arguments = (int(quota.strategy), quota.amount, quota.window, charge.cost, flags, quota.lease)
        return _bulk(key) + _bulk(_holds_of(key, charge)), b"".join([_bulk(one) for one in arguments])

    def decided_alone(self, charges: Sequence[Charge], reservation: str) -> Decision:
        """Decide without the store, each quota by its `on_store_failure`."""
        self.decisions["local"] += 1
        shares = [self._share(charge) for charge in charges if charge.quota.on_store_failure == "local"]
        closed = any(c.quota.on_store_failure == "closed" and not c.quota.shadow for c in charges)
        alone = Decision(True, (), "none")
        if shares:
            alone = self.fallback.decided(shares, reservation) if not closed else alone
        outcomes = iter(alone.outcomes)
        told = []
        for charge in charges:
            how = charge.quota.on_store_failure
            if how == "local":
                told.append(next(outcomes, _UNKNOWN))
            else:
                told.append(_CLOSED if how == "closed" else _UNKNOWN)
        admitted = alone.admitted and not closed
        if admitted:
            for charge, outcome in zip(charges, told, strict=True):
                if outcome.admitted and not charge.holds:
                    self._owe(charge, charge.cost)
        return Decision(admitted, tuple(told), alone.source)

    def _share(self, charge: Charge) -> Charge:
        amount = max(1, ceil(charge.quota.amount / self.peers))
        return Charge(replace(charge.quota, amount=amount), charge.identity, charge.cost)

    def _owe(self, charge: Charge, taken: int) -> None:
        key = charge.key
        if charge.quota.strategy is not Strategy.CONCURRENT and (key in self._owed or len(self._owed) < MAX_OWED):
            _, before = self._owed.get(key, (charge, 0))
            self._owed[key] = (charge, before + taken)

    def settle(self, settlements: Sequence[Settlement], reservation: str) -> None:
        self.fallback.settle([(self._share(charge), taken) for charge, taken in settlements], reservation)
        if self.store.available:
            for group in [settlements] if self._whole else _settlements_by_identity(settlements):
                self.send_settlement(group, reservation)
            return
        for charge, taken in settlements:
            if taken:
                self._owe(charge, taken)

    def send_settlement(self, settlements: Sequence[Settlement], reservation: str, mode: str = "settle") -> None:
        """Their keys share a slot."""
        store = self.store
        keys: list[str] = []
        arguments: list[bytes | str | int] = [-1, reservation, mode]
        for charge, taken in settlements:
            key = f"{self._prefix}:{charge.key}"
            keys += (key, key if mode == "merge" else key + ":r")
            quota = charge.quota
            taken = 0 if quota.strategy is Strategy.CONCURRENT else taken
            arguments += (int(quota.strategy), quota.amount, quota.window, charge.cost, taken)
        slot = 0 if self._whole else slot_of(keys[0])

        def answered(reply: Reply) -> None:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                store.ask(pack("EVAL", SETTLE, len(keys), *keys, *arguments), self._settled, slot)
            else:
                self._settled(reply)

        store.ask(pack("EVALSHA", _SHA["settle"], len(keys), *keys, *arguments), answered, slot)

    def _settled(self, reply: Reply) -> None:
        """A settlement that failed costs nothing but its lease's time."""
        if isinstance(reply, Exception):
            self.store.stats.failed("settle")

    # the store comes and goes

    def _on_revived(self) -> None:
        """Say that we live, and charge what was admitted alone; its counters are the store's business again."""
        self._announce()
        owed, self._owed = self._owed, {}
        for charge, cost in owed.values():
            self.send_settlement([(charge, min(cost, charge.quota.amount * self.peers))], "-", "merge")
        self.fallback.clear()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.store.available:
                self._announce()

    def _announce(self) -> None:
        key = f"{self._prefix}:peers"
        self.store.ask(pack("EVAL", PEERS, 1, key, self.name, PEER_LIVES_MS), self._on_peers, slot_of(key))

    def _on_peers(self, reply: Reply) -> None:
        if isinstance(reply, int):
            self.peers = max(1, reply)


class _Together:
    """One decision whose keys live on several nodes: everything is held first, and taken once all nodes admit.

    So no node ever takes what another denies; a sidecar that dies in between loses its holds with their lease.
    """

    LEASE = 5_000

    def __init__(
        self,
        limiter: RedisLimiter,
        charges: Sequence[Charge],
        groups: list[list[Charge]],
        reservation: str,
        then: OnDecision,
    ) -> None:
        self._limiter = limiter
        self._charges = charges
        self._groups = groups
        self._reservation = reservation if reservation != "-" else os.urandom(9).hex()
        self._then = then
        self._left = len(groups)
        self._outcomes: dict[int, Outcome] = {}
        self._held: list[list[Charge]] = []
        self._admitted = True
        self._away = False

    def start(self) -> None:
        for group in self._groups:
            self._limiter.ask_one([self._holding(one) for one in group], self._reservation, self._on_answer(group))

    def _holding(self, charge: Charge) -> Charge:
        if charge.holds:
            return charge
        return Charge(replace(charge.quota, reserve=True, lease=self.LEASE), charge.identity, charge.cost)

    def _on_answer(self, group: list[Charge]) -> Callable[[Decision | None], None]:
        def answered(decision: Decision | None) -> None:
            self._left -= 1
            if decision is None:
                self._away = True
            else:
                self._admitted = self._admitted and decision.admitted
                if decision.admitted:
                    self._held.append(
                        [one for one, said in zip(group, decision.outcomes, strict=True) if said.admitted]
                    )
                self._outcomes |= {id(one): said for one, said in zip(group, decision.outcomes, strict=True)}
            if not self._left:
                self._finish()

        return answered

    def _finish(self) -> None:
        """Take or give back; a charge that holds by itself stays held until its exchange ends."""
        taken = self._admitted and not self._away
        for group in self._held:
            some = [one for one in group if not (taken and one.holds)]
            if some:
                self._limiter.send_settlement([(one, one.cost if taken else 0) for one in some], self._reservation)
        if self._away:
            self._then(self._limiter.decided_alone(self._charges, self._reservation))
        else:
            self._limiter.decisions["redis"] += 1
            outcomes = tuple([self._outcomes[id(one)] for one in self._charges])
            self._then(Decision(self._admitted, outcomes, "redis"))


def _by_identity(charges: Sequence[Charge]) -> list[list[Charge]]:
    """Charges of one identity have one hash tag, so one slot."""
    groups: dict[str, list[Charge]] = {}
    for charge in charges:
        groups.setdefault(charge.identity, []).append(charge)
    return list(groups.values())


def _settlements_by_identity(settlements: Sequence[Settlement]) -> list[list[Settlement]]:
    groups: dict[str, list[Settlement]] = {}
    for one in settlements:
        groups.setdefault(one[0].identity, []).append(one)
    return list(groups.values())


def _holds_of(key: str, charge: Charge) -> str:
    """Where nothing is held the counter's key stands twice: a migrating slot answers only for keys that exist."""
    return key + ":r" if charge.holds else key


def _bulk(value: str | bytes | int) -> bytes:
    """RESP's bulk string."""
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


SCRIPTS = {"decide": DECIDE, "settle": SETTLE}
_SHA = {name: sha1(script.encode(), usedforsecurity=False).hexdigest() for name, script in SCRIPTS.items()}
_EVALSHA = b"$7\r\nEVALSHA\r\n" + _bulk(_SHA["decide"])
_UNKNOWN = Outcome(True, 0, 0, 0)
_CLOSED = Outcome(False, 0, 1000, 1000)


def _decision(reply: list[int]) -> Decision:
    outcomes = tuple([Outcome(reply[at] == 1, *reply[at + 1 : at + 4]) for at in range(1, len(reply), 4)])
    return Decision(reply[0] == 1, outcomes, "redis")
