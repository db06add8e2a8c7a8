"""What a policy file may say, as pydantic models; `policy.compile` turns it into the objects that run.

Every field has the strict default; unknown keys are errors. The JSON Schema of `Policy` is what `schema` prints.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from proxy.policy.rates import rates
from proxy.policy.values import Address, Duration, Secret, Share, Size, Span, listed, network, one_or_more

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
KeyName = Annotated[
    str,
    Field(
        pattern=r"^(ip(/\d{1,3})?|user|api-key|route|method|(claim|header|cookie|param|const):[A-Za-z0-9_.-]{1,60})$"
    ),
]
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
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


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


class TimeoutsModel(Model):
    """How long a client may take. `min_body_rate` is bytes a second over each `body_progress`."""

    head: Duration = 10.0
    idle: Duration = 60.0
    body_progress: Duration = 15.0
    min_body_rate: Size = 240
    write_stall: Duration = 60.0


class BoundsModel(Model):
    head: Size = 64 * 1024
    fields: Annotated[int, Field(ge=8, le=1000)] = 100
    pipelined: Size = 64 * 1024
    connections: Annotated[int, Field(ge=1)] = 32768
    connections_per_client: Annotated[int, Field(ge=1)] = 16384
    connection_rate: Annotated[int, Field(ge=1)] = 16384
    backlog: Annotated[int, Field(ge=1)] = 4096


class HttpModel(Model):
    """How what can be read in two ways is read; the default refuses."""

    dot_segments: Literal["refuse", "resolve"] = "refuse"
    duplicate_slashes: Literal["refuse", "merge", "keep"] = "refuse"
    encoded_slash: Literal["refuse", "keep", "decode"] = "refuse"
    backslash: Literal["refuse", "keep", "slash"] = "refuse"
    encoded_controls: Literal["refuse", "keep"] = "refuse"
    invalid_utf8: Literal["refuse", "keep"] = "refuse"
    absolute_form: Literal["accept", "refuse"] = "accept"
    underscored_headers: Literal["refuse", "drop", "allow"] = "refuse"


class OverloadModel(Model):
    """Past `relief` of either bound connections are not kept alive; past it only critical routes are served.

    `memory` is the process's own, by default nine tenths of its control group's limit, where it has one; `loop_lag` how
    late the event loop wakes.
    """

    memory: Size | None = None
    loop_lag: Span = 2.0
    relief: Share = 0.8


class ListenerModel(Model):
    address: Address
    timeouts: TimeoutsModel = TimeoutsModel()
    bounds: BoundsModel = BoundsModel()
    http: HttpModel = HttpModel()
    overload: OverloadModel = OverloadModel()
    drain: Duration = 30.0


class AdminModel(Model):
    """`token` is needed where the address is not loopback; write it as `${NAME}` or `${file:PATH}`."""

    address: Address
    token: Secret | None = None


class AccessLogModel(Model):
    enabled: bool = True
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0


class SentinelModel(Model):
    """The Sentinels that know where `master` is; the URL then says user, password, TLS and database."""

    master: str
    nodes: Annotated[list[Address], BeforeValidator(listed), Field(min_length=1)]
    password: Secret | None = None


class RedisModel(Model):
    """Where shared state lives. `timeout` is what a request waits at most; `prefix` keeps deployments apart.

    Of a `cluster`, `nodes` are some that are asked for the others; `url` then only says user, password and TLS, and is
    the one node asked where `nodes` is empty.
    """

    url: Secret
    cluster: bool = False
    nodes: Annotated[list[Address], BeforeValidator(listed)] = []
    sentinel: SentinelModel | None = None
    timeout: Duration = 0.02
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")] = "simplepro"

    @field_validator("url")
    @classmethod
    def _url(cls, value: SecretStr) -> SecretStr:
        if not _REDIS_URL.fullmatch(value.get_secret_value()):
            raise ValueError("not a Redis URL. Write redis[s]://[user:password@]host[:port][/database]")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> RedisModel:
        if self.cluster and self.sentinel is not None:
            raise ValueError("a Cluster finds its masters by itself. Write cluster or sentinel, not both")
        return self


class JwtModel(RuleModel):
    """Bearer tokens that are verified here: by `secret` (HMAC), or by public keys, of `keys_file` (JWKS or PEM) or of
    `keys_url` (JWKS), which is asked again every `refresh` and when a token names another key.

    `revoked: redis` refuses tokens that the board of that name revokes by `jti:`, `session:` or `user:`.
    """

    secret: Secret | None = None
    keys_file: str | None = None
    keys_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    refresh: Span = 300.0
    revoked: Literal["redis", "off"] = "redis"
    algorithms: Annotated[list[Literal["HS256", "RS256", "ES256", "EdDSA"]], Field(min_length=1)] = ["HS256"]
    issuer: str = ""
    audience: str = ""
    skew: Duration = 10.0
    user_claim: str = "sub"
    required: bool = False

    @model_validator(mode="after")
    def _keys(self) -> JwtModel:
        if [self.secret, self.keys_file, self.keys_url].count(None) != 2:
            raise ValueError("tokens are verified by secret, keys_file or keys_url. Give one of them")
        symmetric = "HS256" in self.algorithms
        if symmetric != (self.secret is not None) or (symmetric and len(self.algorithms) > 1):
            raise ValueError("HS256 goes with secret and alone; RS256, ES256 and EdDSA go with keys_file or keys_url")
        if self.secret is not None and len(self.secret.get_secret_value()) < 32:
            raise ValueError("a secret of HS256 has at least 32 characters (RFC 7518 section 3.2)")
        return self


class ApiKeyModel(Model):
    """A key by its SHA-256 digest (`simplepro-proxy hash-key` makes both), and claims as a token would have them."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    claims: dict[str, str] = {}


