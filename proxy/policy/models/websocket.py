"""WebSockets: who may open them, how they live and end, and the rules on their messages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from proxy.policy.models.base import _ORIGIN, Model, Name, Rates, RuleModel
from proxy.policy.models.inspect import JudgeModel
from proxy.policy.models.limits import LimitModel
from proxy.policy.models.sanitize import FieldsModel
from proxy.policy.models.schemas import check_schema
from proxy.policy.values import Duration, Share, Size, listed, seconds, size

_VOLUME = re.compile(r"(\S+)\s*/\s*(\S+)")


def bytes_in_time(value: object) -> object:
    """`1MiB/1s` as bytes and milliseconds."""
    match = _VOLUME.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f'"{value}" is not a volume. Write SIZE/DURATION: 1MiB/1s')
    return size(match[1]), int(seconds(match[2]) * 1000)


class JsonModel(Model):
    """How deep a message nests at most, and how many keys and items it has in all."""

    depth: Annotated[int, Field(ge=1, le=200)] = 20
    keys: Annotated[int, Field(ge=1)] = 1000


class TypesModel(Model):
    """Types of messages that may be sent, by the value of a `claim`; `*` stands for everybody, and for every type."""

    claim: str = "role"
    allow: dict[str, list[str]]


class MessageRuleModel(RuleModel):
    """One rule on messages: all that it names has to hold, else `on_violation` becomes of the message.

    `max_size` is of a message as it comes, `limit` counts over all sidecars by its key, `rate`, `volume` on each
    connection. `field` is where a JSON message says its type, which `types`, `schemas` and `costs` (what one takes of
    rate and limit) go by.
    """

    direction: Literal["client", "upstream", "both"] = "client"
    on_violation: Literal["close", "drop", "error"] = "close"
    max_size: Size | None = None
    max_frame: Size | None = None
    fragments: Annotated[int, Field(ge=1)] = 1024
    rate: Rates | None = None
    volume: Annotated[tuple[int, int], BeforeValidator(bytes_in_time), WithJsonSchema({"type": "string"})] | None = None
    limit: LimitModel | None = None
    field: str = "type"
    json_: Annotated[JsonModel | None, Field(alias="json")] = None
    types: TypesModel | None = None
    schemas: dict[str, dict[str, Any]] = {}
    other_types: Literal["pass", "refuse"] = "refuse"
    costs: dict[str, Annotated[int, Field(ge=0, le=1000)]] = {}
    inspect: JudgeModel | None = None
    sanitize: FieldsModel | None = None

    @property
    def reads(self) -> bool:
        return bool(self.json_ or self.types or self.schemas or self.costs or self.inspect or self.sanitize)

    @model_validator(mode="after")
    def _something(self) -> MessageRuleModel:
        named = (
            self.max_size,
            self.max_frame,
            self.rate,
            self.volume,
            self.limit,
            self.json_,
            self.types,
            self.inspect,
            self.sanitize,
        )
        given = self.schemas or "fragments" in self.model_fields_set
        if not given and not any(one is not None for one in named):
            raise ValueError(
                "this rule asks for nothing. Give max_size, fragments, rate, volume, limit, json, types, schemas, "
                "inspect or sanitize"
            )
        if self.sanitize is not None and any(one.json_ is None for one in self.sanitize.fields_):
            raise ValueError("messages have no parameters. Name fields by json")
        if self.limit is not None and (self.limit.concurrent or self.limit.count != "all" or self.limit.cost != 1):
            raise ValueError("a limit on messages is a rate. Write limit: {limit: 600/1m, key: user}, and costs here")
        for kind, schema in self.schemas.items():
            check_schema(f'the schema of "{kind}"', schema)
        if self.costs and self.rate is None and self.limit is None:
            raise ValueError("costs are taken of rate or limit. Give one")
        return self


class WebSocketModel(RuleModel):
    """`mode` is of the handshake's own rule (origins, subprotocols); messages have rules of their own.

    `deflate: off` takes compression out of the handshake, `inspect` has each message compressed by itself, and reads it
    within `most`, and within `ratio` times what came. `slow` is what happens where a client leaves more than `buffer`
    unread.
    """

    origins: Annotated[list[str], BeforeValidator(listed)] = []
    subprotocols: list[Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]] = []
    deflate: Literal["pass", "off", "inspect"] | None = None
    utf8: bool = True
    most: Size = 1024 * 1024
    ratio: Annotated[int, Field(ge=1, le=2000)] = 200
    pings: Rates = [(20, 1000)]
    heartbeat: Duration = 0.0
    max_age: Duration = 0.0
    age_jitter: Share = 0.1
    close_timeout: Duration = 2.0
    slow: Literal["wait", "drop", "close"] = "wait"
    buffer: Size = 256 * 1024
    messages: dict[Name, MessageRuleModel] = {}

    @model_validator(mode="after")
    def _fits(self) -> WebSocketModel:
        self.check_together()
        return self

    def check_together(self) -> None:
        for origin in self.origins:
            if origin != "self" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f'"{origin}" is no origin. Write self, https://app.example.com or https://*.example.com'
                )
        if self.deflate == "pass" and any(one.reads and one.mode != "off" for one in self.messages.values()):
            raise ValueError("rules that read messages can't read compressed ones. Write deflate: inspect, or off")
