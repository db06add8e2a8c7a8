"""What clients write about estimates, and how it becomes a Move."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from upstream_app.customers.model import Address, Written
from upstream_app.estimates.pricing import Access, End, Move, Service, default_crew, default_hours
from upstream_app.web.days import Day
from upstream_app.web.lists import Identity, Page

State = Literal["draft", "sent", "viewed", "accepted", "rejected", "expired", "revised"]
TRANSITIONS: dict[State, frozenset[State]] = {
    "draft": frozenset({"sent", "revised"}),
    "sent": frozenset({"viewed", "accepted", "rejected", "expired", "revised"}),
    "viewed": frozenset({"accepted", "rejected", "expired", "revised"}),
    "accepted": frozenset(),
    "rejected": frozenset({"revised"}),
    "expired": frozenset({"revised"}),
    "revised": frozenset({"sent"}),
}
LOCAL_MILES = 50
LONG_CARRY_FEET = 75
ELEVATOR_BELOW = 10
"""The original takes fewer stairs than this to mean that there is an elevator, where nothing is said of it."""
Count = Annotated[int, Field(ge=0, le=500)]
Amount = Annotated[Decimal, Field(ge=0, max_digits=9, decimal_places=2)]


def _not_past(value: date) -> date:
    if value < datetime.now(UTC).date():
        raise ValueError("is in the past")
    return value


MoveDate = Annotated[Day, AfterValidator(_not_past)]
VALID_DAYS = 30
"""How long a price is good, from the day on which it was calculated."""


def valid_until() -> str:
    return (datetime.now(UTC).date() + timedelta(days=VALID_DAYS)).isoformat()


class Place(Written):
    address: Address | None = None
    stairs: Annotated[int, Field(ge=0, le=20)] = 0
    elevator: bool | None = None
    carryFeet: Count = 0
    access: Access = "easy"
    parkingFeet: Count = 0
    narrowHallways: bool = False

    def end(self) -> End:
        elevator = self.stairs < ELEVATOR_BELOW if self.elevator is None else self.elevator
        return End(
            self.stairs, elevator, self.carryFeet > LONG_CARRY_FEET, self.access, self.parkingFeet, self.narrowHallways
        )


class MoveDetails(Written):
    """`crew` and `hours` follow from the volume where they are not given; weekend and season from the date."""

    service: Service
    moveDate: MoveDate
    weight: Annotated[Decimal, Field(ge=0, le=50_000, decimal_places=2)] = Decimal(0)
    volume: Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=2)] = Decimal(0)
    distance: Annotated[Decimal, Field(ge=0, le=5_000, decimal_places=2)] = Decimal(25)
    crew: Annotated[int, Field(ge=1, le=20)] | None = None
    hours: Annotated[Decimal, Field(gt=0, le=200, decimal_places=2)] | None = None
    packing: bool = False
    assembly: bool = False
    piano: bool = False
    antiques: bool = False
    fragile: Count = 0
    pickup: Place = Place()
    delivery: Place = Place()

    @model_validator(mode="after")
    def _fits(self) -> MoveDetails:
        if self.service == "local" and self.distance > LOCAL_MILES:
            raise ValueError(f"a local move is at most {LOCAL_MILES} miles; take long_distance")
        if self.service == "long_distance" and not self.weight:
            raise ValueError("a long-distance move is priced by weight")
        if self.service == "storage" and not self.volume:
            raise ValueError("storage is priced by volume")
        return self

    def move(self) -> Move:
        crew = self.crew or default_crew(self.volume)
        hours = self.hours or Decimal(default_hours(self.volume, crew) if self.volume else 2 * crew)
        return Move(
            self.service, crew, hours, self.weight, self.volume, self.distance,
            packing=self.packing, assembly=self.assembly, piano=self.piano, antiques=self.antiques,
            fragile=self.fragile, weekend=self.moveDate.weekday() >= 5, peak=5 <= self.moveDate.month <= 9,
            pickup=self.pickup.end(), delivery=self.delivery.end(),
        )  # fmt: skip


class NewEstimate(MoveDetails):
    customerId: Identity
    opportunityId: Identity | None = None
    notes: Annotated[str, StringConstraints(max_length=2000)] = ""


class StateChange(Written):
    """An estimate is revised by calculating it anew, and accepted as long as it is good."""

    status: Literal["sent", "viewed", "accepted", "rejected", "expired"]
    reason: Annotated[str, StringConstraints(max_length=500)] = ""


class EstimateQuery(Page):
    status: State | None = None
    customerId: Identity | None = None
    opportunityId: Identity | None = None


class Conversion(Written):
    """The job that an accepted estimate becomes."""

    scheduledDate: MoveDate | None = None
    startTime: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "08:00"
