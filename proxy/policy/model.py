"""What a policy file may say, as pydantic models; `policy.compile` turns it into the objects that run.

Every field has the strict default; unknown keys are errors. The JSON Schema of `Policy` is what `schema` prints.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.policy.models.answers import CookiesModel, LeaksModel, ReflectionModel
from proxy.policy.models.base import Model, Name, Networks
from proxy.policy.models.cache import CacheModel, CacheStoreModel
from proxy.policy.models.clusters import ClusterModel
from proxy.policy.models.headers import CorsModel, IpAccessModel, RequestModel, SecurityHeadersModel
from proxy.policy.models.identity import IdentityModel, RedisModel
from proxy.policy.models.inspect import InspectModel, ValidationModel
from proxy.policy.models.limits import BansModel, LimitModel
from proxy.policy.models.listener import AccessLogModel, AdminModel, ListenerModel, ReloadModel, TracesModel
from proxy.policy.models.routes import RouteModel
from proxy.policy.models.sanitize import SanitizeModel
from proxy.policy.models.schemas import OpenApiModel
from proxy.policy.models.websocket import WebSocketModel
from proxy.policy.values import Size, Span


class PolicySet(Model):
    limits: dict[Name, LimitModel] = {}
    ip: IpAccessModel | None = None
    bans: BansModel | None = None
    cors: CorsModel | None = None
    security_headers: SecurityHeadersModel | None = None
    request: RequestModel | None = None
    validation: ValidationModel | None = None
    openapi: OpenApiModel | None = None
    sanitize: SanitizeModel | None = None
    inspect: InspectModel | None = None
    leaks: LeaksModel | None = None
    reflection: ReflectionModel | None = None
    cookies: CookiesModel | None = None
    cache: CacheModel | None = None
    websocket: WebSocketModel | None = None

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
    workers: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = 1
    listener: ListenerModel
    admin: AdminModel
    trusted_proxies: Networks = []
    redis: RedisModel | None = None
    identity: IdentityModel | None = None
    access_log: AccessLogModel = AccessLogModel()
    traces: TracesModel | None = None
    reload: ReloadModel = ReloadModel()
    clusters: Annotated[dict[Name, ClusterModel], Field(min_length=1)]
    policies: dict[Name, PolicySet] = {}
    answers: AnswersModel = AnswersModel()
    usage: UsageModel = UsageModel()
    cache: CacheStoreModel = CacheStoreModel()
    defaults: DefaultsModel = DefaultsModel()
    routes: Annotated[dict[Name, RouteModel], Field(min_length=1)]

    def combined(self, used: list[str]) -> PolicySet:
        """The named sets as one, in that order. Raises KeyError or ValueError; a loaded policy's routes do neither."""
        merged = PolicySet()
        for name in used:
            merged = merged.with_later(self.policies[name])
        return merged
