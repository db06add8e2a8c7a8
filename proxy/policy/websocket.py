"""A policy's `websocket` to the objects that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs

from proxy.filter import Mode, OnVerdict, Rule
from proxy.filters.throttle import Usage
from proxy.policy.inspect import judge_of, sanitizer_of
from proxy.policy.limits import limit_of
from proxy.policy.models.websocket import MessageRuleModel, WebSocketModel
from proxy.throttle.charge import Limiter
from proxy.websocket.messages import Message
from proxy.websocket.rules import Check, Inspected, Json, MessageRule, Rate, Sanitized, Schemas, Size, Types, type_of
from proxy.websocket.terms import UNBOUNDED, SocketTerms


def terms_of(
    name: str, model: WebSocketModel, on_verdict: OnVerdict, limiter: Limiter, usage: Mapping[str, Usage], *,
    plain_labels: bool,
) -> SocketTerms:  # fmt: skip
    """`name` is the policy set's that speaks of WebSockets last; rules are called `<name>.websocket.<rule>`."""
    rules = tuple(
        message_rule(f"{name}.websocket.{key}", one, on_verdict, plain_labels=plain_labels)
        for key, one in model.messages.items()
        if one.mode != "off"
    )
    return SocketTerms(
        rules=rules,
        limiter=limiter,
        usage=usage,
        deflate=_deflate_of(model),
        utf8=model.utf8,
        most=model.most,
        ratio=model.ratio,
        heartbeat=model.heartbeat,
        max_age=model.max_age,
        age_jitter=model.age_jitter,
        close_timeout=model.close_timeout,
        slow=model.slow,
        buffer=model.buffer,
        pings=Rate(model.pings, "pings"),
    )


def _deflate_of(model: WebSocketModel) -> Any:
    """Where nothing is said: off where rules read messages, else as the two sides agree."""
    reads = any(one.reads and one.mode != "off" for one in model.messages.values())
    return model.deflate or ("off" if reads else "pass")


def message_rule(name: str, model: MessageRuleModel, on_verdict: OnVerdict, *, plain_labels: bool) -> MessageRule:
    rule = Rule(name, Mode(model.mode), on_verdict)
    checks: list[Check] = []
    if model.max_size is not None or model.max_frame is not None or "fragments" in model.model_fields_set:
        checks.append(Size(model.max_size or UNBOUNDED, model.max_frame or 0, model.fragments))
    if model.sanitize is not None:
        checks.append(Sanitized(rule, sanitizer_of(model.sanitize)))
    if model.json_ is not None:
        checks.append(Json(model.json_.depth, model.json_.keys))
    if model.types is not None:
        allowed = {value: frozenset(types) for value, types in model.types.allow.items()}
        checks.append(Types(model.field, model.types.claim, allowed))
    if model.schemas:
        schemas = {kind: _schema(one) for kind, one in model.schemas.items()}
        checks.append(Schemas(model.field, schemas, others=model.other_types == "pass"))
    if model.inspect is not None:
        checks.append(Inspected(judge_of(model.inspect)))
    if model.rate is not None:
        checks.append(Rate(model.rate, "messages", _cost(model.field, model.costs)))
    if model.volume is not None:
        checks.append(Rate([model.volume], "bytes", lambda message: message.size))
    limit = None
    if model.limit is not None:
        limit = limit_of(
            name, model.limit.model_copy(update={"mode": model.mode}), on_verdict, plain_labels=plain_labels
        )
    return MessageRule(
        rule,
        model.on_violation,
        tuple(checks),
        client=model.direction != "upstream",
        upstream=model.direction != "client",
        limit=limit,
        costs=model.costs,
        field=model.field,
    )


def _cost(field: str, costs: Mapping[str, int]) -> Callable[[Message], int] | None:
    if not costs:
        return None
    return lambda message: costs.get(type_of(message, field), costs.get("*", 1))


def _schema(schema: dict[str, Any]) -> Callable[[Any], bool]:
    return jsonschema_rs.validator_for(schema).is_valid
