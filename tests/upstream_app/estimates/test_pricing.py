"""The six golden figures of the original, and what must hold whatever is asked."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upstream_app.estimates.pricing import RULES, End, Move, default_crew, default_hours, price, trucks

D = Decimal
GOLDEN = {
    "studioLocal": (Move("local", 2, D(4), pickup=End(stairs=1)), "600.00", "825.00"),
    "largeLargePiano": (
        Move(
            "local", 4, D(8), volume=D(1800), packing=True, piano=True, fragile=15, weekend=True,
            pickup=End(stairs=1, narrowHallways=True), delivery=End(stairs=2, parkingFeet=60, narrowHallways=True),
        ),
        "2400.00", "7396.40",
    ),
    "longDistanceHeavy": (
        Move("long_distance", 4, D(7), weight=D(12500), volume=D(2000), distance=D(800), packing=True),
        "15625.00", "44244.39",
    ),
    "weekendChallenge": (
        Move(
            "local", 3, D(6), antiques=True, fragile=15, weekend=True, peak=True,
            pickup=End(access="extreme"), delivery=End(stairs=2, narrowHallways=True),
        ),
        "1350.00", "4536.75",
    ),
    "minimalLocal": (Move("local", 1, D("1.5")), "225.00", "400.00"),
    "packingOnly": (Move("packing_only", 2, D(6), packing=True), "510.00", "595.00"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_figures(name: str) -> None:
    move, base, total = GOLDEN[name]
    found = price(move)
    assert (str(found.base), str(found.total)) == (base, total)


def test_every_step_is_listed_and_adds_up() -> None:
    for move, _, _ in GOLDEN.values():
        found = price(move)
        assert found.base + sum(item.impact for item in found.items) == found.total
        running = found.base
        for item in found.items:
            running += item.impact
            assert item.price == running
            assert item.impact == item.impact.quantize(D("0.01"))


def test_the_minimum_is_listed_even_where_it_adds_nothing() -> None:
    last = price(GOLDEN["studioLocal"][0]).items
    assert ("50", D(0)) in [(item.rule, item.impact) for item in last]


def test_rules_stand_in_the_order_of_their_priority() -> None:
    priorities = [rule.priority for rule in RULES]
    assert priorities == sorted(set(priorities))


ENDS = st.builds(
    End, stairs=st.integers(0, 20), elevator=st.booleans(), longCarry=st.booleans(),
    access=st.sampled_from(["easy", "extreme"]), parkingFeet=st.integers(0, 200), narrowHallways=st.booleans(),
)  # fmt: skip
MOVES = st.builds(
    Move, service=st.sampled_from(["local", "long_distance", "storage", "packing_only"]), crew=st.integers(1, 20),
    hours=st.decimals(1, 40, places=2), weight=st.decimals(0, 50_000, places=2),
    volume=st.decimals(0, 10_000, places=2),
    distance=st.decimals(0, 3_000, places=2), packing=st.booleans(), assembly=st.booleans(), piano=st.booleans(),
    antiques=st.booleans(), fragile=st.integers(0, 100), weekend=st.booleans(), peak=st.booleans(),
    pickup=ENDS, delivery=ENDS,
)  # fmt: skip


@given(MOVES)
def test_more_work_never_costs_less(move: Move) -> None:
    more: list[dict[str, Any]] = [
        {"crew": move.crew + 1}, {"hours": move.hours + 1}, {"weight": move.weight + 500},
        {"volume": move.volume + 100},
        {"distance": move.distance + 100}, {"fragile": move.fragile + 1}, {"packing": True}, {"assembly": True},
        {"piano": True}, {"antiques": True}, {"weekend": True}, {"peak": True},
        {"delivery": replace(move.delivery, stairs=move.delivery.stairs + 1)},
        {"pickup": replace(move.pickup, access="extreme")},
    ]  # fmt: skip
    total = price(move).total
    for change in more:
        assert price(replace(move, **change)).total >= total, change


@given(MOVES)
def test_the_same_input_has_the_same_price_and_hash_however_it_is_written(move: Move) -> None:
    given_again = {field.name: getattr(move, field.name) for field in reversed(fields(move))}
    given_again["hours"] = D(str(move.hours) + ("0" if "." in str(move.hours) else ".0"))
    again = price(Move(**given_again))
    assert (again.total, again.hash) == (price(move).total, price(move).hash)


@given(MOVES)
def test_another_input_has_another_hash(move: Move) -> None:
    others = [
        replace(move, hours=move.hours + D("0.01")), replace(move, crew=move.crew + 1),
        replace(move, pickup=replace(move.pickup, stairs=move.pickup.stairs + 1)),
        replace(move, delivery=replace(move.delivery, longCarry=not move.delivery.longCarry)),
    ]  # fmt: skip
    hashes = [one.hash for one in (move, *others)]
    for first, second in itertools.combinations(hashes, 2):
        assert first != second


def test_what_is_assumed_where_nothing_is_said() -> None:
    assert [default_crew(D(volume)) for volume in (799, 800, 1499, 1500)] == [2, 3, 3, 4]
    assert [trucks(D(volume)) for volume in (0, 1500, 1501)] == [1, 1, 2]
    assert default_hours(D(1000), 4) == 5
