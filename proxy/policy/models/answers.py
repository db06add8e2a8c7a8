"""What the upstream's answers may say, and how its cookies are set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.policy.models.base import ModeName, RuleModel
from proxy.policy.values import Size

CookieName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]


class LeaksModel(RuleModel):
    """Secrets and traces of failures in the first `max_body` bytes of an answer: in shadow they are told, in enforce
    the answer waits until it is judged, and 502 takes its place."""

    mode: ModeName = "shadow"
    kinds: Annotated[list[Literal["secrets", "traces"]], Field(min_length=1)] = ["secrets", "traces"]
    max_body: Annotated[Size, Field(ge=256, le=1024 * 1024)] = 64 * 1024


class ReflectionModel(RuleModel):
    """Markup of a query's parameters that an HTML page repeats as it came. `escape` makes text of it where the whole
    page is within `max_body` and not compressed; else, and with `refuse`, 502 takes its place."""

    mode: ModeName = "shadow"
    do: Literal["refuse", "escape"] = "refuse"
    max_body: Annotated[Size, Field(ge=256, le=1024 * 1024)] = 256 * 1024


class CookiesModel(RuleModel):
    """Attributes that the application's cookies lack. `scripted` names those that scripts may read; `domains` what a
    Domain may be beside the host that was asked and what lies above it."""

    secure: Literal["always", "https", "never"] = "always"
    http_only: bool = True
    scripted: list[CookieName] = []
    same_site: Literal["Strict", "Lax", "keep"] = "Lax"
    domains: list[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]] = []
