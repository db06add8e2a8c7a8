"""Routes: what they match, and what stands in for the upstream."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from proxy.policy.models.base import STATUS_OR_WORD, MethodName, Model, Name
from proxy.policy.models.headers import HeaderName, HostPattern
from proxy.policy.models.limits import LimitModel
from proxy.policy.values import Duration, Size, Span


class RouteTimeouts(Model):
    """`per_try` runs from the request's end to the answer's head, `request` over the whole exchange.

    `asked_in` is the field in which a client may ask for a shorter one, `told_in` that in which the upstream is told
    what is left; both in milliseconds.
    """

    request: Duration = 3600.0
    per_try: Duration = 15.0
    stream_idle: Duration = 300.0
    websocket_idle: Duration = 3600.0
    asked_in: HeaderName = "x-request-timeout"
    told_in: HeaderName = "x-request-deadline"


ROUTE_PATH = re.compile(
    r"/|(/(\{[A-Za-z_][A-Za-z0-9_]*\}|(?!\.{1,2}(/|$|;))([A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!2F|2E|5C)[0-9A-F]{2})+))+/?"
)


class MatchModel(Model):
    """`openapi` names a document: each of its operations is a route of its own, with `base` before its path."""

    path: str | None = None
    prefix: str | None = None
    openapi: str | None = None
    base: str | None = None
    hosts: list[HostPattern] = []
    methods: list[MethodName] = []
    headers: dict[HeaderName, str | None] = {}

    @model_validator(mode="after")
    def _one_of(self) -> MatchModel:
        if [self.path, self.prefix, self.openapi].count(None) != 2:
            raise ValueError("a route matches a path, a prefix or an openapi document. Write one of them: {prefix: /}")
        if self.base is not None and (self.openapi is None or not re.fullmatch(r"(/[^/{}?#]+)*/?", self.base)):
            raise ValueError('"base" is what stands before the paths of an openapi document: {openapi: …, base: /api}')
        if self.openapi is not None:
            return self
        where = self.path if self.path is not None else self.prefix
        if not str(where).startswith("/"):
            raise ValueError(f'"{where}" does not begin with a slash. Write /{where}')
        if not ROUTE_PATH.fullmatch(str(where)):
            raise ValueError(
                f'"{where}" can match nothing: requests come in canonical form. Write no empty or dot segment, no '
                "escape of what needs none, and {name} for a whole segment"
            )
        return self


class StaleModel(Model):
    """Answers kept for `longest`, each up to `max_body`, together up to `size`."""

    longest: Span = 300.0
    max_body: Size = 64 * 1024
    size: Size = 4 * 1024 * 1024


class StaticAnswerModel(Model):
    status: Annotated[int, Field(ge=200, le=599)] = 503
    media_type: Annotated[str, Field(pattern=r"^[a-z0-9.+-]+/[a-z0-9.+-]+(; charset=[a-z0-9-]+)?$")] = (
        "text/plain; charset=utf-8"
    )
    body: str


class FallbackModel(Model):
    """What stands in for the upstream where it has nothing good: another cluster, an earlier answer, a fixed one."""

    on: list[Annotated[str, BeforeValidator(str), Field(pattern=r"^([a-z-]{3,40}|5\d\d)$"), STATUS_OR_WORD]] = [
        "breaker-open", "overloaded", "upstream-unavailable", "upstream-reset", "upstream-timeout", "upstream-busy",
        "502", "503", "504",
    ]  # fmt: skip
    to: str | None = None
    stale: StaleModel | None = None
    answer: StaticAnswerModel | None = None

    @model_validator(mode="after")
    def _some(self) -> FallbackModel:
        if self.to is None and self.stale is None and self.answer is None:
            raise ValueError("a fallback needs something to fall back to. Give to, stale or answer")
        return self


class RouteModel(Model):
    match: MatchModel
    to: str
    use: list[str] | None = None
    timeouts: RouteTimeouts = RouteTimeouts()
    limits: dict[Name, LimitModel] = {}
    max_body: Size | None = None
    max_buffered: Size = 1024 * 1024
    websocket: bool = True
    priority: Literal["critical", "high", "normal", "low"] = "normal"
    fallback: FallbackModel | None = None