class ApiKeysModel(RuleModel):
    """API keys by the name that limits, logs and statistics know them by."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,60}$")] = "x-api-key"
    keys: Annotated[dict[Name, ApiKeyModel], Field(min_length=1)]
    required: bool = False


class IdentityModel(Model):
    jwt: JwtModel | None = None
    api_keys: ApiKeysModel | None = None

    @model_validator(mode="after")
    def _some(self) -> IdentityModel:
        if self.jwt is None and self.api_keys is None:
            raise ValueError("nobody can be known by this. Give jwt, api_keys, or both")
        return self


class ClusterTimeouts(Model):
    connect: Duration = 1.0
    wait: Duration = 2.0
    idle: Duration = 4.0


class ConsecutiveModel(RuleModel):
    failures: Annotated[int, Field(ge=1)] = 5


class ErrorRateModel(RuleModel):
    above: Share = 0.5
    of_at_least: Annotated[int, Field(ge=1)] = 20
    within: Span = 10.0


class SlowRateModel(ErrorRateModel):
    longer_than: Span


class OpenForModel(Model):
    model_config = ConfigDict(populate_by_name=True)

    first: Annotated[Span, Field(alias="from")] = 5.0
    to: Span = 60.0
    jitter: Share = 0.2


def row(value: object) -> object:
    return {"failures": value} if isinstance(value, int) and not isinstance(value, bool) else value


Counted = Annotated[str, BeforeValidator(str), Field(pattern=r"^(5xx|[45]\d\d|connect|reset|timeout)$"), STATUS_OR_WORD]


ConsecutiveRow = Annotated[ConsecutiveModel, BeforeValidator(row), WithJsonSchema({"type": ["integer", "object"]})]
RetriedAfter = Annotated[
    str, BeforeValidator(str), Field(pattern=r"^([45]\d\d|connect|reset|timeout)$"), STATUS_OR_WORD
]


class BreakerModel(Model):
    """Trips where a detector says so; each has a mode. `count` is what a failure is.

    Half-open lets `at_once` probes in at a time, and closes after `probes` of them succeeded. `share: quorum` tells
    other sidecars: where `quorum` of them (or most) have opened theirs, all do, and one probes for all.
    """

    consecutive: (
        Annotated[ConsecutiveModel, BeforeValidator(row), WithJsonSchema({"type": ["integer", "object"]})] | None
    ) = ConsecutiveModel()
    error_rate: ErrorRateModel | None = None
    slow_rate: SlowRateModel | None = None
    count: list[Counted] = ["5xx", "connect", "reset", "timeout"]
    open_for: OpenForModel = OpenForModel()
    probes: Annotated[int, Field(ge=1, le=100)] = 1
    at_once: Annotated[int, Field(ge=1, le=100)] = 1
    share: Literal["off", "quorum"] = "off"
    quorum: Literal["most"] | Annotated[int, Field(ge=1)] = "most"


class BackoffModel(Model):
    base: Duration = 0.025
    max: Duration = 0.25


class RetryModel(Model):
    """`attempts` in all. Bodies are kept for another one up to `replay`; a longer Retry-After than `longest_wait` is
    the client's to wait for. `budget` is the share of requests that may be retries, `floor` so many to begin with."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    on: list[
        Annotated[str, BeforeValidator(str), Field(pattern=r"^([45]\d\d|connect|reset|timeout)$"), STATUS_OR_WORD]
    ] = [
        "connect",
        "reset",
    ]
    backoff: BackoffModel = BackoffModel()
    longest_wait: Duration = 1.0
    replay: Size = 64 * 1024
    budget: Share = 0.2
    floor: Annotated[int, Field(ge=0)] = 3
    hedge_after: Literal["p50", "p90", "p95", "p99"] | Duration | None = None


