"""A worker's side of its parent: the limiter and the boards that all workers of a sidecar share without a store.

The parent decides limits for all, in their order; where it does not answer within DEADLINE, the worker's share does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from proxy.fleet.board import Board
from proxy.throttle.charge import Charge, Decision, OnDecision, Outcome, Settlement
from proxy.throttle.local import LocalLimiter
from proxy.workers.counts import SharedCounts
from proxy.workers.frames import Channel, Message

log = logging.getLogger(__name__)

VARIABLE = "SIMPLEPRO_WORKER"
DEADLINE = 0.25
SWEEP = 0.05
MAX_LATE = 10_000


@dataclass(slots=True)
class Worker:
    """Which worker this process is, of how many, and what its parent gave it: file descriptors, its column of the
    shared counts (of how many), a path for its admin, and one where the policy in force is, which the file that it came
    from may not say any more. `number` tells it from those that had its place before."""

    index: int
    count: int
    number: int
    channel: int
    counts: int
    column: int
    columns: int
    admin: str
    policy: str
    sockets: dict[str, list[int]]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Worker | None:
        """None in a process that no parent of ours has started."""
        text = environment.get(VARIABLE)
        return cls(**json.loads(text)) if text else None

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    def text(self) -> bytes:
        """The policy in force."""
        return Path(self.policy).read_bytes()

    def given(self) -> dict[str, list[socket.socket]]:
        return {name: [socket.socket(fileno=fd) for fd in fds] for name, fds in self.sockets.items()}


class Link:
    """A limiter (`decide`, `renew`, `settle`), and what keeps boards alike over the workers."""

    def __init__(self, worker: Worker, alone: Callable[[], None]) -> None:
        """`alone` is called where the parent has gone."""
        self.worker = worker
        self.counts = SharedCounts(worker.counts, worker.columns, worker.column)
        self.name = f"worker-{worker.number}"
        self.on_revert: list[Callable[[str, str], None]] = []
        self.on_take: Callable[[bytes, bool, Callable[[bytes], None]], None] | None = None
        self._alone = alone
        self._channel = Channel(self._heard, self._lost)
        self._boards: dict[str, Board] = {}
        self._fallback = LocalLimiter(lambda: time.monotonic() * 1000)
        self._next = 0
        self._asked: dict[int, tuple[Sequence[Charge], str, OnDecision, float]] = {}
        self._refused_late: dict[int, tuple[Sequence[Charge], str]] = {}
        """What the share refused before the parent had decided: what it then holds is given back."""
        self._proposed: dict[int, Callable[[bool], None]] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._closing = False
        self.decided_alone = 0

    @property
    def available(self) -> bool:
        return self._channel.open

    async def start(self) -> None:
        sock = socket.socket(fileno=self.worker.channel)
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self._channel, sock=sock)
        self._sweeper = asyncio.create_task(self._sweep(), name="link")

    def ready(self, text: bytes) -> None:
        """`text` is the policy by which this worker serves."""
        self._channel.send("ready", text)

    def applied(self, text: bytes, trial: bool) -> None:
        """This worker serves by another policy now, and so shall the others."""
        self._channel.send("applied", text, trial)

    def last(self, metrics: str) -> None:
        """Nothing is counted after this."""
        self._channel.send("last", metrics)

    def reverted(self, revision: str, why: str) -> None:
        self._channel.send("reverted", revision, why)

    def join(self, boards: Iterable[Board]) -> None:
        """Tell what is put on these boards here, and learn what is put on them elsewhere."""
        for board in boards:
            self._boards[board.name] = board
            board.send = self._sender(board.name)
            self._channel.send("read", board.name)

    def _sender(self, board: str) -> Callable[[str, str, int], None]:
        def send(name: str, value: str, milliseconds: int) -> None:
            self._channel.send("put", board, name, value, milliseconds)

        return send

    def propose(
        self, board: Board, name: str, epoch: int, value: str, milliseconds: int, then: Callable[[bool], None]
    ) -> None:
        self._next += 1
        self._proposed[self._next] = then
        self._channel.send("propose", self._next, board.name, name, epoch, value, milliseconds)

    # deciding

    def decide(self, charges: Sequence[Charge], reservation: str, then: OnDecision) -> None:
        if not self._channel.open:
            then(self._decide_alone(charges, reservation))
            return
        self._next += 1
        self._asked[self._next] = charges, reservation, then, time.monotonic() + DEADLINE
        self._channel.send("decide", self._next, [as_sent(one) for one in charges], reservation)

    def renew(self, charges: Sequence[Charge], reservation: str) -> None:
        self._channel.send("renew", [as_sent(one) for one in charges], reservation)

    def settle(self, settlements: Sequence[Settlement], reservation: str) -> None:
        self._fallback.settle([(self._share(charge), taken) for charge, taken in settlements], reservation)
        self._channel.send("settle", [(as_sent(charge), taken) for charge, taken in settlements], reservation)

    def _decide_alone(self, charges: Sequence[Charge], reservation: str) -> Decision:
        self.decided_alone += 1
        return self._fallback.decided([self._share(one) for one in charges], reservation)

    def _share(self, charge: Charge) -> Charge:
        amount = max(1, ceil(charge.quota.amount / self.worker.count))
        return Charge(replace(charge.quota, amount=amount), charge.identity, charge.cost)

    # hearing

    def _heard(self, message: Message) -> None:
        kind = message[0]
        if kind == "decided":
            _, number, admitted, outcomes = message
            asked = self._asked.pop(number, None)
            if asked is not None:
                asked[2](Decision(admitted, tuple(Outcome(*one) for one in outcomes), "local"))
            else:
                self._late(number, admitted)
        elif kind == "take":
            if self.on_take is not None:
                self.on_take(message[1], message[2], lambda text: self._channel.send("took", text))
        elif kind == "ping":
            self._channel.send("pong")
        elif kind == "put":
            _, board, name, value, milliseconds = message
            if board in self._boards:
                self._boards[board].learn(name, value, milliseconds / 1000)
        elif kind == "proposed":
            proposed = self._proposed.pop(message[1], None)
            if proposed is not None:
                proposed(message[2])
        elif kind == "revert":
            for told in self.on_revert:
                told(message[1], message[2])

    def _late(self, number: int, admitted: bool) -> None:
        charges, reservation = self._refused_late.pop(number, ((), ""))
        held = [(as_sent(charge), 0) for charge in charges if charge.holds]
        if admitted and held:
            self._channel.send("settle", held, reservation)

    def _lost(self) -> None:
        if not self._closing:
            self._alone()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            late = [number for number, asked in self._asked.items() if asked[3] <= now or not self._channel.open]
            for number in late:
                charges, reservation, then, _ = self._asked.pop(number)
                decision = self._decide_alone(charges, reservation)
                if not decision.admitted and reservation != "-" and len(self._refused_late) < MAX_LATE:
                    self._refused_late[number] = charges, reservation
                try:
                    then(decision)
                except Exception:
                    log.exception("a decision could not be used")

    async def close(self) -> None:
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._channel.closed()
        self.counts.close()


def as_sent(charge: Charge) -> tuple[Any, ...]:
    quota = charge.quota
    return (
        quota.name, int(quota.strategy), quota.amount, quota.window, quota.reserve, quota.lease, quota.shadow,
        charge.identity, charge.cost,
    )  # fmt: skip
