"""Which crew suits a job best: skills 30, availability 20, proximity 20, rating 15, workload 10, preference 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """`jobs` are those of that day, `miles` the way to the job (None where it is not known), `rating` 0 to 5."""

    member: str
    skills: frozenset[str]
    available: bool
    jobs: int
    miles: float | None = None
    rating: float = 3.0
    preferred: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    member: str
    total: float
    parts: dict[str, float]


def score(candidate: Candidate, required: Sequence[str]) -> Score:
    wanted = {skill.casefold() for skill in required}
    known = len(wanted & candidate.skills) / len(wanted) if wanted else 1.0
    parts = {
        "skills": round(30 * known, 2),
        "availability": 20.0 if candidate.available else 0.0,
        "proximity": float(_proximity(candidate.miles)),
        "rating": round(15 * max(0.0, min(5.0, candidate.rating)) / 5, 2),
        "workload": max(0.0, 10.0 - 5.0 * candidate.jobs),
        "preference": 5.0 if candidate.preferred else 0.0,
    }
    return Score(candidate.member, round(sum(parts.values()), 2), parts)


def _proximity(miles: float | None) -> int:
    if miles is None:
        return 5
    return 20 if miles < 10 else 15 if miles < 25 else 10 if miles < 50 else 5


def choose(candidates: Sequence[Candidate], required: Sequence[str], size: int) -> list[Score]:
    """The best who are available, best first; ties by name, so that the same question has the same answer."""
    able = [score(one, required) for one in candidates if one.available]
    return sorted(able, key=lambda one: (-one.total, one.member))[:size]
