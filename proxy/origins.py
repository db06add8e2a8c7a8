"""Sets of web origins (RFC 6454), matched without regular expressions."""

from __future__ import annotations


class Origins:
    """`*`, exact origins, and `https://*.example.com` for any labels in front."""

    __slots__ = ("_any", "_exact", "_suffixes")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._any = "*" in patterns
        self._exact = frozenset(p.lower().encode() for p in patterns if "*" not in p)
        split = [p.lower().encode().split(b"*", 1) for p in patterns if "*" in p and p != "*"]
        self._suffixes = tuple((before, after) for before, after in split)

    def __contains__(self, origin: bytes) -> bool:
        origin = origin.lower()
        if self._any or origin in self._exact:
            return True
        return any(
            origin.startswith(before) and origin.endswith(after) and _labels(origin[len(before) : -len(after)])
            for before, after in self._suffixes
        )


def _labels(middle: bytes) -> bool:
    return bool(middle) and not middle.strip(b"abcdefghijklmnopqrstuvwxyz0123456789-.")
