"""Clusters: endpoints, and what becomes of requests while they fail."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from proxy.policy.models.base import STATUS_OR_WORD, KeyPairModel, Model, RuleModel
from proxy.policy.values import Duration, Place, Share, Size, Span


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
    hosts: Annotated[int, Field(ge=2)] = 5
    requests: Annotated[int, Field(ge=1)] = 50
    deviations: Annotated[float, Field(ge=0)] = 1.9

    @model_validator(mode="after")
    def _possible(self) -> OutlierModel:
        most = sqrt(self.hosts - 1)
        if self.deviations >= most:
            raise ValueError(
                f"of {self.hosts} hosts none can be {self.deviations:g} deviations below the mean. "
                f"Write deviations below {most:.2f}, or more hosts"
            )
        return self


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


class ClusterTlsModel(Model):
    """How endpoints are asked. `ca` (PEM) replaces the system's authorities; `server_name` is asked for and looked for
    in the certificate, by default the endpoint's host; `certificate` says who we are."""

    verify: bool = True
    ca: str = ""
    server_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{0,253}$")] = ""
    certificate: KeyPairModel | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"


class DnsModel(Model):
    """Names of endpoints are looked up again so often; of a name's addresses each is used in turn."""

    refresh: Span = 5.0
    family: Literal["any", "v4", "v6"] = "any"


class ClusterModel(Model):
    """`proxy_protocol` tells each endpoint who asks before anything else: a connection then carries one request."""

    endpoints: Annotated[list[Place], Field(min_length=1)]
    tls: ClusterTlsModel | None = None
    proxy_protocol: Literal["off", "v1", "v2"] = "off"
    dns: DnsModel = DnsModel()
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

    @model_validator(mode="after")
    def _one_preamble(self) -> ClusterModel:
        if self.tls is not None and self.proxy_protocol != "off":
            raise ValueError("a PROXY head before TLS is not supported. Write tls or proxy_protocol")
        return self
