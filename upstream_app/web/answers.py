"""Answers as JSON, times in ISO 8601 with Z."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body, option=_OPTIONS), status=status, headers=headers, content_type="application/json"
    )


def success(data: dict[str, Any], message: str = "", *, status: int = 200, etag: str = "") -> web.Response:
    """`{success, data, message}`; `etag` goes out in quotes."""
    headers = {"ETag": f'"{etag}"'} if etag else None
    return json_response({"success": True, "data": data, "message": message}, status=status, headers=headers)
