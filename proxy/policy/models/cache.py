"""The edge cache: the store that routes share, and what of a route's answers is kept for whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.policy.models.base import Model, RuleModel
from proxy.policy.models.headers import HeaderName
from proxy.policy.values import Duration, Size, Span

Word = Annotated[str, Field(pattern=r"^[^\s;,=&?\"]{1,80}$")]


class SecondLevelModel(Model):
    """Answers up to `max_body` are kept in Redis, too, for all sidecars, one of which asks the application for all."""

    max_body: Size = 64 * 1024


class CacheStoreModel(Model):
    """Answers of all routes, `memory` bytes in all; at most `variants` of one key, where answers vary."""

    redis: SecondLevelModel | None = None

    memory: Size = 64 * 1024 * 1024
    variants: Annotated[int, Field(ge=1, le=1000)] = 16


class CacheKeyModel(Model):
    """What makes a key beside host and path. `cookies` null: requests with cookies are passed by."""

    query: Literal["all"] | list[Word] = "all"
    headers: list[HeaderName] = []
    cookies: list[Word] | None = None
    user: bool = False
    claims: list[Word] = []


class CacheModel(RuleModel):
    """Answers to GET are kept as they say themselves (RFC 9111) and served to who has the same key."""

    key: CacheKeyModel = CacheKeyModel()
    unkeyed: Literal["strip", "pass"] = "strip"
    client_control: bool = True
    targets: list[HeaderName] = ["cdn-cache-control"]
    heuristic: Annotated[float, Field(ge=0, le=1)] = 0.0
    negative: dict[Annotated[int, Field(ge=300, le=599)], Span] = {}
    longest: Span = 86400.0
    stale_while_revalidate: Span | None = None
    stale_if_error: Span | None = None
    wait: Duration = 5.0
    max_body: Size = 1024 * 1024
