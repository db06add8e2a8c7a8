"""An OpenAPI document (3.0 and 3.1) as what requests have to be: operations, parameters, and bodies by JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jsonschema_rs
import orjson

from proxy.inspect.description import METHODS, base_of, items, modern, resolved
from proxy.inspect.parts import pairs

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
_INTEGER = re.compile(r"-?\d{1,30}")
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?")
_UNTOLD = {"accept", "content-type", "authorization"}
"""Header parameters that OpenAPI says are to be ignored (3.1 section 4.8.12.1)."""


class Violation(NamedTuple):
    """`where` is a parameter's name or a JSON Pointer, `what` a text without anything that was sent."""

    where: str
    what: str


Check = Callable[[Any], Violation | None]


def schema_check(schema: dict[str, Any] | bool) -> Check:
    """What a value lacks by a JSON Schema: where, and the keyword that it does not satisfy. Raises ValueError."""
    try:
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    except (ValueError, jsonschema_rs.ValidationError) as error:
        raise ValueError(f"no JSON Schema: {str(error).splitlines()[0]}") from None

    def check(value: Any) -> Violation | None:
        if validator.is_valid(value):
            return None
        error = next(iter(validator.iter_errors(value)))
        pointer = "".join(f"/{part}" for part in error.instance_path)[:200]
        keyword = next((part for part in reversed(error.schema_path) if isinstance(part, str)), "its schema")
        return Violation(pointer, f"does not satisfy {keyword}")

    return check


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    place: str
    required: bool
    kinds: frozenset[str]
    """Types that its schema takes; empty is any."""
    items: frozenset[str]
    exploded: bool
    check: Check

    def violation(self, given: list[str]) -> Violation | None:
        if not given:
            return Violation(self.name, f"is missing ({self.place})") if self.required else None
        if "array" in self.kinds:
            texts = given if self.exploded else [item for one in given for item in one.split(",")]
            value: Any = [_typed(text, self.items) for text in texts]
        elif len(given) > 1:
            return Violation(self.name, f"is there more than once ({self.place})")
        elif "object" in self.kinds:
            return None
        else:
            value = _typed(given[0], self.kinds)
        found = self.check(value)
        return None if found is None else Violation(self.name, f"{found.what} ({self.place})")


def _typed(text: str, kinds: frozenset[str]) -> Any:
    """As the schema's type has it; a text that is none stays one, and fails the schema."""
    if "integer" in kinds and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in kinds and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    if "object" in kinds and text[:1] == "{":
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return None if "null" in kinds and text == "null" else text


