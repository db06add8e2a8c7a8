"""One thing that attacks look like, and the places where it means something."""

from __future__ import annotations

from dataclasses import dataclass

SHORT = frozenset({"path", "query", "header", "cookie", "agent"})
"""Places where nobody writes prose or markup."""
WRITTEN = frozenset({"form", "json", "multipart", "message"})


@dataclass(frozen=True, slots=True)
class Signature:
    name: str
    kind: str
    score: int
    pattern: str
    level: int = 1
    places: frozenset[str] | None = None
    soft: bool = False
