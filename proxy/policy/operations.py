"""A route that matches an OpenAPI document, as the routes that it stands for: one for each operation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pydantic import ValidationError

from proxy.inspect.description import described, slug
from proxy.policy.models.routes import MatchModel, RouteModel
from proxy.policy.models.schemas import read_document


def spread(name: str, model: RouteModel) -> Iterator[tuple[str, MatchModel]]:
    """Names and what they match; the route itself where it names no document. Raises ValueError where the document
    can't be used."""
    match = model.match
    if match.openapi is None:
        yield name, match
        return
    taken: Counter[str] = Counter()
    found = False
    for one in described(read_document(match.openapi), match.base):
        if match.methods and one.method not in match.methods:
            continue
        label = named = slug(one.name)
        while label in taken:
            taken[named] += 1
            label = f"{named}-{taken[named]}"
        taken[label] += 1
        found = True
        yield f"{name}.{label}", match.model_copy(update=_of(one.path, one.method))
    if not found:
        raise ValueError(f"{match.openapi} has no operation that this route could match")


def _of(path: str, method: str) -> dict[str, object]:
    """A parameter takes a whole segment here, by a name of letters, digits and underscores."""
    named = re.sub(
        r"\{([^}]*)\}", lambda found: "{" + re.sub(r"\W", "_", "_" * found[1][:1].isdigit() + found[1]) + "}", path
    )
    try:
        made = MatchModel(path=named)
    except ValidationError:
        raise ValueError(
            f"no route can be made of {path}: a parameter takes a whole segment, and the rest is in canonical form"
        ) from None
    return {"path": made.path, "openapi": None, "base": None, "methods": [method]}
