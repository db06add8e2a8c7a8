"""Named values of a document, as a tree that is walked: JSON Pointers (RFC 6901) in which `*` is any one name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
ANY = "*"
_READ = (str, dict, list)


class Pointers(Generic[T]):
    """What is kept for each pointer holds for the value there and for all below it."""

    __slots__ = ("below", "here", "names")

    def __init__(self, named: Iterable[tuple[str, T]] = ()) -> None:
        self.here: tuple[T, ...] = ()
        self.below: dict[str, Pointers[T]] = {}
        self.names: frozenset[str] = frozenset()
        """All that pointers consist of; ANY where one is for the whole document."""
        names: set[str] = set()
        for pointer, kept in named:
            node = self
            for name in segments(pointer):
                node = node.below.setdefault(name, Pointers())
            node.here += (kept,)
            names |= set(segments(pointer)) or {ANY}
        self.names = frozenset(names)

    def at(self, name: str) -> Iterator[Pointers[T]]:
        for key in (name, ANY) if name != ANY else (ANY,):
            if key in self.below:
                yield self.below[key]


State = tuple[tuple[Pointers[T], ...], tuple[T, ...]]
"""The nodes that a value's pointer has reached, and what holds for it."""


def begin(root: Pointers[T]) -> State[T]:
    return (root,), root.here


def step(state: State[T], name: str) -> State[T]:
    nodes, held = state
    if not nodes:
        return state
    reached = tuple(below for node in nodes for below in node.at(name))
    for node in reached:
        held += node.here
    return reached, held


def segments(pointer: str) -> list[str]:
    """Of `/a~1b/*`; the empty pointer is the whole document."""
    return [one.replace("~1", "/").replace("~0", "~") for one in pointer.split("/")[1:]]


def values(value: Any, root: Pointers[T]) -> Iterator[tuple[Any, tuple[T, ...]]]:
    """Texts and objects that something holds for, without recursion over the document."""
    stack = [(value, begin(root))]
    while stack:
        one, state = stack.pop()
        nodes, held = state
        if held and isinstance(one, str | dict):
            yield one, held
        if not nodes and not held:
            continue
        if isinstance(one, dict):
            members = one.items() if held else _named(one, nodes)
            stack += [(below, step(state, name)) for name, below in members if isinstance(below, _READ)]
        elif isinstance(one, list):
            stack += [(below, step(state, str(at))) for at, below in enumerate(one) if isinstance(below, _READ)]


def _named(found: dict[str, Any], nodes: tuple[Pointers[T], ...]) -> Iterable[tuple[str, Any]]:
    """Members that a pointer may go on to; the names are few, the members may be many."""
    if any(ANY in node.below for node in nodes):
        return found.items()
    return [(name, found[name]) for name in {name for node in nodes for name in node.below} if name in found]
