"""Requests to checked values; everything that is wrong is told at once."""

from __future__ import annotations

import re
from typing import TypeVar

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from upstream_app.web.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)
MAX_BODY = 1024 * 1024
_TAG = re.compile(r'(?:^|,)\s*"?([0-9]{1,15})"?\s*(?=,|$)')


async def body(request: web.Request, model: type[Model]) -> Model:
    """The JSON body as `model`. Raises ApiError 400, 413 or 415."""
    if request.content_type != "application/json":
        raise ApiError(415, "Send the body as application/json")
    try:
        raw = await request.read()
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        where = {"line": error.lineno, "column": error.colno}
        raise ApiError(400, "The body is no valid JSON", details=where) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise ApiError(400, "The body can't be read: it is cut, or not encoded as it says") from None
    return checked_json(raw, model)


def query(request: web.Request, model: type[Model]) -> Model:
    """The query string as `model`; a name given twice is an error."""
    twice = sorted({name for name in request.query if len(request.query.getall(name)) > 1})
    if twice:
        raise ApiError(400, "Validation failed", validation=[{"field": n, "message": "given twice"} for n in twice])
    return checked(dict(request.query), model)


def checked_json(raw: bytes, model: type[Model]) -> Model:
    """Strictly: a text is no number, and a number no day or truth. Raises ApiError."""
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise _failed(error) from None


def checked(given: object, model: type[Model]) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _failed(error) from None


def _failed(error: ValidationError) -> ApiError:
    return ApiError(400, "Validation failed", validation=[_told(one) for one in error.errors()])


def _told(error: ErrorDetails) -> dict[str, str]:
    field = ".".join(str(part) for part in error["loc"])
    message = "unknown field" if error["type"] == "extra_forbidden" else error["msg"]
    return {"field": field, "message": message}


def expected_versions(request: web.Request) -> frozenset[int] | None:
    """The versions that If-Match asks for, None where any will do (RFC 9110 section 13.1.1); weak tags match none."""
    given = ",".join(request.headers.getall("If-Match", ())).strip()
    if not given or given == "*":
        return None
    versions = frozenset(int(one) for one in _TAG.findall(given))
    if not versions:
        raise ApiError(412, "If-Match names no version of this document")
    return versions
