"""`simplepro-proxy diff`: what differs between two policies, in words, defaults filled in."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from pydantic import BaseModel, SecretStr

from proxy.policy.model import Policy

Path_ = tuple[str, ...]
RATES = ("limit", "rate", "strikes")
LONGEST = 240
KINDS = {"clusters": "cluster", "policies": "policy", "routes": "route"}


def differences(old: Policy, new: Policy) -> list[str]:
    """A line each; a secret is said to differ and never shown. Routes are told in the order of the new file, and so is
    a changed order, since the first that matches wins."""
    lines = [f"{_where(path)}: {words}" for path, words in _values((), old, new)]
    both = [name for name in old.routes if name in new.routes]
    order = [name for name in new.routes if name in old.routes]
    if both != order:
        lines.append(f"routes: another order, {', '.join(order)}; the first that matches wins")
    return lines


def _where(path: Path_) -> str:
    if len(path) > 1 and path[0] in KINDS:
        rest = ".".join(path[2:])
        return f"{KINDS[path[0]]} {path[1]}{': ' + rest if rest else ''}"
    return ".".join(path)


def _values(path: Path_, old: object, new: object) -> Iterator[tuple[Path_, str]]:
    if isinstance(old, BaseModel) and isinstance(new, BaseModel) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            yield from _values((*path, field.alias or name), getattr(old, name), getattr(new, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(one for one in new if one not in old)]:
            below = (*path, str(name))
            if name not in new:
                yield below, f"removed (was {_shown(old[name])})"
            elif name not in old:
                yield below, f"added: {_shown(new[name])}"
            else:
                yield from _values(below, old[name], new[name])
    elif old != new:
        if path[-1] in RATES:
            old, new = _rates(old), _rates(new)
        yield path, _changed(old, new)


def _rates(value: object) -> object:
    """As 100/15m, where it is such a list of amounts and milliseconds."""
    if not isinstance(value, list | tuple) or not value:
        return value
    pairs = [value] if isinstance(value[0], int) else value
    return ", ".join(f"{amount}/{_span(window)}" for amount, window in pairs)


def _span(milliseconds: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def _changed(old: object, new: object) -> str:
    if isinstance(old, SecretStr) or isinstance(new, SecretStr):
        return "another secret" if old is not None and new is not None else "added" if old is None else "removed"
    if isinstance(old, list) and isinstance(new, list):
        gone = [_shown(one) for one in old if one not in new]
        more = [_shown(one) for one in new if one not in old]
        parts = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(more)}"] * bool(more)
        return "; ".join(parts) or f"another order: {_shown(new)}"
    if old is None:
        return f"added: {_shown(new)}"
    if new is None:
        return f"removed (was {_shown(old)})"
    if isinstance(old, bool) or not isinstance(old, int | float) or not isinstance(new, int | float):
        return f"{_shown(old)} → {_shown(new)}"
    return f"{_shown(old)} → {_shown(new)} ({'more' if new > old else 'less'})"


def _shown(value: object) -> str:
    """As a policy file would have it, without what is the default."""
    if isinstance(value, BaseModel):
        text = orjson.dumps(value.model_dump(mode="json", exclude_unset=True, by_alias=True)).decode()
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return orjson.dumps(value, default=str).decode()
