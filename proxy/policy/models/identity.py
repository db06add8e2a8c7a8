"""Redis, and who asks: tokens and API keys."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from proxy.policy.models.base import _REDIS_URL, Model, Name, RuleModel
from proxy.policy.values import Address, Duration, Secret, Span, listed


class SentinelModel(Model):
    """The Sentinels that know where `master` is; the URL then says user, password, TLS and database."""

    master: str
    nodes: Annotated[list[Address], BeforeValidator(listed), Field(min_length=1)]
    username: str = ""
    password: Secret | None = None
    tls: bool = False


class RedisModel(Model):
    """Where shared state lives. `timeout` is what a request waits at most; `prefix` keeps deployments apart.
    `peers` is how many sidecars there are thought to be until Redis has told it.

    Of a `cluster`, `nodes` are some that are asked for the others; `url` then only says user, password and TLS, and is
    the one node asked where `nodes` is empty. `ca_file` vouches for the servers where the system's certificates do not,
    `cert_file` and `key_file` (PEM) say who we are; Sentinels with `tls` are held to the same.
    """

    url: Secret
    cluster: bool = False
    nodes: Annotated[list[Address], BeforeValidator(listed)] = []
    sentinel: SentinelModel | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    timeout: Duration = 0.02
    peers: Annotated[int, Field(ge=1, le=10_000)] = 1
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")] = "simplepro"

    @field_validator("url")
    @classmethod
    def _url(cls, value: SecretStr) -> SecretStr:
        if not _REDIS_URL.fullmatch(value.get_secret_value()):
            raise ValueError("not a Redis URL. Write redis[s]://[user:password@]host[:port][/database]")
        try:
            _ = urlsplit(value.get_secret_value()).port
        except ValueError:
            raise ValueError("the Redis URL's port is none. Write one up to 65535") from None
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> RedisModel:
        if self.cluster and self.sentinel is not None:
            raise ValueError("a Cluster finds its masters by itself. Write cluster or sentinel, not both")
        tls = self.url.get_secret_value().startswith("rediss:") or (self.sentinel is not None and self.sentinel.tls)
        if (self.ca_file or self.cert_file or self.key_file) and not tls:
            raise ValueError("certificates are for TLS. Write rediss:// in url")
        if self.key_file and not self.cert_file:
            raise ValueError("a key belongs to a certificate. Write cert_file, too")
        return self


class JwtModel(RuleModel):
    """Bearer tokens that are verified here: by `secret` (HMAC), or by public keys, of `keys_file` (JWKS or PEM) or of
    `keys_url` (JWKS), which is asked again every `refresh` and when a token names another key.

    `handshake_query` names the query parameter in which a WebSocket's handshake may have its token, since browsers give
    it no Authorization; it is not logged.

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
    handshake_query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,60}$")] = ""
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


class CertificatesModel(RuleModel):
    """Clients by the certificate that the listener's tls.client has verified: `certificate:NAME`, of the names that are
    `allowed` (all, where none is named), with claims by name as a token would have them."""

    allowed: list[str] = []
    claims: dict[str, dict[str, str]] = {}
    required: bool = False


class IdentityModel(Model):
    jwt: JwtModel | None = None
    api_keys: ApiKeysModel | None = None
    certificates: CertificatesModel | None = None

    @model_validator(mode="after")
    def _some(self) -> IdentityModel:
        if self.jwt is None and self.api_keys is None and self.certificates is None:
            raise ValueError("nobody can be known by this. Give jwt, api_keys or certificates")
        return self
