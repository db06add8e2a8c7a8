"""What the application answers, as a table: from it come the routes, who may call them, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiohttp import web
from bson import ObjectId
from pydantic import BaseModel

from breaker import Breaker, BreakerOpen
from upstream_app.auth.permissions import Actor, Scope
from upstream_app.documents import Conflict, Duplicate, NotFound, TooLarge, identity
from upstream_app.mongo import asking
from upstream_app.web.answers import success
from upstream_app.web.errors import MONGO_AWAY, ApiError
from upstream_app.web.lists import Page
from upstream_app.web.requests import body, checked, expected_versions, query

ANYBODY, ANY_USER = "anybody", "any user"
"""In a permission's place."""
Model = TypeVar("Model", bound=BaseModel)


class Call:
    """One request to an endpoint; `actor` is who asks, `scope` how far the endpoint's permission reaches for them."""

    def __init__(self, request: web.Request, actor: Actor | None, scope: Scope) -> None:
        self.request = request
        self._actor = actor
        self.scope = scope
        self.given: BaseModel | None = None
        self.asked: BaseModel | None = None

    @property
    def actor(self) -> Actor:
        if self._actor is None:
            raise ApiError(401, "Log in first")
        return self._actor

    @property
    def reach(self) -> str:
        """Whose eyes an answer is for, as keys of the cache name it: all who may see all, or this user."""
        return "all" if self.scope == "all" else f"{self.scope}:{self.actor.user}"

    @property
    def known(self) -> Actor | None:
        return self._actor

    @property
    def expected(self) -> frozenset[int] | None:
        return expected_versions(self.request)

    def id(self, name: str = "id", noun: str = "document") -> ObjectId:
        """Raises NotFound where it is none."""
        return identity(self.request.match_info[name], noun)

    def body(self, kind: type[Model]) -> Model:
        if not isinstance(self.given, kind):
            raise TypeError(f"this endpoint's body is no {kind.__name__}")
        return self.given

    def query(self, kind: type[Model]) -> Model:
        if not isinstance(self.asked, kind):
            raise TypeError(f"this endpoint's query is no {kind.__name__}")
        return self.asked


Handler = Callable[[Call], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`permission` is `resource:action`, ANY_USER or ANYBODY; `status` the one of success; `may_miss` where the path
    names a document that may not be there."""

    method: str
    path: str
    handler: Handler
    permission: str
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    status: int = 200
    body_optional: bool = False
    plain: bool = False
    """An answer in the envelope of one document though the query has pages."""

    @property
    def pages(self) -> bool:
        """Whether it answers with a page of documents."""
        return self.query is not None and issubclass(self.query, Page) and not self.plain

    @property
    def tag(self) -> str:
        return self.path.split("/")[2]


class Authenticate(Protocol):
    async def __call__(self, request: web.Request) -> Actor | None:
        """Who asks; None where no token was sent. Raises ApiError where one is not good."""


Audit = Callable[[web.Request, Actor | None, Endpoint, int], Awaitable[None]]
"""Request, who asked, what, and the status that it came to."""


def routes(
    endpoints: Sequence[Endpoint], authenticate: Authenticate, audit: Audit, database: Breaker
) -> list[web.RouteDef]:
    return [web.route(one.method, one.path, _guarded(one, authenticate, audit, database)) for one in endpoints]


def _guarded(
    endpoint: Endpoint, authenticate: Authenticate, audit: Audit, database: Breaker
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        actor = await authenticate(request)
        status = 500
        try:
            response = await _asked(endpoint, await _read(endpoint, request, actor), database)
            status = response.status
            return response
        except ApiError as error:
            status = error.status
            raise
        except MONGO_AWAY:
            status = 503
            raise
        finally:
            if endpoint.method != "GET" and (actor is not None or endpoint.permission == ANYBODY):
                await audit(request, actor, endpoint, status)

    return answer


async def _read(endpoint: Endpoint, request: web.Request, actor: Actor | None) -> Call:
    """Raises ApiError: 401, 403, and what is wrong with query or body."""
    call = Call(request, actor, _scope(endpoint, actor))
    if endpoint.query is not None:
        call.asked = query(request, endpoint.query)
    if endpoint.body is not None:
        empty = endpoint.body_optional and not request.can_read_body
        call.given = checked({}, endpoint.body) if empty else await body(request, endpoint.body)
    return call


def _scope(endpoint: Endpoint, actor: Actor | None) -> Scope:
    if endpoint.permission == ANYBODY:
        return "all"
    if actor is None:
        raise ApiError(401, "Log in, and send the access token", headers={"WWW-Authenticate": "Bearer"})
    if endpoint.permission == ANY_USER:
        return "all"
    scope = actor.scope(endpoint.permission)
    if scope is None:
        raise ApiError(403, f"Your role may not do this ({endpoint.permission})")
    return scope


async def _asked(endpoint: Endpoint, call: Call, database: Breaker) -> web.Response:
    """The handler's answer; a database that is away is asked less and less (the breaker), and answers 503."""
    try:
        token = database.admit()
    except BreakerOpen as error:
        wait = str(max(1, round(error.retry_after)))
        raise ApiError(503, "The database can't be reached; try again shortly", headers={"Retry-After": wait}) from None
    asked = asking()
    try:
        response = await endpoint.handler(call)
    except MONGO_AWAY:
        database.failure(token)
        raise
    except NotFound as error:
        database.success(token)
        raise ApiError(404, str(error)) from None
    except Duplicate as error:
        database.success(token)
        taken = [{"field": error.field, "message": "taken"}]
        raise ApiError(409, str(error), validation=taken) from None
    except TooLarge as error:
        database.neutral(token)
        raise ApiError(413, str(error)) from None
    except Conflict as error:
        database.success(token)
        raise ApiError(412 if error.expected else 409, str(error)) from None
    except BaseException:
        database.neutral(token)
        raise
    if asked.answered:
        database.success(token)
    else:
        database.neutral(token)
    return response


def shown(document: dict[str, Any], message: str = "", status: int = 200, path: str = "") -> web.Response:
    """One document with its version as ETag; `path` where it was made."""
    response = success(document, message, status=status, etag=str(document["version"]))
    if path:
        response.headers["Location"] = f"{path}/{document['id']}"
    return response
