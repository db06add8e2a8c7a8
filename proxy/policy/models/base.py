"""What all models of a policy share: strict, frozen, and how a later set adds to an earlier one."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from proxy.policy.rates import rates
from proxy.policy.values import listed, network, one_or_more

Networks = Annotated[
    list[Annotated[IPv4Network | IPv6Network, BeforeValidator(network)]],
    BeforeValidator(listed),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]
ModeName = Literal["off", "shadow", "enforce"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
MethodName = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Rates = Annotated[
    list[tuple[int, int]],
    BeforeValidator(rates),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""Amounts and windows in milliseconds, written as `100/15m` or `10/1s, 50/10s`."""
_KEY = re.compile(
    r"(ip(/([1-9]|[1-9]\d|1[01]\d|12[0-8]))?|user|api-key|certificate|route|method"
    r"|(claim|header|cookie|param|const):[A-Za-z0-9_.-]{1,60})"
)


def _key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError(
            f'"{value}" is no key. Write ip, ip/64 (of 1 to 128), user, api-key, certificate, route, method, or claim:,'
            " header:, cookie:, param:, const: with a name"
        )
    return value


KeyName = Annotated[str, AfterValidator(_key), WithJsonSchema({"type": "string", "pattern": f"^{_KEY.pattern}$"})]
Keys = Annotated[
    list[KeyName],
    BeforeValidator(one_or_more),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
STATUS_OR_WORD = WithJsonSchema({"type": ["integer", "string"]})
"""YAML reads a status as a number."""
_REDIS_URL = re.compile(r"rediss?://(?:[^/@]*@)?(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?(?:/\d{0,3})?")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_ORIGIN = re.compile(r"\*|https?://(?:\*\.)?[A-Za-z0-9.-]+(?::\d{1,5})?|null")


class Model(BaseModel):
    """Models are built with the one that holds them, none alone: 60 ms of the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, defer_build=True)


class KeyPairModel(Model):
    """PEM files; `cert` with its chain."""

    cert: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class RuleModel(Model):
    mode: ModeName = "enforce"

    def with_later(self, later: Self) -> Self:
        """See PolicySet.with_later."""
        changes = {}
        for name in later.model_fields_set:
            there, added = getattr(self, name), getattr(later, name)
            changes[name] = {**there, **added} if isinstance(there, dict) and isinstance(added, dict) else added
        combined = self.model_copy(update=changes)
        combined.check_together()
        return combined

    def check_together(self) -> None:
        """Raise ValueError where fields that are each valid are not so together."""
