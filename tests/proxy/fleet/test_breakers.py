"""What sidecars agree on, over boards that hear of each other at once; real Redis is in tests/integration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from breaker import Breaker, Settings, State
from breaker.settings import Consecutive, OpenTime
from proxy.fleet.board import Board
from proxy.fleet.breakers import LEASE, LONGEST_LEASE, SharedBreaker

FIRST = 2.0


class Fleet:
    """Pods a, b, ... whose clock is moved by hand; a proposal is compared and set as the store's script does."""

    def __init__(self, pods: int, probes: int = 1, successes: int = 1) -> None:
        self.now = 0.0
        settings = Settings(
            consecutive=Consecutive(1), open_time=OpenTime(FIRST, 60.0, 0.0), probes=probes, successes=successes
        )
        names = "abcdefgh"[:pods]
        self.boards = [Board("breakers", self.clock) for _ in names]
        self.breakers = [Breaker("app", settings, clock=self.clock) for _ in names]
        self.shared = [
            SharedBreaker(
                "app", breaker, board, -1, name, lambda: pods, lambda: True, self.propose, clock=self.clock
            )
            for name, breaker, board in zip(names, self.breakers, self.boards, strict=True)
        ]  # fmt: skip
        for board in self.boards:
            board.send = self.tell

    def clock(self) -> float:
        return self.now

    def tell(self, name: str, value: str, milliseconds: int) -> None:
        for board in self.boards:
            fact = board.get(name)
            if (fact.value if fact else "") != value:
                board.learn(name, value, milliseconds / 1000)

    def propose(self, name: str, epoch: int, value: str, milliseconds: int, then: Callable[[bool], None]) -> None:
        fact = self.boards[0].get(name)
        first = fact.value.partition(" ")[0] if fact else "0"
        took = (int(first) if first.isdecimal() else 0) == epoch
        then(took)
        if took:
            self.tell(name, value, milliseconds)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for one in self.shared:
                one.tick()

    def open(self) -> None:
        for breaker in self.breakers[:2]:
            breaker.failure(breaker.admit())
        assert self.states() == [State.OPEN] * len(self.breakers)

    def states(self) -> list[State]:
        return [breaker.state for breaker in self.breakers]

    def leader(self) -> Breaker:
        """It comes last from now on, so that any other gets a lease that ends."""
        (one,) = [breaker for breaker in self.breakers if breaker.state is State.HALF_OPEN]
        self.shared.sort(key=lambda shared: shared._breaker is one)
        return one


def test_a_probe_that_takes_longer_than_the_lease_still_counts() -> None:
    fleet = Fleet(3)
    fleet.open()
    fleet.pass_time(FIRST + 1)
    leader = fleet.leader()
    token = leader.admit()
    fleet.pass_time(3 * LEASE)
    leader.success(token)
    assert fleet.states() == [State.CLOSED] * 3


def test_probes_may_come_one_after_another_with_pauses() -> None:
    fleet = Fleet(3, successes=3)
    fleet.open()
    fleet.pass_time(FIRST + 1)
    leader = fleet.leader()
    for _ in range(3):
        leader.success(leader.admit())
        fleet.pass_time(LEASE - 1)
    assert fleet.states() == [State.CLOSED] * 3


def test_time_without_requests_does_not_lengthen_the_open_time() -> None:
    fleet = Fleet(3)
    fleet.open()
    for _ in range(10):
        fleet.pass_time(20)
        leader = fleet.leader()
    leader.failure(leader.admit())
    assert leader.open_seconds <= 2 * FIRST
    assert fleet.states() == [State.OPEN] * 3


def test_whoever_probes_next_goes_on_with_the_open_times() -> None:
    fleet = Fleet(3)
    fleet.open()
    seen: list[float] = []
    leaders: list[Breaker] = []
    for _ in range(3):
        fleet.pass_time(max(seen or [FIRST]) + LEASE)
        leader = fleet.leader()
        leader.failure(leader.admit())
        seen.append(leader.open_seconds)
        leaders.append(leader)
    assert seen == [2 * FIRST, 4 * FIRST, 8 * FIRST], f"by {len(set(map(id, leaders)))} of them"


def test_one_whose_probe_never_ends_leads_no_longer_than_the_bound() -> None:
    fleet = Fleet(2)
    fleet.open()
    fleet.pass_time(FIRST + 1)
    first = fleet.leader()
    first.admit()
    fleet.pass_time(LONGEST_LEASE + 2 * LEASE)
    other = fleet.leader()
    assert other is not first
    other.success(other.admit())
    assert fleet.states() == [State.CLOSED] * 2


@pytest.mark.parametrize(
    "value", ["", "x", "7", "7 open", "7 open b soon", "7 ajar b 3.0", "7 open b 3.0 more", "\ufffd"]
)
def test_a_state_that_nobody_can_read_is_closed_and_replaced(value: str) -> None:
    fleet = Fleet(3)
    for board in fleet.boards:
        board.learn("state:app", value, 100.0)
    fleet.pass_time(1)
    assert fleet.states() == [State.CLOSED] * 3
    fleet.open()
    fleet.pass_time(FIRST + 1)
    leader = fleet.leader()
    leader.success(leader.admit())
    assert fleet.states() == [State.CLOSED] * 3
