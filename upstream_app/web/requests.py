"""Requests to checked values; everything that is wrong is told at once."""

from __future__ import annotations

from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from upstream_app.web.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)
MAX_BODY = 1024 * 1024


async def body(request: web.Request, model: type[Model]) -> Model:
    """The JSON body as `model`. Raises ApiError 400, 413 or 415."""
    if request.content_type != "application/json":
        raise ApiError(415, "Send the body as application/json")
    raw = await request.read()
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        where = {"line": error.lineno, "column": error.colno}
        raise ApiError(400, "The body is no valid JSON", details=where) from None
    return checked(given, model)


def query(request: web.Request, model: type[Model]) -> Model:
    """The query string as `model`; a name given twice is an error."""
    twice = sorted({name for name in request.query if len(request.query.getall(name)) > 1})
    if twice:
        raise ApiError(400, "Validation failed", validation=[{"field": n, "message": "given twice"} for n in twice])
    return checked(dict(request.query), model)


def checked(given: object, model: type[Model]) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ApiError(400, "Validation failed", validation=[_told(one) for one in error.errors()]) from None


def _told(error: ErrorDetails) -> dict[str, str]:
    field = ".".join(str(part) for part in error["loc"])
    message = "unknown field" if error["type"] == "extra_forbidden" else error["msg"]
    return {"field": field, "message": message}


def expected_version(request: web.Request) -> int | None:
    """The version that If-Match asks for, None where it asks for none (RFC 9110 section 13.1.1)."""
    given = request.headers.get("If-Match", "").strip()
    if not given or given == "*":
        return None
    text = given.strip('"')
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise ApiError(412, "If-Match names no version of this document")
    return int(text)
