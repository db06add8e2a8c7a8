"""The limiter that all pods share, in Redis; while the store is away, each sidecar enforces its share alone.

Error bound while the store is away: with P the last known number of live sidecars, each admits up to ceil(amount / P)
a window, beside what had been admitted before; so within one window at most twice the amount plus P units pass. What
was admitted meanwhile is charged to the store before it decides again; until it has been, the share stays used up.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TypeVar

import hiredis

from proxy.throttle import denied
from proxy.throttle.address import StoreAddress
from proxy.throttle.charge import Charge, Decision, OnDecision, Outcome, Settlement, Strategy
from proxy.throttle.cluster import ClusterStore, slot_of
from proxy.throttle.link import OnReply, Reply, StoreError, pack
from proxy.throttle.local import LocalLimiter
from proxy.throttle.owed import Owed
from proxy.throttle.store import Locate, Store
from proxy.throttle.wire import SCRIPTS, decide_command, decision_of, renew_command, settle_command

T = TypeVar("T")
TROUBLE_SECONDS = 5.0
"""For so long after an answer that was no decision the sidecar counts as degraded."""
HEARTBEAT_SECONDS = 2.0
MAX_UNRELEASED = 10_000
RELEASES = 2
PEER_LIVES_MS = 7_000

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
        peers: int = 1,
    ) -> None:
        """With `nodes` the store is a Cluster, and `address` only says who we are to it; so it does with `locate`."""
        self.store: Store | ClusterStore = (
            ClusterStore(nodes, address, deadline, SCRIPTS)
            if nodes
            else Store(address, deadline, SCRIPTS, locate=locate)
        )
        self._whole = not nodes
        self._deadline = deadline
        self.store.on_revived.append(self._on_revived)
        self.peers = peers
        self.undecided_at = float("-inf")
        """Seconds of the monotonic clock; when the store last answered with something else than a decision."""
        self.fallback = LocalLimiter(lambda: time.monotonic() * 1000)
        self.decisions = {"redis": 0, "local": 0, "remembered": 0}
        self._prefix = prefix
        self.name = os.urandom(8).hex()
        self._owed = Owed(self.name, self._merge, self.fallback.forget)
        self._heart: asyncio.Task[None] | None = None
        self._unsure: set[str] = set()
        """Reservations that the store was asked for and said nothing of: it may have made them all the same."""
        self._unreleased: dict[str, tuple[Sequence[Settlement], int]] = {}
        """Holds that the store may still have, and how often it is yet to be told to let go."""

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

        known = denied.recall(charges)
        if known is not None:
            self.decisions["remembered"] += 1
            then(known)
            return

        groups = [] if self._whole else _grouped(charges, lambda one: one.identity)
        if len(groups) > 1:
            _Together(self, charges, groups, reservation, then).start()
            return

        self.ask_one(charges, reservation, partial(self._answered, charges, reservation, then))

    def _answered(
        self, charges: Sequence[Charge], reservation: str, then: OnDecision, decision: Decision | None
    ) -> None:
        if decision is None:
            decision = self.decided_alone(charges, reservation)
            if reservation != "-" and len(self._unsure) < MAX_UNRELEASED:
                self._unsure.add(reservation)
        else:
            self.on_decided(charges, decision)
        then(decision)

    def on_decided(self, charges: Sequence[Charge], decision: Decision) -> None:
        """The store decided."""
        self.decisions["redis"] += 1
        if not decision.admitted:
            denied.remember(charges, decision, self._deadline)

    def ask_one(self, charges: Sequence[Charge], reservation: str, then: Callable[[Decision | None], None]) -> None:
        """Decide charges whose keys share a slot; None where the store does not answer.

        What is owed of them goes first, on the same connection, so that it is counted before.
        """
        if self._owed:
            self._owed.send([charge.key for charge in charges])
        slot = 0 if self._whole else slot_of(f"{self._prefix}:{charges[0].key}")
        asking = partial(self._replied, charges, reservation, then, slot)
        self.store.ask(decide_command(self._prefix, charges, reservation), asking, slot)

    def _replied(
        self,
        charges: Sequence[Charge],
        reservation: str,
        then: Callable[[Decision | None], None],
        slot: int,
        reply: Reply,
    ) -> None:
        if isinstance(reply, list):
            then(decision_of(reply))
        elif isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            asking = partial(self._replied, charges, reservation, then, slot)
            self.store.ask(decide_command(self._prefix, charges, reservation, whole=True), asking, slot)
        else:
            if not isinstance(reply, StoreError):
                self.undecided_at = time.monotonic()
                self.store.stats.failed(str(reply).split(" ", 1)[0].lower())
            then(None)

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
                told.append(next(outcomes, None) or _open(charge))
            else:
                told.append(_CLOSED if how == "closed" else _open(charge))
        admitted = alone.admitted and not closed
        if admitted:
            for charge, outcome in zip(charges, told, strict=True):
                if outcome.admitted and not charge.holds:
                    self._owed.add(charge, charge.cost)
        return Decision(admitted, tuple(told), alone.source)

    def _share(self, charge: Charge) -> Charge:
        amount = max(1, ceil(charge.quota.amount / self.peers))
        return Charge(replace(charge.quota, amount=amount), charge.identity, charge.cost)

    def settle(self, settlements: Sequence[Settlement], reservation: str) -> None:
        self.fallback.settle([(self._share(charge), taken) for charge, taken in settlements], reservation)
        unsure = reservation in self._unsure
        self._unsure.discard(reservation)
        if unsure or not self.store.available:
            self._remember(settlements, reservation)
        if self.store.available:
            self._send_groups(settlements, reservation)
            return
        for charge, taken in settlements:
            if taken:
                self._owed.add(charge, taken)

    def _send_groups(self, settlements: Sequence[Settlement], reservation: str) -> None:
        for group in [settlements] if self._whole else _grouped(settlements, lambda one: one[0].identity):
            self.send_settlement(group, reservation)

    def _remember(self, settlements: Sequence[Settlement], reservation: str) -> None:
        """What runs at once is let go of by name, which does no harm where it is not held."""
        held = [one for one in settlements if one[0].quota.strategy is Strategy.CONCURRENT]
        if held and len(self._unreleased) < MAX_UNRELEASED:
            self._unreleased[reservation] = (held, RELEASES)

    def _release(self) -> None:
        """Twice, since what was asked on a connection that was lost may come after the first."""
        for reservation, (held, left) in list(self._unreleased.items()):
            if left > 1:
                self._unreleased[reservation] = (held, left - 1)
            else:
                del self._unreleased[reservation]
            self._send_groups(held, reservation)

    def send_settlement(self, settlements: Sequence[Settlement], reservation: str) -> None:
        """Their keys share a slot."""
        command = partial(settle_command, self._prefix, settlements, reservation)
        self._tell(settlements[0][0], command, partial(self._settled, settlements, reservation))

    def _settled(self, settlements: Sequence[Settlement], reservation: str, reply: Reply) -> None:
        self._failed("settle", reply)
        if isinstance(reply, Exception):
            self._remember(settlements, reservation)

    def _merge(self, charge: Charge, units: int, batch: str, then: Callable[[bool], None]) -> None:
        """No more than all sidecars together could have admitted."""
        settlements = [(charge, min(units, charge.quota.amount * self.peers))]
        command = partial(settle_command, self._prefix, settlements, batch, merge=True)
        self._tell(charge, command, lambda reply: then(reply == 1))

    def renew(self, charges: Sequence[Charge], reservation: str) -> None:
        if not self.store.available:
            self.fallback.renew([self._share(charge) for charge in charges], reservation)
            return
        for group in [charges] if self._whole else _grouped(charges, lambda one: one.identity):
            self._tell(
                group[0], partial(renew_command, self._prefix, group, reservation), partial(self._failed, "renew")
            )

    def _tell(self, charge: Charge, command: Callable[..., bytes], then: OnReply) -> None:
        slot = 0 if self._whole else slot_of(f"{self._prefix}:{charge.key}")
        self.store.ask(command(), partial(self._heard, command, then, slot), slot)

    def _heard(self, command: Callable[..., bytes], then: OnReply, slot: int, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            self.store.ask(command(whole=True), then, slot)
        else:
            then(reply)

    def _failed(self, what: str, reply: Reply) -> None:
        """No exchange waits for these: what fails costs no more than a lease's time."""
        if isinstance(reply, Exception):
            self.store.stats.failed(what)

    # the store comes and goes

    def _on_revived(self) -> None:
        """Say that we live, and charge what was admitted alone."""
        self._announce()
        self._owed.send()
        self._release()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self.store.available:
                self._announce()
                self._owed.send()
                self._release()

    @property
    def trouble(self) -> str:
        """Why limits hold by sidecar now; empty where they hold over all."""
        if not self.store.available:
            return "the store is away: limits hold by sidecar"
        if time.monotonic() - self.undecided_at < TROUBLE_SECONDS:
            return "the store answers and decides nothing (see its failures in the metrics): limits hold by sidecar"
        return ""

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
            outcomes = tuple([self._outcomes[id(one)] for one in self._charges])
            decision = Decision(self._admitted, outcomes, "redis")
            self._limiter.on_decided(self._charges, decision)
            self._then(decision)


def _grouped(items: Sequence[T], identity: Callable[[T], str]) -> list[list[T]]:
    """What is of one identity has one hash tag, so one slot."""
    groups: dict[str, list[T]] = {}
    for one in items:
        groups.setdefault(identity(one), []).append(one)
    return list(groups.values())


def _open(charge: Charge) -> Outcome:
    """Nobody decides, and the request may pass: as if nothing had been charged yet."""
    return Outcome(True, charge.quota.amount, 0, 0)


_CLOSED = Outcome(False, 0, 1000, 1000)