class OutlierModel(RuleModel):
    """Envoy's outlier detection: `consecutive` gateway failures, or a success rate far below the others'."""

    consecutive: Annotated[int, Field(ge=0)] = 5
    interval: Span = 10.0
    ejection: Span = 30.0
    longest: Span = 300.0
    max_ejected: Share = 0.5
    hosts: Annotated[int, Field(ge=2)] = 3
    requests: Annotated[int, Field(ge=1)] = 50
    deviations: Annotated[float, Field(ge=0)] = 1.9


class HealthCheckModel(Model):
    """By HTTP where there is a `path`, else by TCP. So many in a row make an endpoint ill, or well."""

    path: Annotated[str, Field(pattern=r"^(/[!-~]*)?$")] = ""
    host: str = ""
    interval: Span = 10.0
    unhealthy_interval: Span = 1.0
    timeout: Span = 1.0
    healthy: Annotated[int, Field(ge=1)] = 2
    unhealthy: Annotated[int, Field(ge=1)] = 3
    jitter: Share = 0.2


class AdaptiveModel(Model):
    """As many requests at once as the upstream takes without slowing down, from `least` to `most`."""

    least: Annotated[int, Field(ge=1)] = 4
    most: Annotated[int, Field(ge=1)] = 1000
    start: Annotated[int, Field(ge=1)] = 50
    buffer: Share = 0.25
    window: Span = 0.1


class AdmissionModel(Model):
    """Where fewer than `success_rate` succeed, a share of requests is refused, at most `most` of them."""

    success_rate: Share = 0.95
    within: Span = 30.0
    most: Share = 0.8
    of_at_least: Annotated[int, Field(ge=1)] = 20


class ClusterModel(Model):
    endpoints: Annotated[list[Address], Field(min_length=1)]
    balance: Literal["round_robin", "least_request"] = "round_robin"
    max_connections: Annotated[int, Field(ge=1)] = 512
    max_waiting: Annotated[int, Field(ge=0)] = 4096
    max_requests: Annotated[int, Field(ge=1)] = 8192
    max_retries: Annotated[int, Field(ge=0)] = 64
    timeouts: ClusterTimeouts = ClusterTimeouts()
    breaker: BreakerModel | None = None
    retry: RetryModel | None = None
    outlier: OutlierModel | None = None
    health: HealthCheckModel | None = None
    panic: Share = 0.5
    slow_start: Duration = 0.0
    adaptive: AdaptiveModel | None = None
    admission: AdmissionModel | None = None


HSTS_VALUE = re.compile(r"max-age=\d+(; ?includeSubDomains)?(; ?preload)?", re.IGNORECASE)
_REFERRERS = (
    "no-referrer|no-referrer-when-downgrade|origin|origin-when-cross-origin|same-origin|strict-origin"
    "|strict-origin-when-cross-origin|unsafe-url"
)
TYPED_HEADERS: dict[str, tuple[str, str]] = {
    "strict-transport-security": (HSTS_VALUE.pattern, "max-age=31536000; includeSubDomains"),
    "x-frame-options": ("(?i:DENY|SAMEORIGIN)", "DENY or SAMEORIGIN"),
    "x-content-type-options": ("nosniff", "nosniff"),
    "referrer-policy": (rf"(?:{_REFERRERS})(?:, ?(?:{_REFERRERS}))*", "no-referrer, same-origin, strict-origin, …"),
    "cross-origin-opener-policy": (
        "unsafe-none|same-origin-allow-popups|same-origin|noopener-allow-popups",
        "same-origin, same-origin-allow-popups or unsafe-none",
    ),
    "cross-origin-resource-policy": ("same-site|same-origin|cross-origin", "same-site, same-origin or cross-origin"),
    "cross-origin-embedder-policy": ("unsafe-none|require-corp|credentialless", "require-corp or credentialless"),
    "origin-agent-cluster": (r"\?[01]", "?1 or ?0"),
    "x-dns-prefetch-control": ("on|off", "on or off"),
    "x-download-options": ("noopen", "noopen"),
    "x-permitted-cross-domain-policies": ("none|master-only|by-content-type|all|none-this-response", "none"),
    "x-xss-protection": ("0|1(; ?mode=block)?", "0"),
}
"""By lower-case name: what a value has to look like, and how that is said."""
CSP_DIRECTIVES = (
    "default-src", "script-src", "script-src-elem", "script-src-attr", "style-src", "style-src-elem", "style-src-attr",
    "img-src", "font-src", "connect-src", "media-src", "object-src", "frame-src", "child-src", "worker-src",
    "manifest-src", "base-uri", "form-action", "frame-ancestors", "sandbox", "report-uri", "report-to",
    "require-trusted-types-for", "trusted-types", "upgrade-insecure-requests", "fenced-frame-src",
)  # fmt: skip
"""CSP level 3."""
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
MediaRange = Annotated[str, Field(pattern=r"^[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+|\*\+[a-z0-9]+)$")]
HostPattern = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$|^\[[0-9A-Fa-f:.]+\]$")]


