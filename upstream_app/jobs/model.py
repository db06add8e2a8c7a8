"""What clients write about jobs, and which states follow which."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from upstream_app.customers.model import Address, Written
from upstream_app.web.days import Day
from upstream_app.web.lists import Identity, Page

Service = Literal["local", "long_distance", "storage", "packing_only"]
State = Literal["draft", "scheduled", "confirmed", "in_progress", "completed", "cancelled", "on_hold"]
TRANSITIONS: dict[State, frozenset[State]] = {
    "draft": frozenset({"scheduled", "cancelled"}),
    "scheduled": frozenset({"confirmed", "in_progress", "on_hold", "cancelled"}),
    "confirmed": frozenset({"in_progress", "scheduled", "on_hold", "cancelled"}),
    "in_progress": frozenset({"completed", "on_hold"}),
    "on_hold": frozenset({"scheduled", "in_progress", "cancelled"}),
    "completed": frozenset(),
    "cancelled": frozenset(),
}
OVER = ("completed", "cancelled")
IDLE = ("draft", *OVER)
"""States in which a job takes nobody's time."""
Priority = Literal["low", "normal", "high", "urgent"]
CrewState = Literal["assigned", "confirmed", "checked_in", "checked_out", "absent"]
CREW_TRANSITIONS: dict[CrewState, frozenset[CrewState]] = {
    "assigned": frozenset({"confirmed", "checked_in", "absent"}),
    "confirmed": frozenset({"checked_in", "absent"}),
    "checked_in": frozenset({"checked_out"}),
    "checked_out": frozenset(),
    "absent": frozenset({"assigned"}),
}
Milestone = Literal["crew_en_route", "arrived", "loading", "in_transit", "unloading", "finished"]
DEFAULT_HOURS = 4.0
Hours = Annotated[float, Field(gt=0, le=24)]
"""How long its crew is at it."""
Time = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
Skill = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class NewJob(Written):
    customerId: Identity
    service: Service
    scheduledDate: Day
    startTime: Time = "08:00"
    hours: Hours = DEFAULT_HOURS
    priority: Priority = "normal"
    status: Literal["draft", "scheduled"] = "scheduled"
    crewSize: Annotated[int, Field(ge=1, le=20)] = 2
    requiredSkills: Annotated[list[Skill], Field(max_length=20, default_factory=list)]
    pickup: Address | None = None
    delivery: Address | None = None
    description: Annotated[str, StringConstraints(max_length=2000)] = ""


class JobChanges(Written):
    scheduledDate: Day | None = None
    startTime: Time | None = None
    hours: Hours | None = None
    force: bool = False
    """Whether the crew may be at two places at once."""
    priority: Priority | None = None
    crewSize: Annotated[int, Field(ge=1, le=20)] | None = None
    requiredSkills: Annotated[list[Skill], Field(max_length=20)] | None = None
    pickup: Address | None = None
    delivery: Address | None = None
    description: Annotated[str, StringConstraints(max_length=2000)] | None = None

    @model_validator(mode="after")
    def _some(self) -> JobChanges:
        given = self.model_fields_set - {"force"}
        if not given or any(getattr(self, name) is None for name in given):
            raise ValueError("give what changes, and no nulls")
        return self


class StateChange(Written):
    """`force` has a draft's crew be at two places at once when it is scheduled."""

    status: State
    force: bool = False
    reason: Annotated[str, StringConstraints(max_length=500)] = ""


class CrewAssignment(Written):
    """Members, the first of them leading unless it says otherwise; `force` takes who is not free, too."""

    members: Annotated[list[Identity], Field(min_length=1, max_length=20)]
    lead: Identity | None = None
    force: bool = False

    @model_validator(mode="after")
    def _once(self) -> CrewAssignment:
        if len(set(self.members)) != len(self.members):
            raise ValueError("a member is named twice")
        if self.lead is not None and self.lead not in self.members:
            raise ValueError("the lead is none of the members")
        return self


class CrewStateChange(Written):
    status: CrewState


class MilestoneChange(Written):
    done: bool = True


class NewNote(Written):
    text: Note


class JobQuery(Page):
    status: State | None = None
    service: Service | None = None
    customerId: Identity | None = None
    date: Day | None = None
