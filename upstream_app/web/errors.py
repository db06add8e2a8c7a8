"""Errors in the report's shape, and the middleware that gives every failure that shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from pymongo.errors import ConnectionFailure, ExecutionTimeout, NetworkTimeout, PyMongoError, WaitQueueTimeoutError

from upstream_app.logs import request_id
from upstream_app.web.answers import json_response

log = structlog.get_logger("simplepro.web")
MAX_HEADER = 512
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MONGO_AWAY = (ConnectionFailure, ExecutionTimeout, NetworkTimeout, WaitQueueTimeoutError)


class ApiError(Exception):
    """A failure that the client is told of; `validation` lists {field, message} of what was wrong in the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        validation: list[dict[str, str]] | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.validation = validation
        self.details = details
        self.headers = headers


def header(request: web.Request, name: str) -> str:
    """A field as text that can be written anywhere: bytes that are no UTF-8 are question marks."""
    return request.headers.get(name, "")[:MAX_HEADER].encode("utf-8", "replace").decode()


def error_response(request: web.Request, error: ApiError) -> web.Response:
    body: dict[str, Any] = {
        "statusCode": error.status,
        "message": error.message,
        "error": HTTPStatus(error.status).phrase,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "path": request.path,
        "requestId": header(request, "X-Request-ID"),
        "correlationId": header(request, "X-Correlation-ID"),
    }
    if error.details is not None:
        body["details"] = error.details
    if error.validation is not None:
        body["validation"] = error.validation
    return json_response(body, status=error.status, headers=error.headers)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id.set(header(request, "X-Request-ID"))
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(request, error)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        refused = ApiError(405, f"{request.method} is not answered here; {allowed} are", headers={"Allow": allowed})
        return error_response(request, refused)
    except web.HTTPException as error:
        return error_response(request, ApiError(error.status, error.text or error.reason))
    except MONGO_AWAY as error:
        log.warning("database unavailable", error=type(error).__name__)
        away = ApiError(503, "The database can't be reached; try again shortly", headers={"Retry-After": "2"})
        return error_response(request, away)
    except PyMongoError as error:
        log.exception("database error", error=type(error).__name__)
        return error_response(request, ApiError(500, "The request failed; it has been logged"))
    except Exception:
        log.exception("request failed")
        return error_response(request, ApiError(500, "The request failed; it has been logged"))
