"""A checked Policy to the objects that run: clusters, chains, routes. All that can be known at load time is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from proxy.addresses import Networks
from proxy.entropy import Entropy
from proxy.filter import Filter, FilterChain, Mode, OnVerdict, Rule
from proxy.filters import ORDER, Cors, Identity, IpAccess, RequestId, RequestLimits, SecurityHeaders, Throttle
from proxy.filters.throttle import Limit
from proxy.policy.helmet import header_set
from proxy.policy.limits import limit_of, tokens_of
from proxy.policy.model import ClusterModel, MatchModel, Policy, PolicySet, RouteModel, RuleModel
from proxy.routing import Matcher, Route, RouteLimits, RouteTable
from proxy.telemetry.stats import RouteStats
from proxy.throttle.charge import Limiter
from proxy.upstream.cluster import Cluster, ClusterSpec
from proxy.upstream.pool import PoolLimits


@dataclass(slots=True)
class Compiled:
    """What a listener runs; `default_chain` answers refusals that meet no route."""

    routes: RouteTable
    clusters: dict[str, Cluster]
    default_chain: FilterChain
    request_id: RequestId
    throttles: tuple[Throttle, ...]


def compile_policy(
    policy: Policy, loop: asyncio.AbstractEventLoop, on_verdict: OnVerdict, limiter: Limiter
) -> Compiled:
    """Raises ValueError where a file that the policy names can't be used."""
    entropy = Entropy()
    request_id = RequestId(entropy)
    identity = _identity(policy, on_verdict)
    throttles: list[Throttle] = []
    clusters = {name: Cluster(_cluster_spec(name, model), loop) for name, model in policy.clusters.items()}

    def chain(used: list[str], more: dict[str, Limit]) -> tuple[FilterChain, tuple[str, ...]]:
        filters, names = _filters(policy, used, on_verdict, entropy)
        limits = _limits_of(policy, used, on_verdict) | more
        if identity is not None:
            filters.append(identity)
        if limits:
            made = Throttle(tuple(limits.values()), limiter, loop, legacy=policy.answers.legacy_headers)
            throttles.append(made)
            filters.append(made)
            names += tuple(
                one.rule.name if one.rule.mode is Mode.ENFORCE else f"{one.rule.name} ({one.rule.mode.value})"
                for one in limits.values()
            )
        filters.sort(key=lambda one: ORDER.index(type(one)))
        return FilterChain((request_id, *filters)), names

    routes = []
    for name, model in policy.routes.items():
        own = {
            key: limit_of(f"{name}.{key}", one, on_verdict) for key, one in model.limits.items() if one.mode != "off"
        }
        made, names = chain(policy.defaults.use if model.use is None else model.use, own)
        routes.append(
            Route(
                name=name,
                matcher=_matcher(model.match),
                chain=made,
                cluster=clusters[model.to],
                limits=_limits(policy, model),
                stats=RouteStats(name),
                websocket=model.websocket,
                rule_names=names,
            )
        )
    return Compiled(RouteTable(routes), clusters, chain(policy.defaults.use, {})[0], request_id, tuple(throttles))


def _identity(policy: Policy, on_verdict: OnVerdict) -> Identity | None:
    if policy.identity is None or policy.identity.jwt.mode == "off":
        return None
    jwt = policy.identity.jwt
    return Identity(Rule("identity.jwt", Mode(jwt.mode), on_verdict), tokens_of(jwt), required=jwt.required)


def _limits_of(policy: Policy, used: list[str], on_verdict: OnVerdict) -> dict[str, Limit]:
    """By their short names: a later set's replaces an earlier one's."""
    found: dict[str, Limit] = {}
    for name in used:
        for key, model in policy.policies[name].limits.items():
            found.pop(key, None)
            if model.mode != "off":
                found[key] = limit_of(f"{name}.{key}", model, on_verdict)
    return found


def _filters(
    policy: Policy, used: list[str], on_verdict: OnVerdict, entropy: Entropy
) -> tuple[list[Filter], tuple[str, ...]]:
    """The filters of the named sets in `filters.ORDER`; a rule is named for the last set that speaks of it."""
    merged = policy.combined(used)
    origin = {
        key: f"{name}.{key}" for name in used for key in PolicySet.model_fields if getattr(policy.policies[name], key)
    }
    names: list[str] = []

    def rule(key: str, model: RuleModel) -> Rule:
        names.append(origin[key] if model.mode == "enforce" else f"{origin[key]} ({model.mode})")
        return Rule(origin[key], Mode(model.mode), on_verdict)

    made: list[Filter] = []
    if merged.security_headers and merged.security_headers.mode != "off":
        headers = merged.security_headers
        made.append(SecurityHeaders(rule("security_headers", headers), header_set(headers), entropy))
    if merged.ip and merged.ip.mode != "off":
        made.append(IpAccess(rule("ip", merged.ip), Networks(merged.ip.allow), Networks(merged.ip.deny)))
    if merged.cors and merged.cors.mode != "off":
        cors = merged.cors
        made.append(
            Cors(
                rule("cors", cors),
                tuple(cors.origins),
                tuple(cors.methods),
                tuple(cors.headers),
                tuple(cors.expose),
                credentials=cors.credentials,
                max_age=cors.max_age,
            )
        )
    if merged.request and merged.request.mode != "off":
        wanted = merged.request
        made.append(
            RequestLimits(
                rule("request", wanted),
                tuple(wanted.methods),
                tuple(wanted.media_types),
                wanted.max_target,
                wanted.max_body,
            )
        )
    return made, tuple(names)


def _cluster_spec(name: str, model: ClusterModel) -> ClusterSpec:
    times = model.timeouts
    limits = PoolLimits(model.max_connections, model.max_waiting, times.wait, times.connect, times.idle)
    return ClusterSpec(name, tuple(model.endpoints), model.balance, limits)


def _matcher(match: MatchModel) -> Matcher:
    path = match.path if match.path is not None else str(match.prefix)
    kind = "prefix" if match.path is None else "template" if "{" in path else "exact"
    methods = {method.encode() for method in match.methods}
    if b"GET" in methods:
        methods.add(b"HEAD")
    return Matcher(
        path=path.encode(),
        kind=kind,
        hosts=frozenset(host.lower().encode() for host in match.hosts),
        methods=frozenset(methods),
        headers=tuple((n.lower().encode(), None if v is None else v.encode()) for n, v in match.headers.items()),
    )


def _limits(policy: Policy, model: RouteModel) -> RouteLimits:
    times = model.timeouts
    return RouteLimits(
        request=times.request,
        per_try=times.per_try,
        stream_idle=times.stream_idle,
        websocket_idle=times.websocket_idle,
        max_body=policy.defaults.max_body if model.max_body is None else model.max_body,
        max_buffered=model.max_buffered,
    )
