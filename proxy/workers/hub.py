"""A parent's side of its workers: one limiter and the boards' facts for all, where no store is."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from proxy.fleet.board import Board
from proxy.throttle.charge import Charge, Quota, Settlement, Strategy
from proxy.throttle.local import LocalLimiter
from proxy.workers.frames import Channel, Message

log = logging.getLogger(__name__)


class Hub:
    """`attach` takes a worker's end of a socket pair; what the worker held is given back when it goes."""

    def __init__(self, told: Callable[[int, str, list[Any]], None]) -> None:
        """`told` hears what a worker says of itself: its number, `ready`, `applied`, `took`, `pong` or `last`, and what
        belongs to it."""
        self._told = told
        self._limiter = LocalLimiter(lambda: time.monotonic() * 1000)
        self._boards: dict[str, Board] = {}
        self._channels: dict[int, Channel] = {}
        self._held: dict[int, dict[str, list[Charge]]] = {}
        self.decisions = 0

    async def attach(self, sock: socket.socket, number: int) -> asyncio.Event:
        """What it gives is set once all that the worker said was heard, and its end is closed."""
        gone = asyncio.Event()

        def lost() -> None:
            self._gone(number)
            gone.set()

        channel = Channel(lambda message: self._heard(number, message), lost)
        self._channels[number] = channel
        self._held[number] = {}
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=sock)
        return gone

    def close(self) -> None:
        for channel in list(self._channels.values()):
            channel.close()

    def _gone(self, number: int) -> None:
        """Give back what the worker still held."""
        del self._channels[number]
        for reservation, charges in self._held.pop(number).items():
            self._limiter.settle([(charge, 0) for charge in charges], reservation)

    def _heard(self, number: int, message: Message) -> None:
        kind, *rest = message
        if kind == "decide":
            self._decide(number, *rest)
        elif kind == "settle":
            self._settle(number, *rest)
        elif kind == "renew":
            self._limiter.renew([charge_of(one) for one in rest[0]], rest[1])
        elif kind == "put":
            self._put(number, *rest)
        elif kind == "propose":
            self._propose(number, *rest)
        elif kind == "read":
            for name, fact, left in self._board(rest[0]).live():
                self._channels[number].send("put", rest[0], name, fact.value, max(1, round(left * 1000)))
        elif kind == "reverted":
            self._tell(("revert", *rest), but=number)
        else:
            self._told(number, kind, rest)

    def say(self, number: int, *message: Any) -> None:
        channel = self._channels.get(number)
        if channel is not None:
            channel.send(*message)

    def _decide(self, number: int, asked: int, rows: list[tuple[Any, ...]], reservation: str) -> None:
        self.decisions += 1
        charges = [charge_of(one) for one in rows]
        decision = self._limiter.decided(charges, reservation)
        if decision.admitted and reservation != "-":
            held = [one for one, said in zip(charges, decision.outcomes, strict=True) if one.holds and said.admitted]
            if held:
                self._held[number][reservation] = held
        self._channels[number].send("decided", asked, decision.admitted, [tuple(one) for one in decision.outcomes])

    def _settle(self, number: int, rows: list[tuple[tuple[Any, ...], int]], reservation: str) -> None:
        settlements: list[Settlement] = [(charge_of(one), taken) for one, taken in rows]
        settled = {charge.key for charge, _ in settlements}
        left = [one for one in self._held[number].pop(reservation, ()) if one.key not in settled]
        if left:
            self._held[number][reservation] = left
        self._limiter.settle(settlements, reservation)

    # boards

    def _board(self, name: str) -> Board:
        return self._boards.setdefault(name, Board(name))

    def _put(self, number: int, board: str, name: str, value: str, milliseconds: int) -> None:
        self._board(board).learn(name, value, milliseconds / 1000)
        self._tell(("put", board, name, value, milliseconds), but=number)

    def _propose(
        self, number: int, asked: int, board: str, name: str, epoch: int, value: str, milliseconds: int
    ) -> None:
        """Where the fact has that epoch (the first word of its value) it changes, for the proposer, too."""
        fact = self._board(board).get(name)
        now = int(fact.value.partition(" ")[0]) if fact is not None else 0
        if now == epoch:
            self._board(board).learn(name, value, milliseconds / 1000)
            self._tell(("put", board, name, value, milliseconds))
        self._channels[number].send("proposed", asked, now == epoch)

    def _tell(self, message: Message, but: int = -1) -> None:
        for number, channel in self._channels.items():
            if number != but:
                channel.send(*message)

    def sweep(self) -> None:
        for board in self._boards.values():
            board.sweep()


@lru_cache(maxsize=4096)
def _quota(name: str, strategy: int, amount: int, window: int, reserve: bool, lease: int, shadow: bool) -> Quota:
    return Quota(name, Strategy(strategy), amount, window, reserve, lease, shadow)


def charge_of(row: tuple[Any, ...]) -> Charge:
    return Charge(_quota(*row[:7]), row[7], row[8])
