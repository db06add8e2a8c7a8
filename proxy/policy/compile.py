"""A checked Policy to the objects that run: clusters, chains, routes. All that can be known at load time is."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from proxy.addresses import Networks
from proxy.cache.edge import Edge
from proxy.cache.edges import Edges
from proxy.cache.store import Purge, Store
from proxy.cache.terms import EdgeTerms
from proxy.entropy import Entropy
from proxy.filter import Filter, FilterChain, Mode, OnVerdict, Rule
from proxy.filters import (
    ORDER,
    Bans,
    Cookies,
    Cors,
    Identity,
    IpAccess,
    RequestId,
    RequestLimits,
    SecurityHeaders,
    Throttle,
    UserBans,
    WebSocketAccess,
)
from proxy.filters.bans import BanList, BanTerms
from proxy.filters.identity import Certificates, KeyRing
from proxy.filters.request_id import Sampling
from proxy.filters.throttle import Limit, Usage
from proxy.fleet.board import Board
from proxy.headers import ASSERTED
from proxy.inspect.profile import Lessons
from proxy.policy.answers import answers_of, cookie_terms
from proxy.policy.cache import edge_terms
from proxy.policy.clusters import cluster_spec, fallback_of
from proxy.policy.helmet import header_set
from proxy.policy.inspect import contract_of, inspection_of, sanitization_of
from proxy.policy.limits import api_keys_of, limit_of, tokens_of
from proxy.policy.model import Policy, PolicySet
from proxy.policy.models.base import RuleModel
from proxy.policy.models.identity import ApiKeysModel, CertificatesModel, JwtModel
from proxy.policy.models.limits import BansModel
from proxy.policy.models.routes import MatchModel, RouteModel
from proxy.policy.operations import spread
from proxy.policy.websocket import terms_of
from proxy.routing import Matcher, Route, RouteLimits, RouteTable
from proxy.telemetry.stats import RouteStats
from proxy.throttle.charge import Limiter, Quota, Strategy
from proxy.throttle.heavy import HeavyKeys
from proxy.upstream.cluster import PRIORITIES, Cluster
from proxy.websocket.terms import PLAIN, SocketTerms


@dataclass(slots=True)
class Shared:
    """What outlives a policy and is one for all sidecars, where there is a store; else for this one."""

    limiter: Limiter
    workers: int = 1
    """Processes that share what one sidecar may do to its upstreams."""
    bans: Board = field(default_factory=lambda: Board("bans"))
    revoked: Board = field(default_factory=lambda: Board("revoked"))
    breakers: Board = field(default_factory=lambda: Board("breakers"))
    purges: Board = field(default_factory=lambda: Board("purges"))
    purged: Board = field(default_factory=lambda: Board("purged"))
    name: str = field(default_factory=lambda: uuid4().hex[:12])
    lessons: Lessons = field(default_factory=Lessons)
    edges: Edges | None = None
    """The cache, from the first policy on that has one."""


@dataclass(slots=True, weakref_slot=True)
class Compiled:
    """What a listener runs; `default_chain` answers refusals that meet no route.

    `key_rings` have to be filled from these URLs, asked again after so many seconds; `uses_boards` says whether any
    rule reads what sidecars tell each other.
    """

    routes: RouteTable
    clusters: dict[str, Cluster]
    default_chain: FilterChain
    request_id: RequestId
    throttles: tuple[Throttle, ...]
    usage: Mapping[str, Usage]
    """By quota, over all routes."""
    ban_list: BanList
    key_rings: tuple[tuple[str, float, KeyRing], ...] = ()
    uses_boards: bool = False

    @property
    def uses_store(self) -> bool:
        """Whether anything asks the limiter, or the boards."""
        return bool(self.throttles) or self.uses_boards or any(route.sockets.limits for route in self.routes.routes)


def compile_policy(
    policy: Policy,
    loop: asyncio.AbstractEventLoop,
    on_verdict: OnVerdict,
    shared: Shared,
    previous: Compiled | None = None,
) -> Compiled:
    """Raises ValueError where a file that the policy names can't be used.

    What `previous` has and the policy does not change goes on: clusters with their connections and breakers, counts,
    keys that were fetched.
    """
    entropy = Entropy()
    traces = policy.traces
    request_id = RequestId(entropy, Sampling(traces.sample, follows=traces.follow) if traces else None)
    ban_list = previous.ban_list if previous else BanList(shared.bans)
    identity = _identity(policy, on_verdict, shared)
    throttles: list[Throttle] = []
    usage: defaultdict[str, Usage] = defaultdict(lambda: Usage(heavy=HeavyKeys(policy.usage.window)))
    if previous is not None:
        usage.update(previous.usage)
    known = {name: cluster.spec for name, cluster in previous.clusters.items()} if previous else {}
    clusters: dict[str, Cluster] = {}
    for name, cluster_model in policy.clusters.items():
        spec = cluster_spec(name, cluster_model, shared.workers)
        keep = previous is not None and known.get(name) == spec
        clusters[name] = previous.clusters[name] if previous and keep else Cluster(spec, loop)
    counted = {route.name: route.stats for route in previous.routes.routes} if previous else {}

    def chain(used: list[str], more: dict[str, Limit]) -> FilterChain:
        filters = _filters(policy, used, on_verdict, entropy, shared.lessons)
        limits = _limits_of(policy, used, on_verdict) | more
        bans = policy.combined(used).bans
        if bans and bans.mode != "off":
            name = next(f"{one}.bans" for one in reversed(used) if policy.policies[one].bans)
            rule = Rule(name, Mode(bans.mode), on_verdict)
            allow = Networks([*bans.allow, *policy.trusted_proxies])
            filters += [_bans(rule, bans, ban_list, shared.limiter, allow), UserBans(rule, ban_list)]
        if identity is not None:
            filters.append(identity)
        if limits:
            made = Throttle(
                tuple(limits.values()),
                shared.limiter,
                loop,
                usage,
                legacy=policy.answers.legacy_headers,
            )
            throttles.append(made)
            filters.append(made)
        filters.sort(key=lambda one: ORDER.index(type(one)))
        return FilterChain((request_id, *filters))

    def sockets(used: list[str]) -> SocketTerms:
        model = policy.combined(used).websocket
        if model is None:
            return PLAIN
        name = next(one for one in reversed(used) if policy.policies[one].websocket)
        plain = policy.usage.keys == "plain"
        return terms_of(name, model, on_verdict, shared.limiter, usage, plain_labels=plain)

    edges = _edges(policy, shared, loop)

    def edge(route: str, used: list[str]) -> Edge | None:
        model = policy.combined(used).cache
        if edges is None or model is None or model.mode == "off":
            return None if edges is None else edges.edge(route, None, EdgeTerms(), shadow=False)
        name = next(f"{one}.cache" for one in reversed(used) if policy.policies[one].cache)
        rule = Rule(name, Mode(model.mode), on_verdict)
        keys = policy.identity.api_keys if policy.identity else None
        terms = edge_terms(model, keys.header if keys and keys.mode != "off" else "")
        return edges.edge(route, rule, terms, shadow=model.mode == "shadow")

    routes = []
    for name, model in policy.routes.items():
        used = policy.defaults.use if model.use is None else model.use
        own = {
            key: limit_of(f"{name}.{key}", one, on_verdict, plain_labels=policy.usage.keys == "plain")
            for key, one in model.limits.items()
            if one.mode != "off"
        }
        shared_chain, messages = chain(used, own), sockets(used)
        fallback = fallback_of(model.fallback, clusters, loop.time) if model.fallback else None
        routes += [
            Route(
                name=route_name,
                matcher=_matcher(match),
                chain=shared_chain,
                sockets=messages,
                cluster=clusters[model.to],
                limits=_limits(policy, model),
                stats=counted.get(route_name) or RouteStats(route_name),
                websocket=model.websocket,
                priority=PRIORITIES[model.priority],
                fallback=fallback,
                edge=edge(route_name, used),
            )
            for route_name, match in spread(name, model)
        ]
    rings: list[tuple[str, float, KeyRing]] = []
    jwt = policy.identity.jwt if policy.identity else None
    if identity is not None and identity.tokens is not None and jwt is not None and jwt.keys_url is not None:
        ring = identity.tokens.ring
        fetched = {url: old.keys for url, _, old in previous.key_rings} if previous else {}
        ring.keys = fetched.get(jwt.keys_url) or ring.keys
        rings.append((jwt.keys_url, jwt.refresh, ring))
    table = RouteTable(routes)
    default_chain = chain(policy.defaults.use, {})
    return Compiled(
        table,
        clusters,
        default_chain,
        request_id,
        tuple(throttles),
        usage,
        ban_list,
        tuple(rings),
        uses_boards=edges is not None
        or any(cluster.spec.shared_quorum for cluster in clusters.values())
        or any(
            isinstance(one, Bans) or (isinstance(one, Identity) and one.tokens is not None)
            for made in (default_chain, *(route.chain for route in routes))
            for one in made.filters
        ),
    )


def _edges(policy: Policy, shared: Shared, loop: asyncio.AbstractEventLoop) -> Edges | None:
    """One cache for all routes; it outlives the policy that first asked for it."""
    if not any(one.cache and one.cache.mode != "off" for one in policy.policies.values()):
        if shared.edges is not None:
            shared.edges.store.purge(Purge("all", ""))
        return None
    if shared.edges is None:
        store = Store(policy.cache.memory, policy.cache.variants, loop.time)
        shared.edges = Edges(shared.name, shared.purges, shared.purged, store, loop.call_soon)
    shared.edges.resize(policy.cache.memory, policy.cache.variants)
    return shared.edges


def _identity(policy: Policy, on_verdict: OnVerdict, shared: Shared) -> Identity | None:
    """One filter for all kinds of credentials; any is enough where one is required."""
    if policy.identity is None:
        return None
    jwt, keys, certificates = policy.identity.jwt, policy.identity.api_keys, policy.identity.certificates
    ways: tuple[tuple[str, JwtModel | ApiKeysModel | CertificatesModel | None], ...] = (
        ("jwt", jwt), ("api_keys", keys), ("certificates", certificates),
    )  # fmt: skip
    used = [(name, one) for name, one in ways if one and one.mode != "off"]
    if not used:
        return None
    name, first = next(((name, one) for name, one in used if one.required), used[0])
    return Identity(
        Rule(f"identity.{name}", Mode(first.mode), on_verdict),
        tokens_of(jwt) if jwt and jwt.mode != "off" else None,
        api_keys_of(keys) if keys and keys.mode != "off" else None,
        shared.revoked if jwt and jwt.revoked == "redis" else Board("none"),
        required=any(one.required for _, one in used),
        certificates=Certificates(frozenset(certificates.allowed), certificates.claims)
        if certificates and certificates.mode != "off"
        else None,
        query=jwt.handshake_query if jwt else "",
    )


def _bans(rule: Rule, model: BansModel, ban_list: BanList, limiter: Limiter, allow: Networks) -> Bans:
    """`allow` holds the trusted proxies too: what can't be read is refused in their name."""
    amount, window = model.strikes
    return Bans(
        rule,
        ban_list,
        limiter,
        Quota(f"{rule.name}.strikes", Strategy.SLIDING, amount, window),
        frozenset(model.count),
        BanTerms(model.ban.first, model.ban.to, model.ban.memory),
        frozenset(path.encode() for path in model.honeypots),
        allow,
        scanners=model.scanners,
    )


