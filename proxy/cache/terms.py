"""What a policy says of one route's cache, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.cache.freshness import RFC, Terms

NAME = b"simplepro-proxy"
"""Of this cache, in Cache-Status (RFC 9211)."""


CREDENTIALS = frozenset({b"x-api-key", b"api-key", b"x-auth-token", b"proxy-authorization"})
"""Fields that an application may know somebody by though the proxy does not."""


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What of a request beside method, host and path makes its key.

    `parameters` None is the whole query, `cookies` None means that requests with cookies are passed by.
    """

    parameters: frozenset[bytes] | None = None
    headers: tuple[bytes, ...] = ()
    cookies: tuple[bytes, ...] | None = None
    user: bool = False
    claims: tuple[str, ...] = ()
    api_key: bytes = b""
    """The field that the proxy itself knows API keys by."""
    credentials: frozenset[bytes] = CREDENTIALS


@dataclass(frozen=True, slots=True)
class EdgeTerms:
    """`strips`: what is in no key does not reach the upstream. `wait` is seconds for another's answer."""

    key: KeyTerms = KeyTerms()
    fresh: Terms = RFC
    strips: bool = True
    honours: bool = True
    """Whether a client's Cache-Control is heard."""
    wait: float = 5.0
    max_body: int = 1024 * 1024


@dataclass(slots=True)
class EdgeStats:
    """Of one route: requests by what they came to, stores, and how long answers took that were kept."""

    results: dict[str, int] = field(default_factory=lambda: {"hit": 0, "miss": 0})
    bytes_served: int = 0
    stored: int = 0
    unkept: dict[str, int] = field(default_factory=lambda: {"no-store": 0, "private": 0, "too large": 0})
    wrong: int = 0
    """In shadow: answers that differ from what would have been served."""
    same: int = 0
    fill_seconds: float = 0.0

    def count(self, result: str) -> None:
        self.results[result] = self.results.get(result, 0) + 1
