"""What parameters usually hold, learned from requests that passed.

What departs from it is more suspect; where texts are usual, what any text may hold is less.

A profile alone refuses nothing: it weighs what else was found.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from proxy.inspect.parts import Part

KINDS = ("number", "word", "line", "text")
"""Each takes in those before it: a word is what names, ids, dates and addresses of mail are made of; a line has nothing
that could end a string or begin markup or a command."""
TEXT = KINDS.index("text")
LEAST = 20
"""Values of which a kind is learned."""
MOST_PLACES = 4000
MOST_LETTERS = 80
MOST_PARTS, MOST_NEW = 300, 40
"""Of one request: values that are looked at, and places that it may add."""
OLDEST = 16
RARE = 0.02
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_WORD = re.compile(r"[\w.:@+~-]{1,128}")
_LINE = re.compile(r"[^'\"`<>;|&$(){}\[\]\\#=*\x00-\x1f]{0,300}")
_INDEX = re.compile(r"/\d+(?=/|$)")
_LEARNED = frozenset({"query", "cookie", "form", "json", "multipart"})
"""Places that are parameters."""

Usual = Mapping[str, int]
"""By place and pointer (`query page`, `json /items/*/name`), the kind's index."""
NOTHING: Usual = {}


def kind_of(value: str) -> int:
    if _NUMBER.fullmatch(value):
        return 0
    if _WORD.fullmatch(value):
        return 1
    return 2 if _LINE.fullmatch(value) else TEXT


def where(part: Part) -> str:
    pointer = part.pointer
    return f"{part.place} {_INDEX.sub('/*', pointer) if '/' in pointer else pointer}"


class Lessons:
    """Counts the values of each route's parameters by kind. Past `most` places one of the rarest goes, of those that
    were not seen for longest; one request brings MOST_NEW new ones, so that none can push out what was learned."""

    def __init__(self, most: int = MOST_PLACES) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

    def learn(self, route: str, parts: Iterable[Part]) -> None:
        seen, new = self._seen, MOST_NEW
        for part in islice(parts, MOST_PARTS):
            if part.key or part.place not in _LEARNED or len(part.pointer) > MOST_LETTERS or not part.value:
                continue
            at = (route, where(part))
            counts = seen.get(at)
            if counts is None:
                if not new:
                    continue
                new -= 1
                if len(seen) >= self._most:
                    del seen[min(islice(seen, OLDEST), key=lambda one: sum(seen[one]))]
                counts = seen[at] = [0] * len(KINDS)
            counts[kind_of(part.value)] += 1
            seen.move_to_end(at)

    def told(self, least: int = LEAST) -> dict[str, Any]:
        """As a policy's `profile` reads it: what was seen at least so often."""
        routes: dict[str, dict[str, Any]] = {}
        for (route, place), counts in sorted(self._seen.items()):
            if sum(counts) >= least:
                routes.setdefault(route, {})[place] = {"kind": KINDS[usually(counts)], "seen": sum(counts)}
        return {"routes": routes}


def usually(counts: list[int]) -> int:
    """The widest kind that is no exception: wider ones are RARE of all together."""
    total, wider = sum(counts), 0
    for kind in range(TEXT, 0, -1):
        wider += counts[kind]
        if wider > RARE * total:
            return kind
    return 0


def merged(profiles: Iterable[Mapping[str, Any]], least: int = LEAST) -> dict[str, Any]:
    """What several sidecars or workers learned, as one would have."""
    routes: dict[str, dict[str, Any]] = {}
    for profile in profiles:
        for route, places in profile["routes"].items():
            for place, one in places.items():
                before = routes.setdefault(route, {}).get(place, {"kind": KINDS[0], "seen": 0})
                widest = max(before["kind"], one["kind"], key=KINDS.index)
                routes[route][place] = {"kind": widest, "seen": before["seen"] + one["seen"]}
    kept = {route: {at: one for at, one in places.items() if one["seen"] >= least} for route, places in routes.items()}
    return {"routes": {route: places for route, places in kept.items() if places}}


def usual(profile: Any) -> dict[str, Usual]:
    """By route. Raises ValueError that says what of it is none."""
    routes = profile.get("routes") if isinstance(profile, dict) else None
    if not isinstance(routes, dict):
        raise ValueError("no profile: it needs routes, as GET /profile tells them")
    made: dict[str, Usual] = {}
    for route, places in routes.items():
        if not isinstance(places, dict):
            raise ValueError(f"routes.{route}: places and their kinds are expected here")
        kinds: dict[str, int] = {}
        for place, one in places.items():
            kind = one.get("kind") if isinstance(one, dict) else one
            if kind not in KINDS:
                raise ValueError(f'routes.{route}."{place}": a kind is one of {", ".join(KINDS)}')
            kinds[str(place)] = KINDS.index(kind)
        made[str(route)] = kinds
    return made