def _limits_of(policy: Policy, used: list[str], on_verdict: OnVerdict) -> dict[str, Limit]:
    """By their short names: a later set's replaces an earlier one's."""
    found: dict[str, Limit] = {}
    for name in used:
        for key, model in policy.policies[name].limits.items():
            found.pop(key, None)
            if model.mode != "off":
                found[key] = limit_of(f"{name}.{key}", model, on_verdict, plain_labels=policy.usage.keys == "plain")
    return found


def _filters(
    policy: Policy, used: list[str], on_verdict: OnVerdict, entropy: Entropy, lessons: Lessons
) -> list[Filter]:
    """The filters of the named sets in `filters.ORDER`; a rule is named for the last set that speaks of it."""
    merged = policy.combined(used)
    origin = {
        key: f"{name}.{key}" for name in used for key in PolicySet.model_fields if getattr(policy.policies[name], key)
    }

    def rule(key: str, model: RuleModel) -> Rule:
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
    if merged.websocket and merged.websocket.mode != "off":
        socket = merged.websocket
        made.append(
            WebSocketAccess(
                rule("websocket", socket),
                tuple(socket.origins),
                tuple(one.encode() for one in socket.subprotocols),
            )
        )
    validation = merged.validation if merged.validation and merged.validation.mode != "off" else None
    inspect = merged.inspect if merged.inspect and merged.inspect.mode != "off" else None
    if validation or inspect:
        made.append(
            inspection_of(
                validation,
                rule("validation", validation) if validation else None,
                inspect,
                rule("inspect", inspect) if inspect else None,
                lessons,
            )
        )
    if merged.openapi and merged.openapi.mode != "off":
        made.append(contract_of(merged.openapi, rule("openapi", merged.openapi)))
    if merged.sanitize and merged.sanitize.mode != "off":
        made.append(sanitization_of(merged.sanitize, rule("sanitize", merged.sanitize)))
    answers = answers_of(
        merged.leaks, rule("leaks", merged.leaks) if merged.leaks else None,
        merged.reflection, rule("reflection", merged.reflection) if merged.reflection else None,
    )  # fmt: skip
    if answers is not None:
        made.append(answers)
    if merged.cookies and merged.cookies.mode != "off":
        made.append(Cookies(rule("cookies", merged.cookies), cookie_terms(merged.cookies)))
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
    return made


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
    fields = frozenset({times.asked_in.lower().encode(), times.told_in.lower().encode()})
    return RouteLimits(
        request=times.request,
        per_try=times.per_try,
        stream_idle=times.stream_idle,
        websocket_idle=times.websocket_idle,
        max_body=policy.defaults.max_body if model.max_body is None else model.max_body,
        max_buffered=model.max_buffered,
        tell_deadline="request" in times.model_fields_set,
        asked_in=times.asked_in.lower().encode(),
        told_in=times.told_in.lower().encode(),
        asserted=fields - ASSERTED,
    )