class IpAccessModel(RuleModel):
    allow: Networks = []
    deny: Networks = []


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


class CorsModel(RuleModel):
    origins: Annotated[list[str], BeforeValidator(listed), Field(min_length=1)]
    methods: list[MethodName] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    headers: list[HeaderName] = ["authorization", "content-type", "x-request-id", "x-correlation-id"]
    expose: list[HeaderName] = ["x-request-id", "x-correlation-id"]
    credentials: bool = False
    max_age: Duration = 600.0

    @model_validator(mode="after")
    def _check(self) -> CorsModel:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f'"{origin}" is not an origin. Write scheme://host[:port], or scheme://*.host')
        self.check_together()
        return self

    def check_together(self) -> None:
        if self.credentials and "*" in self.origins:
            raise ValueError('credentials cannot go to every origin. Name the origins instead of "*"')


class SecurityHeadersModel(RuleModel):
    """Helmet's set. `null` leaves a header out; `csp` maps directives to sources; `{nonce}` is made anew each time."""

    preset: Literal["helmet", "none"] = "helmet"
    upstream: Literal["keep", "override", "append"] = "override"
    csp: dict[str, list[str] | None] | None = None
    csp_report_only: bool = False
    hsts: str | None = None
    headers: dict[str, str | None] = {}

    @field_validator("hsts")
    @classmethod
    def _hsts(cls, value: str | None) -> str | None:
        if value is not None and not HSTS_VALUE.fullmatch(value):
            raise ValueError(f'"{value}" is not HSTS (RFC 6797). Write max-age=31536000; includeSubDomains')
        return value

    @field_validator("headers")
    @classmethod
    def _values(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or (text is not None and not _HEADER_VALUE.fullmatch(text)):
                raise ValueError(f'"{name}" is no header, or its value holds characters that no header may hold')
            typed = TYPED_HEADERS.get(name.lower())
            if typed is not None and text is not None and not re.fullmatch(typed[0], text):
                raise ValueError(f'"{text}" is no value of {name}. Write {typed[1]}')
        return value

    @field_validator("csp")
    @classmethod
    def _directives(cls, value: dict[str, list[str] | None] | None) -> dict[str, list[str] | None] | None:
        for directive, sources in (value or {}).items():
            if directive not in CSP_DIRECTIVES:
                near = get_close_matches(directive, CSP_DIRECTIVES, n=1)
                raise ValueError(
                    f'"{directive}" is no CSP directive.' + (f' Did you mean "{near[0]}"?' if near else "")
                )
            if any(re.search(r"[;,\s\x00-\x1f\x7f]", s) for s in sources or ()):
                raise ValueError(f'a source of "{directive}" holds ; , a space or a control character')
        return value


class RequestModel(RuleModel):
    """What requests may look like; empty lists and nulls allow everything."""

    methods: list[MethodName] = []
    media_types: list[MediaRange] = []
    max_target: Size | None = None
    max_body: Size | None = None


class TiersModel(Model):
    """Rates by the value of a claim of a verified token; others have the rule's own."""

    claim: str
    limits: dict[str, Rates]


class CostModel(Model):
    """What a request comes to, known once its answer is there; until then `reserve` units are held.

    `header` is a field of the upstream's answer that says it; `body` is so many bytes of the request's body a unit.
    """

    header: Annotated[str, Field(pattern=r"^([A-Za-z0-9-]{1,60})?$")] = ""
    body: Size | None = None
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


class LimitModel(RuleModel):
    """So many requests in so much time, for each value of `key`; or so many at once (`concurrent`)."""

    limit: Rates | None = None
    concurrent: Annotated[int, Field(ge=1)] | None = None
    strategy: Literal["fixed-window", "moving-window", "sliding-window-counter", "token-bucket"] = (
        "sliding-window-counter"
    )
    key: Keys = ["ip"]
    cost: Annotated[int, Field(ge=0, le=1000)] | CostModel | dict[MethodName | Literal["default"], int] = Field(
        default=1, union_mode="left_to_right"
    )
    count: Literal["all", "failures", "errors", "misses"] = "all"
    lease: Duration = 60.0
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
        if self.strategy == "moving-window" and any(amount > 1000 for amount, _ in self.limit or ()):
            raise ValueError("a moving window keeps every request's time: 1000 at most. Take sliding-window-counter")
        if (self.count != "all" or self.concurrent) and self.cost != 1:
            raise ValueError("what is counted by its answer, or at once, costs 1")
        return self


class PolicySet(Model):
    limits: dict[Name, LimitModel] = {}
    ip: IpAccessModel | None = None
    bans: BansModel | None = None
    cors: CorsModel | None = None
    security_headers: SecurityHeadersModel | None = None
    request: RequestModel | None = None

    def with_later(self, later: PolicySet) -> PolicySet:
        """Both sets as one: a field that `later` gives wins, fields that hold names (headers, csp) are added to.

        Raises ValueError where a rule of the two together may not be.
        """
        changes: dict[str, object] = {}
        for key in later.model_fields_set:
            added, there = getattr(later, key), getattr(self, key)
            if isinstance(added, dict):
                changes[key] = {**there, **added}
                continue
            if added is None:
                continue
            changes[key] = added if there is None else there.with_later(added)
        return self.model_copy(update=changes)


class RouteTimeouts(Model):
    """`per_try` runs from the request's end to the answer's head, `request` over the whole exchange."""

    request: Duration = 3600.0
    per_try: Duration = 15.0
    stream_idle: Duration = 300.0
    websocket_idle: Duration = 3600.0


ROUTE_PATH = re.compile(
    r"/|(/(\{[A-Za-z_][A-Za-z0-9_]*\}|(?!\.{1,2}(/|$|;))([A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!2F|2E|5C)[0-9A-F]{2})+))+/?"
)


class MatchModel(Model):
    path: str | None = None
    prefix: str | None = None
    hosts: list[HostPattern] = []
    methods: list[MethodName] = []
    headers: dict[HeaderName, str | None] = {}

    @model_validator(mode="after")
    def _one_of(self) -> MatchModel:
        if (self.path is None) == (self.prefix is None):
            raise ValueError("a route matches either a path or a prefix. Write one of them: {prefix: /}")
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


class AnswersModel(Model):
    """`legacy_headers` adds X-RateLimit-Limit, -Remaining and -Reset to the IETF's fields."""

    legacy_headers: bool = False


class UsageModel(Model):
    """The heaviest keys of each limit: shown `hashed` or `plain`, by windows of that length."""

    keys: Literal["hashed", "plain"] = "hashed"
    window: Span = 60.0


class DefaultsModel(Model):
    """What every route has unless it says otherwise; `use` is also the chain of refusals that meet no route."""

    use: list[str] = []
    max_body: Size = 10 * 1024 * 1024


class Policy(Model):
    version: Literal[1]
    listener: ListenerModel
    admin: AdminModel
    trusted_proxies: Networks = []
    redis: RedisModel | None = None
    identity: IdentityModel | None = None
    access_log: AccessLogModel = AccessLogModel()
    clusters: Annotated[dict[Name, ClusterModel], Field(min_length=1)]
    policies: dict[Name, PolicySet] = {}
    answers: AnswersModel = AnswersModel()
    usage: UsageModel = UsageModel()
    defaults: DefaultsModel = DefaultsModel()
    routes: Annotated[dict[Name, RouteModel], Field(min_length=1)]

    def combined(self, used: list[str]) -> PolicySet:
        """The named sets as one, in that order. Raises KeyError or ValueError; a loaded policy's routes do neither."""
        merged = PolicySet()
        for name in used:
            merged = merged.with_later(self.policies[name])
        return merged
