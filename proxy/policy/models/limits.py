"""Limits and bans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator

from proxy.policy.models.base import STATUS_OR_WORD, Keys, MethodName, Model, Networks, Rates, RuleModel
from proxy.policy.rates import rates
from proxy.policy.values import Duration, Size, Span


def one_rate(value: object) -> tuple[int, int]:
    found = rates(value)
    if len(found) != 1:
        raise ValueError(f'"{value}" are several rates, and one is wanted: 10/1m')
    return found[0]


class BanModel(Model):
    """How long: `from` the first time, twice as long each time that is still remembered, `to` at most."""

    model_config = ConfigDict(populate_by_name=True)

    first: Annotated[Span, Field(alias="from")] = 60.0
    to: Span = 86_400.0
    memory: Duration = 86_400.0


class BansModel(RuleModel):
    """Addresses that were refused more than `strikes` allow, that scan, or that ask for a honeypot are kept out.

    `count` names reasons of refusals, and statuses of the application's answers.
    """

    strikes: Annotated[tuple[int, int], BeforeValidator(one_rate), WithJsonSchema({"type": "string"})] = (20, 60_000)
    count: list[Annotated[str, BeforeValidator(str), Field(pattern=r"^([a-z-]{3,40}|[45]\d\d)$"), STATUS_OR_WORD]] = [
        "rate-limited", "unauthenticated", "forbidden", "malformed-request", "ambiguous-target", "no-route",
        "401", "403", "404",
    ]  # fmt: skip
    ban: BanModel = BanModel()
    scanners: bool = True
    honeypots: list[str] = ["/.env", "/.git/config", "/wp-login.php", "/phpmyadmin/", "/.aws/credentials"]
    allow: Networks = []


class TiersModel(Model):
    """Rates by the value of a claim of a verified token; others have the rule's own."""

    claim: str
    limits: dict[str, Rates]


class CostModel(Model):
    """What a request comes to, known once its answer is there; until then `reserve` units are held.

    `header` is a field of the upstream's answer that says it; `body` is so many bytes of the request's body a unit.
    """

    header: Annotated[str, Field(pattern=r"^([A-Za-z0-9-]{1,60})?$")] = ""
    body: Annotated[Size, Field(ge=1)] | None = None
    reserve: Annotated[int, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _one(self) -> CostModel:
        if bool(self.header) == (self.body is not None):
            raise ValueError("a cost is told by a header of the answer or by the body's size. Write one of them")
        return self


class ExemptModel(Model):
    """Whom a limit does not count: by client address, by user, or by a claim's value."""

    ip: Networks = []
    users: list[str] = []
    claims: dict[str, list[str]] = {}


class LimitMatchModel(Model):
    """Which of its routes' requests a limit counts; all of them where it says nothing."""

    prefixes: list[str] = []
    headers: dict[str, str | None] = {}


def networks_alone(value: object) -> object:
    return {"ip": value} if isinstance(value, list) else value


Cost = Annotated[int, Field(ge=0, le=1000)]


def _kind_of_cost(value: object) -> str:
    if isinstance(value, CostModel) or (
        isinstance(value, dict) and not value.keys().isdisjoint(CostModel.model_fields)
    ):
        return "told"
    return "methods" if isinstance(value, dict) else "units"


Costs = Annotated[
    Annotated[Cost, Tag("units")]
    | Annotated[CostModel, Tag("told")]
    | Annotated[dict[MethodName | Literal["default"], Cost], Tag("methods")],
    Discriminator(_kind_of_cost),
]


class LimitModel(RuleModel):
    """So many requests in so much time, for each value of `key`; or so many at once (`concurrent`)."""

    limit: Rates | None = None
    concurrent: Annotated[int, Field(ge=1)] | None = None
    strategy: Literal["fixed-window", "moving-window", "sliding-window-counter", "token-bucket"] = (
        "sliding-window-counter"
    )
    key: Keys = ["ip"]
    cost: Costs = 1
    count: Literal["all", "failures", "errors", "misses", "uncached"] = "all"
    lease: Annotated[Duration, Field(ge=0.1)] = 60.0
    methods: list[MethodName] = []
    match: LimitMatchModel = LimitMatchModel()
    exempt: Annotated[ExemptModel, BeforeValidator(networks_alone), WithJsonSchema({"type": ["array", "object"]})] = (
        ExemptModel()
    )
    tiers: TiersModel | None = None
    trial: Rates | None = None
    on_store_failure: Literal["local", "open", "closed"] = "local"

    @model_validator(mode="after")
    def _one_kind(self) -> LimitModel:
        if (self.limit is None) == (self.concurrent is None):
            raise ValueError("a limit has either a rate or a number at once. Write limit: 100/15m, or concurrent: 10")
        if self.concurrent is not None and (self.count != "all" or self.tiers or self.trial):
            raise ValueError("count, tiers and trial go with limit, not with concurrent")
        tiers = self.tiers.limits.values() if self.tiers else ()
        every = [rate for some in (self.limit, self.trial, *tiers) for rate in some or ()]
        if self.strategy == "moving-window" and any(amount > 1000 for amount, _ in every):
            raise ValueError("a moving window keeps every request's time: 1000 at most. Take sliding-window-counter")
        if (self.count != "all" or self.concurrent) and self.cost != 1:
            raise ValueError("what is counted by its answer, or at once, costs 1")
        return self
