"""What an OpenAPI document (3.0 and 3.1) describes, as plain data: its operations, and what its references lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

METHODS = ("head", "get", "put", "post", "delete", "options", "patch")
"""HEAD first: a route that takes GET takes it along."""


class Described(NamedTuple):
    """`path` is the whole one, with the base before it; `name` is the operation's id, or made of method and path."""

    path: str
    method: str
    name: str


def described(document: Mapping[str, Any], base: str | None = None) -> list[Described]:
    """The operations; paths without parameters come first, as OpenAPI has them matched (3.1 section 4.8.8.1). Raises
    ValueError that says where the document is wrong."""
    base = base_of(document, base)
    found = []
    for path, item in items(modern(document)):
        for method in METHODS:
            if method in item:
                given = resolved(document, item[method], f"paths.{path}.{method}")
                name = str(given.get("operationId") or f"{method} {path}")
                found.append(Described(base + path, method.upper(), name))
    return found


def base_of(document: Mapping[str, Any], base: str | None) -> str:
    """What stands before the document's paths: `base`, or the path of its first server where that is None. Raises
    ValueError where this is no OpenAPI document."""
    if not str(document.get("openapi", "")).startswith("3."):
        raise ValueError('this is no OpenAPI 3 document: it needs "openapi: 3.x"')
    if base is None:
        servers = document.get("servers") or [{}]
        if not isinstance(servers, list) or not isinstance(servers[0], Mapping):
            raise ValueError("servers: a list of objects is expected here")
        base = urlsplit(_filled(servers[0])).path
    return base.rstrip("/")


def _filled(server: Mapping[str, Any]) -> str:
    """Its URL with the defaults of its variables (3.1 section 4.8.6). Raises ValueError where one has none."""
    variables = server.get("variables")

    def default(found: re.Match[str]) -> str:
        one = variables.get(found[1]) if isinstance(variables, Mapping) else None
        if not isinstance(one, Mapping) or "default" not in one:
            raise ValueError(
                f"servers: the variable {found[1]} has no default. Say what stands before paths: base: /api"
            )
        return str(one["default"])

    return re.sub(r"\{([^}]*)\}", default, str(server.get("url", "")))


def items(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Paths with what is there. Raises ValueError."""
    paths = document.get("paths") or {}
    if not isinstance(paths, Mapping):
        raise ValueError("paths: an object is expected here")
    for path in sorted(paths, key=lambda one: str(one).count("{")):
        if not str(path).startswith("/"):
            raise ValueError(f"paths.{path}: a path begins with a slash")
        yield path, resolved(document, paths[path], f"paths.{path}")


def resolved(document: Mapping[str, Any], one: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What a reference leads to, within the document. Raises ValueError."""
    for _ in range(20):
        if not isinstance(one, Mapping):
            raise ValueError(f"{where}: an object is expected here")
        reference = one.get("$ref")
        if reference is None:
            return one
        if not str(reference).startswith("#/"):
            raise ValueError(f"{where}: refers to {reference}. Bundle the document into one file: nothing is fetched")
        found: Any = document
        for part in str(reference)[2:].split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise ValueError(f"{where}: {reference} leads nowhere")
        one = found
    raise ValueError(f"{where}: references go round in a circle")


def modern(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A document of 3.0 with 3.1's words for null and exclusive bounds (JSON Schema 2020-12); another as it is."""
    made: Mapping[str, Any] = _modern(document) if str(document.get("openapi")).startswith("3.0") else document
    return made


def _modern(value: Any) -> Any:
    if isinstance(value, list):
        return [_modern(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {key: _modern(one) for key, one in value.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if made.get(exclusive) is True:
            made[exclusive] = made.pop(bound, None)
        elif made.get(exclusive) is False:
            del made[exclusive]
    return made


def slug(name: str) -> str:
    """A name that may stand in a label: lower case, digits and dashes."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")[:60] or "operation"
