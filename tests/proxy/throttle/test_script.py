"""The Lua script and the limiter in this process say the same, charge by charge, over any course of time."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.throttle.charge import Charge, Decision, Outcome, Quota, Settlement, Strategy
from proxy.throttle.local import LocalLimiter
from proxy.throttle.script import DECIDE, SETTLE

START = 1_700_000_000_000.0
WINDOW = 600_000


class Script:
    """The script on a real server, with the clock given from here."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port, protocol=2)
        self._decide = self.client.register_script(DECIDE)
        self._settle = self.client.register_script(SETTLE)
        self.prefix = uuid.uuid4().hex
        self.now = START

    def _keys(self, charges: list[Charge]) -> list[str]:
        return [f"{self.prefix}:{charge.key}{end}" for charge in charges for end in ("", ":r")]

    def decided(self, charges: list[Charge], reservation: str) -> Decision:
        arguments: list[str | float] = [f"{self.now:.3f}", reservation]
        for charge in charges:
            quota = charge.quota
            flags = charge.holds + 2 * quota.shadow
            arguments += [int(quota.strategy), quota.amount, quota.window, charge.cost, flags, quota.lease]
        reply = self._decide(keys=self._keys(charges), args=arguments)
        rows = [reply[at : at + 4] for at in range(1, len(reply), 4)]
        return Decision(bool(reply[0]), tuple(Outcome(bool(row[0]), *row[1:]) for row in rows), "local")

    def settle(self, settlements: list[Settlement], reservation: str) -> None:
        arguments: list[str | float] = [f"{self.now:.3f}", reservation, "settle"]
        for charge, taken in settlements:
            quota = charge.quota
            arguments += [int(quota.strategy), quota.amount, quota.window, charge.cost, taken]
        self._settle(keys=self._keys([charge for charge, _ in settlements]), args=arguments)


QUOTAS = st.builds(
    Quota,
    name=st.sampled_from("abc"),
    strategy=st.sampled_from(Strategy),
    amount=st.integers(1, 12),
    window=st.just(WINDOW),
    lease=st.just(120_000),
    shadow=st.booleans(),
).map(lambda quota: replace(quota, reserve=quota.name == "b"))


@st.composite
def charges_of(draw: st.DrawFn) -> list[Charge]:
    quotas = draw(st.lists(QUOTAS, min_size=1, max_size=3, unique_by=lambda quota: quota.name))
    identity = draw(st.sampled_from(["1" * 24, "2" * 24]))
    return [Charge(quota, identity, draw(st.integers(1, 4))) for quota in quotas]


STEPS = st.lists(
    st.tuples(charges_of(), st.integers(0, 400_000), st.none() | st.integers(0, 5)), min_size=1, max_size=25
)


@pytest.mark.asyncio(loop_scope="session")
async def test_the_server_is_there(valkey_port: int) -> None:
    assert redis.Redis(port=valkey_port).ping()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_both_say_the_same(valkey_port: int, steps: list[tuple[list[Charge], int, int | None]]) -> None:
    script = Script(valkey_port)
    model = LocalLimiter(lambda: script.now)
    for number, (charges, passing, taken) in enumerate(steps):
        script.now += passing
        assert script.decided(charges, str(number)) == model.decided(charges, str(number))
        if taken is not None:
            settlements = [(charge, taken) for charge in charges]
            script.settle(settlements, str(number))
            model.settle(settlements, str(number))
    script.client.close()


@settings(max_examples=200, deadline=None)
@given(
    strategy=st.sampled_from([Strategy.FIXED, Strategy.MOVING, Strategy.SLIDING, Strategy.BUCKET]),
    amount=st.integers(1, 20),
    waits=st.lists(st.integers(0, WINDOW // 3), min_size=1, max_size=80),
)
def test_never_more_than_the_strategy_allows(strategy: Strategy, amount: int, waits: list[int]) -> None:
    """In any window: the amount, and for those that allow a burst at a window's edge, at most twice."""
    now = START
    model = LocalLimiter(lambda: now)
    charge = Charge(Quota("a", strategy, amount, WINDOW), "1" * 24)
    times: list[float] = []
    for wait in waits:
        now += wait
        if model.decided([charge], "").admitted:
            times.append(now)
    most = max((sum(at - WINDOW < other <= at for other in times) for at in times), default=0)
    assert most <= (amount if strategy is Strategy.MOVING else 2 * amount)
    if amount == 1 and strategy is Strategy.SLIDING:
        assert most <= 1, "what is left of the window before is never rounded away"


@settings(max_examples=200, deadline=None)
@given(
    strategy=st.sampled_from([Strategy.FIXED, Strategy.MOVING, Strategy.SLIDING, Strategy.BUCKET]),
    amount=st.integers(1, 9),
    waits=st.lists(st.integers(0, WINDOW // 4), min_size=1, max_size=30),
)
def test_retry_is_when_it_is_admitted(strategy: Strategy, amount: int, waits: list[int]) -> None:
    now = START
    model = LocalLimiter(lambda: now)
    charge = Charge(Quota("a", strategy, amount, WINDOW), "1" * 24)
    for wait in waits:
        now += wait
        decision = model.decided([charge], "")
        if not decision.admitted:
            now += decision.outcomes[0].retry
            assert model.decided([charge], "").admitted
            return


def test_a_request_that_one_rule_denies_consumes_nothing_of_the_others() -> None:
    model = LocalLimiter(lambda: START)
    wide, narrow = (
        Charge(Quota(name, Strategy.FIXED, amount, WINDOW), "1" * 24) for name, amount in (("w", 9), ("n", 1))
    )
    assert model.decided([wide, narrow], "").admitted
    for _ in range(5):
        assert not model.decided([wide, narrow], "").admitted
    assert model.decided([wide], "").outcomes[0].remaining == 8


def test_a_shadow_denies_nobody() -> None:
    model = LocalLimiter(lambda: START)
    shadow = Charge(Quota("s", Strategy.FIXED, 1, WINDOW, shadow=True), "1" * 24)
    decisions = [model.decided([shadow], "") for _ in range(3)]
    assert [decision.admitted for decision in decisions] == [True] * 3
    assert [decision.outcomes[0].admitted for decision in decisions] == [True, False, False]


def test_editing_the_amount_keeps_the_counter() -> None:
    model = LocalLimiter(lambda: START)
    charge = Charge(Quota("a", Strategy.FIXED, 5, WINDOW), "1" * 24)
    for _ in range(3):
        model.decided([charge], "")
    edited = Charge(replace(charge.quota, amount=4), charge.identity)
    assert model.decided([edited], "").outcomes[0].remaining == 1


def test_a_lease_gives_back_what_a_killed_sidecar_held() -> None:
    now = START
    model = LocalLimiter(lambda: now)
    charge = Charge(Quota("a", Strategy.CONCURRENT, 1, 0, lease=30_000), "1" * 24)
    assert model.decided([charge], "first").admitted
    assert not model.decided([charge], "second").admitted
    now += 30_001
    assert model.decided([charge], "third").admitted
