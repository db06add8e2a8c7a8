"""The listener and the admin: addresses, times, bounds, and how what is ambiguous is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.policy.models.base import KeyPairModel, Model, Name
from proxy.policy.values import Duration, Place, Secret, Share, Size, Span


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


class ClientCertificatesModel(Model):
    """Clients show a certificate that `ca` (PEM) vouches for; with `require: false` they may."""

    ca: Annotated[str, Field(min_length=1)]
    require: bool = True


class ListenerTlsModel(Model):
    """By the server name that a client asks for, one of the certificates; the first where none has it. Changed files
    are served within a second or two."""

    certificates: Annotated[list[KeyPairModel], Field(min_length=1)]
    min_version: Literal["1.2", "1.3"] = "1.2"
    client: ClientCertificatesModel | None = None


class RedirectModel(Model):
    """Plain HTTP at `address` is sent to `port` by TLS (308)."""

    address: Place
    port: Annotated[int, Field(ge=1, le=65535)] = 443


class ListenerModel(Model):
    """`proxy_protocol` has trusted_proxies begin their connections with a PROXY head, v1 or v2."""

    address: Place
    tls: ListenerTlsModel | None = None
    redirect: RedirectModel | None = None
    proxy_protocol: bool = False
    timeouts: TimeoutsModel = TimeoutsModel()
    bounds: BoundsModel = BoundsModel()
    http: HttpModel = HttpModel()
    overload: OverloadModel = OverloadModel()
    drain: Duration = 30.0

    @model_validator(mode="after")
    def _needs_tls(self) -> ListenerModel:
        if self.redirect is not None and self.tls is None:
            raise ValueError("a redirect leads to TLS. Give tls, too")
        return self


class AdminModel(Model):
    """`token` is needed where the address is not loopback; write it as `${NAME}` or `${file:PATH}`."""

    address: Place
    token: Secret | None = None
    scrape: dict[Name, Annotated[str, Field(pattern=r"^http://")]] = {}
    """Metrics that are served as /scrape/NAME: the application's, say, which nothing else reaches."""


class RevertModel(Model):
    """Take a policy back that makes answers bad: where within that time after it was applied the share of refusals and
    5xx is by so much `above` what it was before. `within: 0s` never does."""

    within: Duration = 30.0
    above: Share = 0.2
    of_at_least: Annotated[int, Field(ge=1)] = 50


class ReloadModel(Model):
    """`watch` takes a changed file over by itself (a ConfigMap, say); SIGHUP and POST /reload always do. `sockets` says
    whether WebSockets keep the policy that they began with, or are asked to connect again (1012), spread over the
    listener's drain time."""

    watch: bool = False
    sockets: Literal["keep", "reconnect"] = "keep"
    revert: RevertModel = RevertModel()


class TracesModel(Model):
    """Spans to an OpenTelemetry collector: of a share of the exchanges, and of those whose client is traced."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    sample: Share = 0.01
    follow: bool = True
    most: Annotated[int, Field(ge=1, le=10_000)] = 200
    service: Annotated[str, Field(min_length=1, max_length=80)] = "simplepro-proxy"
    headers: dict[str, Secret] = {}


class AccessLogModel(Model):
    enabled: bool = True
    format: Literal["json", "logfmt"] = "json"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
