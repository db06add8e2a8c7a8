"""What clients write about opportunities, and which states follow which."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from upstream_app.customers.model import Text, Written
from upstream_app.web.days import Day
from upstream_app.web.lists import Identity, Page

State = Literal["open", "contacted", "quoted", "negotiating", "won", "lost", "cancelled"]
TRANSITIONS: dict[State, frozenset[State]] = {
    "open": frozenset({"contacted", "quoted", "lost", "cancelled"}),
    "contacted": frozenset({"quoted", "lost", "cancelled"}),
    "quoted": frozenset({"negotiating", "won", "lost", "cancelled"}),
    "negotiating": frozenset({"quoted", "won", "lost", "cancelled"}),
    "won": frozenset(),
    "lost": frozenset({"open"}),
    "cancelled": frozenset({"open"}),
}
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]


class NewOpportunity(Written):
    customerId: Identity
    title: Text
    service: Literal["local", "long_distance", "storage", "packing_only"] = "local"
    expectedValue: Annotated[Decimal, Field(ge=0, max_digits=9, decimal_places=2)] = Decimal(0)
    moveDate: Day | None = None
    notes: Note = ""


class OpportunityChanges(Written):
    title: Text | None = None
    expectedValue: Annotated[Decimal, Field(ge=0, max_digits=9, decimal_places=2)] | None = None
    moveDate: Day | None = None
    notes: Note | None = None

    @model_validator(mode="after")
    def _some(self) -> OpportunityChanges:
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("give what changes, and no nulls")
        return self


class StateChange(Written):
    status: State
    reason: Note = ""


class OpportunityQuery(Page):
    status: State | None = None
    customerId: Identity | None = None
