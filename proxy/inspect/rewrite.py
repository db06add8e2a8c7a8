"""Changes in a JSON document that leave every other byte as it came: order, number text, spacing, escapes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Generic, TypeVar

from proxy.inspect.pointers import Pointers, State, begin, step

T = TypeVar("T")
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"|([{\[])|([}\]])|,|:|[^\s{}\[\],:"]+', re.DOTALL)

TextEdit = Callable[[str, tuple[T, ...]], str]
DropName = Callable[[str, tuple[T, ...]], bool]
Cut = tuple[int, int, bytes]


class _Object(Generic[T]):
    """An object or array that is open. `members` are begin, end and whether it goes, of each member."""

    __slots__ = ("at", "dropping", "held", "is_object", "members", "name", "started", "state")

    def __init__(self, *, is_object: bool, state: State[T] | None, dropping: bool) -> None:
        self.is_object = is_object
        self.state = state
        self.held: tuple[T, ...] = state[1] if state is not None else ()
        self.dropping = dropping
        """Whether it goes with something that it is in."""
        self.name: str | None = None
        self.at = 0
        self.started = 0
        self.members: list[tuple[int, int, bool]] = []


def rewritten(raw: bytes, root: Pointers[T], text: TextEdit[T], drops: DropName[T]) -> bytes:
    """`raw` is a JSON document that a parser took. `text` gives back what a named text is to be, `drops` whether a
    member of a named object goes. One pass, memory by depth and members; a name that stands twice is met twice."""
    cuts: list[Cut] = []
    stack: list[_Object[T]] = []
    plain = raw.isascii()
    for match in _TOKEN.finditer(raw):
        top = stack[-1] if stack else None
        string, opens, closes = match.group(1, 2, 3)
        if string is not None and top is not None and top.is_object and top.name is None:
            top.name = _text(match[0]) if b"\\" in string else string.decode()
            top.started = match.start()
            continue
        if opens:
            state, dropped = _entered(top, root, drops)
            stack.append(_Object(is_object=opens == b"{", state=state, dropping=dropped))
            continue
        if closes:
            done = stack.pop()
            if any(gone for _, _, gone in done.members):
                cuts += _without(done.members)
            _ended(stack[-1] if stack else None, match.end(), drops)
            continue
        if match[0] in (b",", b":"):
            continue
        if string is not None:
            state, dropped = _entered(top, root, drops)
            if state is not None and state[1] and not dropped:
                before = _text(match[0]) if b"\\" in string else string.decode()
                after = text(before, state[1])
                if after != before:
                    cuts.append((match.start(), match.end(), json.dumps(after, ensure_ascii=plain).encode()))
        if top is not None and not top.is_object:
            top.started = match.start()
        _ended(top, match.end(), drops)
    if not cuts:
        return raw
    pieces, at = [], 0
    for start, end, instead in sorted(cuts):
        pieces += [raw[at:start], instead]
        at = end
    return b"".join([*pieces, raw[at:]])


def _entered(top: _Object[T] | None, root: Pointers[T], drops: DropName[T]) -> tuple[State[T] | None, bool]:
    """The state of the value that begins, and whether it goes with its member."""
    if top is None:
        return begin(root), False
    if top.state is None:
        return None, top.dropping
    name = top.name if top.is_object and top.name is not None else str(top.at)
    state = step(top.state, name)
    dropped = top.dropping or (top.is_object and bool(top.held) and drops(name, top.held))
    return (state if state[0] or state[1] else None), dropped


def _ended(top: _Object[T] | None, end: int, drops: DropName[T]) -> None:
    """A member, or an item, is whole."""
    if top is None:
        return
    if not top.is_object:
        top.at += 1
        return
    name, top.name = top.name or "", None
    if top.held and not top.dropping:
        top.members.append((top.started, end, drops(name, top.held)))


def _without(members: list[tuple[int, int, bool]]) -> list[Cut]:
    """With each member that goes, one comma."""
    cuts: list[Cut] = []
    kept = False
    for at, (start, end, gone) in enumerate(members):
        if not gone:
            kept = True
        elif kept:
            cuts.append((members[at - 1][1], end, b""))
        else:
            cuts.append((start, members[at + 1][0] if at + 1 < len(members) else end, b""))
    return cuts


def _text(token: bytes) -> str:
    found = json.loads(token)
    return found if isinstance(found, str) else ""
