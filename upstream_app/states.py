"""A document's state changes only along a table of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from upstream_app.web.errors import ApiError

State = TypeVar("State", bound=str)


def move(table: Mapping[State, frozenset[State]], before: State, after: State) -> None:
    """Raises ApiError 409 that says what would be possible."""
    possible = table[before]
    if after not in possible:
        hint = f"possible are {', '.join(sorted(possible))}" if possible else "it is final"
        raise ApiError(409, f"{before} does not become {after}; {hint}", details={"from": before, "to": after})