@dataclass(frozen=True, slots=True)
class FormShape:
    """What a form's texts mean by the types of its schema's properties; `items` are those of arrays' members."""

    kinds: Mapping[str, frozenset[str]]
    items: Mapping[str, frozenset[str]]

    def value(self, form: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """As the schema sees it: a name that stands several times is an array, and so is what the schema calls one."""
        given: dict[str, list[str]] = {}
        for name, text in form:
            given.setdefault(name, []).append(text)
        made: dict[str, Any] = {}
        for name, texts in given.items():
            kinds = self.kinds.get(name, frozenset())
            if "array" in kinds:
                made[name] = [_typed(text, self.items.get(name, frozenset())) for text in texts]
            elif len(texts) > 1:
                made[name] = texts
            else:
                made[name] = _typed(texts[0], kinds)
        return made


@dataclass(frozen=True, slots=True)
class Operation:
    path: str
    method: str
    parameters: tuple[Parameter, ...]
    bodies: Mapping[str, Check]
    """By media type; ranges end with a star."""
    forms: Mapping[str, FormShape]
    """By media type, of forms."""
    body_required: bool
    query_names: frozenset[str]
    open_query: bool
    """Whether a parameter is an object, whose members' names are nobody's to know."""

    def violations(
        self, path: Mapping[str, str], query: bytes, headers: Mapping[bytes, bytes], cookies: Mapping[str, str]
    ) -> Iterator[Violation]:
        """Of all but the body."""
        asked: dict[str, list[str]] = {}
        for name, value in pairs(query.decode("latin-1").removeprefix("?")):
            asked.setdefault(name, []).append(value)
        for one in self.parameters:
            if one.place == "query":
                given = asked.get(one.name, [])
            elif one.place == "path":
                given = [path[one.name]] if one.name in path else []
            else:
                found = (
                    cookies.get(one.name)
                    if one.place == "cookie"
                    else headers.get(one.name.lower().encode(), b"").decode("latin-1")
                )
                given = [found] if found else []
            if (wrong := one.violation(given)) is not None:
                yield wrong

    def unknown(self, query: bytes) -> list[str]:
        """Parameters of the query that the operation does not have."""
        if self.open_query or len(query) < 2:
            return []
        names = dict.fromkeys(name for name, _ in pairs(query.decode("latin-1").removeprefix("?")))
        return [name for name in names if name not in self.query_names]

    def body_check(self, media_type: str) -> Check | None:
        """None where any body of that type will do. Raises KeyError where none of that type is taken."""
        if not self.bodies:
            return None
        main = media_type.partition("/")[0]
        for name in (media_type, f"{main}/*", "*/*"):
            if name in self.bodies:
                return self.bodies[name]
        raise KeyError(media_type)


class Contract:
    """The operations of a document, by path and method. `base` stands before the document's paths; where it is None,
    the path of its first server does."""

    __slots__ = ("_exact", "_templates", "operations")

    def __init__(self, document: Mapping[str, Any], base: str | None = None) -> None:
        """Raises ValueError that says where the document is wrong."""
        base = base_of(document, base)
        self.operations: list[Operation] = []
        self._exact: dict[str, dict[str, Operation]] = {}
        self._templates: list[tuple[re.Pattern[str], list[str], dict[str, Operation]]] = []
        shaped = modern(document)
        for path, item in items(shaped):
            made = {
                method.upper(): _operation(shaped, base + path, method, item[method], item, f"paths.{path}.{method}")
                for method in METHODS
                if method in item
            }
            self.operations += made.values()
            if "{" not in path:
                self._exact[base + path] = made
            else:
                names = re.findall(r"\{([^}]+)\}", path)
                pattern = re.sub(r"\\\{[^}]+\\\}", "([^/]+)", re.escape(base + path))
                self._templates.append((re.compile(pattern), names, made))

    def find(self, method: str, path: str) -> tuple[Operation | None, dict[str, str], list[str]]:
        """The operation and its path parameters; else None, and the methods that the path has."""
        there = self._exact.get(path)
        values: dict[str, str] = {}
        if there is None:
            for pattern, names, made in self._templates:
                if (match := pattern.fullmatch(path)) is not None:
                    there, values = made, dict(zip(names, match.groups(), strict=True))
                    break
        if there is None:
            return None, {}, []
        asked = there.get(method) or (there.get("GET") if method == "HEAD" else None)
        return asked, values, sorted(there)


def _operation(
    document: Mapping[str, Any], path: str, method: str, given: Mapping[str, Any], item: Mapping[str, Any], where: str
) -> Operation:
    parameters: dict[tuple[str, str], Parameter] = {}
    for one in [*item.get("parameters", ()), *given.get("parameters", ())]:
        made = _parameter(document, resolved(document, one, where), where)
        if made.place != "header" or made.name.lower() not in _UNTOLD:
            parameters[made.place, made.name] = made
    body = resolved(document, given.get("requestBody") or {}, where)
    bodies: dict[str, Check] = {}
    forms: dict[str, FormShape] = {}
    for name, content in (body.get("content") or {}).items():
        if name.lower() in (FORM, MULTIPART):
            forms[name.lower()] = _form_shape(document, content.get("schema", {}), where)
        bodies[name.lower()] = _check(document, content.get("schema", True), f"{where}.requestBody.{name}")
    return Operation(
        path, method.upper(), tuple(parameters.values()), bodies, forms, bool(body.get("required")),
        frozenset(
            name + suffix for place, name in parameters if place == "query" for suffix in ("", "[]")
        ),
        any("object" in one.kinds for one in parameters.values() if one.place == "query"),
    )  # fmt: skip


def _parameter(document: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Parameter:
    try:
        name, place = str(given["name"]), str(given["in"])
    except KeyError as error:
        raise ValueError(f"{where}: a parameter has no {error}") from None
    schema = given.get("schema", True)
    plain = resolved(document, schema, where) if isinstance(schema, dict) else {}
    items = plain.get("items")
    return Parameter(
        name,
        place,
        bool(given.get("required")) or place == "path",
        _kinds(plain),
        _kinds(resolved(document, items, where)) if isinstance(items, dict) else frozenset(),
        given.get("explode", given.get("style", "form") == "form"),
        _check(document, schema, f"{where}.{name}"),
    )


def _form_shape(document: Mapping[str, Any], schema: Any, where: str) -> FormShape:
    plain = resolved(document, schema, where) if isinstance(schema, dict) else {}
    kinds: dict[str, frozenset[str]] = {}
    items: dict[str, frozenset[str]] = {}
    for part in (plain, *[resolved(document, one, where) for one in plain.get("allOf", ())]):
        for name, given in (part.get("properties") or {}).items():
            one = resolved(document, given, where) if isinstance(given, dict) else {}
            kinds[name] = _kinds(one)
            below = one.get("items")
            items[name] = _kinds(resolved(document, below, where)) if isinstance(below, dict) else frozenset()
    return FormShape(kinds, items)


def _kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    kind = schema.get("type", ())
    return frozenset([kind] if isinstance(kind, str) else kind)


def _check(document: Mapping[str, Any], schema: Any, where: str) -> Check:
    """The document's components go along, so that references lead where they led."""
    if isinstance(schema, dict):
        schema = {**schema, "components": document.get("components", {})}
    try:
        return schema_check(schema)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
