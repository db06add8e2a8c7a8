"""What a move costs: pure, in cents by Decimal, every step listed with the rule that made it.

A base by service, then the rules by priority on the running price, each impact rounded to cents, half up; then what
makes either end hard to reach. Rules 1, 2 and 5 charge on top of a base that already holds them: the original's figures
have it so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from math import ceil
from typing import Literal

Service = Literal["local", "long_distance", "storage", "packing_only"]
Access = Literal["easy", "moderate", "difficult", "extreme"]
CENT = Decimal("0.01")
MINIMUM = Decimal(400)


def cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)


@dataclass(frozen=True, slots=True)
class End:
    """One end of the way: flights of `stairs`, feet from the truck to the door and from the parking place."""

    stairs: int = 0
    elevator: bool = False
    longCarry: bool = False
    access: Access = "easy"
    parkingFeet: int = 0
    narrowHallways: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """All that the price depends on; `weight` in pounds, `volume` in cubic feet, `distance` in miles."""

    service: Service
    crew: int
    hours: Decimal
    weight: Decimal = Decimal(0)
    volume: Decimal = Decimal(0)
    distance: Decimal = Decimal(0)
    packing: bool = False
    assembly: bool = False
    piano: bool = False
    antiques: bool = False
    fragile: int = 0
    weekend: bool = False
    peak: bool = False
    pickup: End = field(default_factory=End)
    delivery: End = field(default_factory=End)

    def canonical(self) -> str:
        """The whole input in one spelling: equal moves have equal texts, others have others."""
        return json.dumps(asdict(self), default=_number, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def _number(value: Decimal) -> str:
    plain = format(value.normalize(), "f")
    return plain if plain != "-0" else "0"


@dataclass(frozen=True, slots=True)
class Item:
    """One step: which rule, what it is called, what it adds, and the price after it."""

    rule: str
    name: str
    impact: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    base: Decimal
    total: Decimal
    items: tuple[Item, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class Rule:
    """`impact` on the running price, None where the rule does not apply."""

    priority: int
    name: str
    services: tuple[Service, ...]
    impact: Callable[[Move, Decimal], Decimal | None]


def base(move: Move) -> Decimal:
    if move.service == "local":
        return (150 + 75 * Decimal(max(0, move.crew - 2))) * move.hours
    if move.service == "long_distance":
        return Decimal("1.25") * move.weight
    if move.service == "storage":
        return 8 * move.volume
    return 85 * move.hours


def _if(applies: bool, amount: Decimal | int) -> Decimal | None:
    return Decimal(amount) if applies else None


def _share(applies: bool, price: Decimal, percent: int) -> Decimal | None:
    return price * percent / 100 if applies else None


L: tuple[Service, ...] = ("local",)
D: tuple[Service, ...] = ("long_distance",)
LD = L + D
RULES = (
    Rule(1, "Local move", L, lambda move, price: Decimal(150)),
    Rule(2, "Larger crew", LD, lambda move, price: _if(move.crew > 2, 75 * (move.crew - 2) * move.hours)),
    Rule(3, "Packing", (*LD, "packing_only"), lambda move, price: _if(move.packing, 85)),
    Rule(4, "Assembly", LD, lambda move, price: _if(move.assembly, 150)),
    Rule(5, "Long distance", D, lambda move, price: _if(move.distance > 50, Decimal("1.25") * move.weight)),
    Rule(10, "Heavy load", LD, lambda move, price: _share(move.weight > 8000, price, 15)),
    Rule(11, "Large volume", LD, lambda move, price: _share(move.volume > 1500, price, 10)),
    Rule(12, "Far away", D, lambda move, price: _share(move.distance > 200, price, 8)),
    Rule(20, "Piano", LD, lambda move, price: _if(move.piano, 350)),
    Rule(21, "Antiques", LD, lambda move, price: _if(move.antiques, 200)),
    Rule(22, "Fragile items", LD, lambda move, price: _if(move.fragile > 5, 25 * (move.fragile - 5))),
    Rule(30, "Weekend", LD, lambda move, price: _share(move.weekend, price, 10)),
    Rule(31, "Peak season", LD, lambda move, price: _share(move.peak, price, 15)),
    Rule(50, "Minimum", L, lambda move, price: max(Decimal(0), MINIMUM - price)),
)
"""By priority. The minimum is listed even where it adds nothing."""


def price(move: Move) -> Price:
    running = first = cents(base(move))
    items: list[Item] = []
    for rule in RULES:
        if move.service not in rule.services:
            continue
        impact = rule.impact(move, running)
        if impact is not None:
            impact = cents(impact)
            running += impact
            items.append(Item(str(rule.priority), rule.name, impact, running))
    for where, end in (("pickup", move.pickup), ("delivery", move.delivery)):
        for rule_id, name, after in _handicaps(end):
            before, running = running, cents(after(running))
            items.append(Item(f"{where}.{rule_id}", f"{name} at {where}", running - before, running))
    return Price(first, running, tuple(items), move.hash)


def _handicaps(end: End) -> Iterator[tuple[str, str, Callable[[Decimal], Decimal]]]:
    if end.stairs and not end.elevator:
        yield "stairs", "Stairs", lambda price: price + 75 * end.stairs
    if end.longCarry:
        yield "longCarry", "Long carry", lambda price: price + 125
    if end.access == "extreme":
        yield "access", "Extreme access", lambda price: price * Decimal("1.25")
    if end.parkingFeet > 50:
        yield "parking", "Far parking", lambda price: price + 100
    if end.narrowHallways:
        yield "hallways", "Narrow hallways", lambda price: price * Decimal("1.15")


def default_crew(volume: Decimal) -> int:
    return 2 if volume < 800 else 3 if volume < 1500 else 4


def trucks(volume: Decimal) -> int:
    return max(1, ceil(volume / 1500))


def default_hours(volume: Decimal, crew: int) -> int:
    return max(1, ceil(volume / (50 * crew)))
