"""JSON Schemas and OpenAPI documents in a policy."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs
import orjson
import yaml

from proxy.policy.models.base import RuleModel

MAX_DOCUMENT = 16 * 1024 * 1024


def check_schema(what: str, schema: dict[str, Any]) -> None:
    """A reference may only be to the schema's own parts: nothing is fetched. Raises ValueError."""
    parts: list[Any] = [schema]
    for part in parts:
        if isinstance(part, dict):
            reference = part.get("$ref", "#")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise ValueError(f"{what} refers to {reference}. Write it into the schema itself")
            parts += part.values()
        elif isinstance(part, list):
            parts += part
    try:
        jsonschema_rs.validator_for(schema)
    except (ValueError, jsonschema_rs.ValidationError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(f"{what} is no JSON Schema: {text}") from None


class OpenApiModel(RuleModel):
    """Requests have to be what the document (OpenAPI 3.0 or 3.1, YAML or JSON) says. `base` stands before its paths;
    without it, the path of its first server does."""

    file: str
    base: str | None = None
    unknown_parameters: Literal["ignore", "shadow", "reject"] = "shadow"
    unknown_operations: Literal["pass", "refuse"] = "pass"


def stamp(file: str) -> tuple[int, ...]:
    """What changes where the file does; all zeros where there is none."""
    try:
        told = os.stat(file)
    except OSError:
        return (0, 0, 0)
    return (told.st_mtime_ns, told.st_size, told.st_ino)


def read_document(file: str) -> dict[str, Any]:
    """Read once, for all routes that name it; nobody changes it. Raises ValueError that says why it can't be used."""
    return _read(file, stamp(file))


@functools.lru_cache(maxsize=16)
def _read(file: str, _: tuple[int, ...]) -> dict[str, Any]:
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_DOCUMENT + 1)
        if len(text) > MAX_DOCUMENT:
            raise ValueError(f"{file} is larger than {MAX_DOCUMENT // 1024 // 1024} MiB")
        found = _parsed(text)
    except OSError as error:
        raise ValueError(f"{file} can't be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML or JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no object: names and values are expected")
    return found


def _parsed(text: bytes) -> Any:
    """JSON thirty times as quickly as YAML, which it is too. Raises yaml.YAMLError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(text, Loader=loader)  # noqa: S506  # nosec B506  # both are safe
