"""The OpenAPI 3.1 document, made from the table of endpoints, and a page that shows it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic.json_schema import models_json_schema

from upstream_app import __version__
from upstream_app.web.answers import json_response
from upstream_app.web.endpoint import ANYBODY, Endpoint

ERRORS = {
    400: "What was sent is not valid; `validation` says where",
    401: "Not logged in, or not any more",
    403: "This role may not",
    404: "There is none, or none that the asker may see",
    409: "It does not go with what is there",
    412: "It has changed since the version in If-Match",
    413: "The body is too large",
    415: "The body is no JSON",
    429: "Too many; Retry-After says when",
    503: "A dependency is away; Retry-After says when",
}
_IN_PATH = {"date": {"type": "string", "format": "date"}}
_TEXT = {"type": "string", "minLength": 1}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    models = {model for one in endpoints for model in (one.body, one.query) if model is not None}
    inputs: list[Any] = [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)]
    references, definitions = models_json_schema(inputs, ref_template="#/components/schemas/{model}")
    schemas = dict(definitions.get("$defs", {})) | {"Error": _ERROR, "Success": _SUCCESS, "List": _LIST}
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "SimplePro", "version": __version__, "description": "A moving company's CRM."},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["statusCode", "message", "error", "timestamp", "path", "requestId", "correlationId"],
    "properties": {
        "statusCode": {"type": "integer"},
        "message": {"type": "string"},
        "error": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "path": {"type": "string"},
        "requestId": {"type": "string"},
        "correlationId": {"type": "string"},
        "details": {"type": "object"},
        "validation": {"type": "array", "items": {"type": "object"}},
    },
}


_SUCCESS: dict[str, Any] = {
    "type": "object",
    "required": ["success", "data", "message"],
    "properties": {"success": {"const": True}, "data": {"type": "object"}, "message": {"type": "string"}},
    "additionalProperties": False,
}
_NATURAL = {"type": "integer", "minimum": 0}
_LIST: dict[str, Any] = {
    "type": "object",
    "required": ["success", "count", "pagination"],
    "properties": {
        "success": {"const": True},
        "count": _NATURAL,
        "filters": {"type": "object"},
        "pagination": {
            "type": "object",
            "required": ["page", "limit", "total", "totalPages", "next"],
            "properties": {
                "page": {"type": "integer", "minimum": 1},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100},
                "total": _NATURAL,
                "totalPages": _NATURAL,
                "next": {"type": ["string", "null"]},
            },
        },
    },
    "additionalProperties": {"type": "array", "items": {"type": "object", "required": ["id"]}},
}


def _operation(one: Endpoint, references: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _IN_PATH.get(name, _TEXT),
        }
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    if one.query is not None:
        shape = one.query.model_json_schema(ref_template="#/components/schemas/{model}")
        parameters += [
            {"name": name, "in": "query", "required": name in shape.get("required", []), "schema": _plain(field)}
            for name, field in shape.get("properties", {}).items()
        ]
    if one.method == "GET":
        parameters.append({"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}})
    if one.method in ("PATCH", "DELETE"):
        parameters.append({"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}})
    told: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', one.path)}",
        "tags": [one.tag],
        "parameters": parameters,
        "responses": {
            str(one.status): {"description": "Done", "content": {"application/json": {"schema": _shape(one)}}},
            **{str(status): _error(text) for status, text in ERRORS.items()},
        },
        "x-permission": one.permission,
    }
    if one.method == "GET":
        told["responses"]["304"] = {"description": "What If-None-Match names is what there is"}
    if one.status != 200:
        told["responses"]["200"] = told["responses"][str(one.status)]
    if one.body is not None:
        schema = references[(one.body, "validation")]
        told["requestBody"] = {"required": not one.body_optional, "content": {"application/json": {"schema": schema}}}
    if one.permission != ANYBODY:
        told["security"] = [{"bearer": []}]
    return told


def _shape(one: Endpoint) -> dict[str, Any]:
    """A list where the handler pages, else one document in the report's envelope."""
    return {"$ref": f"#/components/schemas/{'List' if one.pages else 'Success'}"}


def _error(text: str) -> dict[str, Any]:
    shape = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {"description": text, "content": {"application/json": shape, "application/problem+json": {"schema": {}}}}


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is never null: it is left out instead."""
    if "anyOf" in field:
        kinds = [one for one in field["anyOf"] if one.get("type") != "null"]
        if len(kinds) == 1:
            only: dict[str, Any] = kinds[0]
            return only
    return {key: value for key, value in field.items() if key != "default" or value is not None}


def _kind(schema: dict[str, Any]) -> str:
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2] or "any")


def routes(endpoints: Sequence[Endpoint]) -> list[web.RouteDef]:
    made = document(endpoints)
    page = _page(made)

    async def openapi(request: web.Request) -> web.Response:
        return json_response(made)

    async def docs(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    return [web.get("/api/openapi.json", openapi), web.get("/api/docs", docs)]


def _page(made: dict[str, Any]) -> str:
    """One static page, no script and no other host."""
    rows = []
    for path, operations in made["paths"].items():
        for method, one in operations.items():
            body = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            shape = body.get("$ref", "").rpartition("/")[2]
            link = f'<a href="#{html.escape(shape)}">{html.escape(shape)}</a>' if shape else ""
            cells = (f"<b>{method.upper()}</b>", f"<code>{html.escape(path)}</code>", html.escape(one["summary"]),
                     link, html.escape(one["x-permission"]))  # fmt: skip
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    shapes = []
    for name, schema in sorted(made["components"]["schemas"].items()):
        fields = "".join(
            f"<li><code>{html.escape(field)}</code>{' *' if field in schema.get('required', []) else ''} "
            f"<small>{html.escape(_kind(kind))}</small></li>"
            for field, kind in schema.get("properties", {}).items()
        )
        shapes.append(f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3><ul>{fields}</ul>')
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>SimplePro {__version__}</title><h1>SimplePro {__version__}</h1>"
        '<p><a href="/api/openapi.json">openapi.json</a></p>'
        f"<table><thead><tr><th>Method<th>Path<th>What<th>Body<th>Who</tr></thead>{''.join(rows)}</table>"
        f"<h2>Bodies</h2>{''.join(shapes)}</html>"
    )
