"""An OpenAPI document as requests have to be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.openapi import FORM, Contract, schema_check
from proxy.inspect.parts import pairs

DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.3",
    "servers": [{"url": "https://api.example.com/v1/"}],
    "paths": {
        "/moves/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}],
            "get": {"parameters": [{"$ref": "#/components/parameters/Page"}]},
            "put": {"requestBody": {"$ref": "#/components/requestBodies/Move"}},
        },
        "/moves/latest": {"get": {}},
        "/moves": {
            "get": {
                "parameters": [
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "ids", "in": "query", "explode": False,
                     "schema": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
                    {"name": "open", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "X-Tenant", "in": "header", "required": True,
                     "schema": {"type": "string", "minLength": 2}},
                    {"name": "theme", "in": "cookie", "schema": {"enum": ["dark", "light"]}},
                    {"name": "Authorization", "in": "header", "required": True, "schema": {"type": "string"}},
                ]
            }
        },
    },
    "components": {
        "parameters": {"Page": {"name": "page", "in": "query", "schema": {"type": "integer", "exclusiveMinimum": True,
                                                                         "minimum": 0}}},
        "requestBodies": {"Move": {"required": True, "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Move"}}, "text/*": {}}}},
        "schemas": {"Move": {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {
            "name": {"type": "string"}, "note": {"type": "string", "nullable": True},
            "next": {"$ref": "#/components/schemas/Move"}}}},
    },
}  # fmt: skip
CONTRACT = Contract(DOCUMENT)


def wrong(method: str, path: str, query: bytes = b"", headers: dict[bytes, bytes] | None = None,
          cookies: dict[str, str] | None = None) -> list[str]:  # fmt: skip
    operation, values, _ = CONTRACT.find(method, path)
    assert operation is not None
    return [f"{one.where} {one.what}" for one in operation.violations(values, query, headers or {}, cookies or {})]


TENANT = {b"x-tenant": b"acme"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", []),
        (b"?tag=a&tag=b&ids=1,2&open=true", []),
        (b"?ids=1,2,3", ["ids does not satisfy maxItems (query)"]),
        (b"?ids=1,x", ["ids does not satisfy type (query)"]),
        (b"?open=yes", ["open does not satisfy type (query)"]),
        (b"?open=true&open=false", ["open is there more than once (query)"]),
    ],
)
def test_query(query: bytes, found: list[str]) -> None:
    assert wrong("GET", "/v1/moves", query, TENANT) == found


def test_path_header_and_cookie() -> None:
    assert wrong("GET", "/v1/moves/7") == []
    assert wrong("HEAD", "/v1/moves/7", b"?page=1") == []
    assert wrong("GET", "/v1/moves/0", b"?page=0") == [
        "id does not satisfy minimum (path)", "page does not satisfy exclusiveMinimum (query)",
    ]  # fmt: skip
    assert wrong("GET", "/v1/moves/latest") == []
    assert wrong("GET", "/v1/moves") == ["X-Tenant is missing (header)"]
    assert wrong("GET", "/v1/moves", b"", {b"x-tenant": b"a"}, {"theme": "pink"}) == [
        "X-Tenant does not satisfy minLength (header)", "theme does not satisfy enum (cookie)",
    ]  # fmt: skip


def test_what_is_not_there() -> None:
    assert CONTRACT.find("GET", "/moves") == (None, {}, [])
    assert CONTRACT.find("POST", "/v1/moves/7") == (None, {"id": "7"}, ["GET", "PUT"])
    operation, _, _ = CONTRACT.find("GET", "/v1/moves")
    assert operation is not None
    assert operation.unknown(b"?tag=1&tag[]=1&x=1&x=2&y") == ["x", "y"]


def test_bodies() -> None:
    operation, _, _ = CONTRACT.find("PUT", "/v1/moves/7")
    assert operation is not None
    assert operation.body_required
    check = operation.body_check("application/json")
    assert check is not None
    assert check({"name": "a", "note": None, "next": {"name": "b"}}) is None
    assert check({"name": "a", "next": {"name": 7}}) == ("/next/name", "does not satisfy type")
    assert check({"name": "a", "role": "admin"}) == ("", "does not satisfy additionalProperties")
    assert operation.body_check("text/csv") is not None
    with pytest.raises(KeyError):
        operation.body_check("image/png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"openapi": "2.0"}, "OpenAPI 3"),
        ({"paths": {"/a": {"$ref": "other.yaml"}}}, "nothing is fetched"),
        ({"paths": {"/a": {"get": {"parameters": [{"name": "x"}]}}}}, "no 'in'"),
        ({"paths": {"/a": {"get": {"parameters": [{"$ref": "#/nowhere"}]}}}}, "leads nowhere"),
        ({"paths": {"/a": {"$ref": "#/paths/~1a"}}}, "circle"),
        ({"paths": {"/a": {"get": {"parameters": [{"name": "x", "in": "query", "schema": {"type": "strin"}}]}}}},
         "paths./a.get.x: no JSON Schema"),
    ],
)  # fmt: skip
def test_a_wrong_document_is_told_where(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Contract({**DOCUMENT, **change})


@given(st.text(), st.binary(max_size=60))
def test_strangers_bytes_never_raise(path: str, query: bytes) -> None:
    for at in (path, "/v1/moves/7", "/v1/moves"):
        operation, values, _ = CONTRACT.find("GET", at)
        if operation is not None:
            list(operation.violations(values, b"?" + query, {}, {}))
            operation.unknown(b"?" + query)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_what_is_told_holds_nothing_of_values(value: Any) -> None:
    found = schema_check({"type": "string", "maxLength": 3})(value)
    assert (found is None) == (isinstance(value, str) and len(value) <= 3)
    assert found is None or found.what in ("does not satisfy type", "does not satisfy maxLength")


FORMS = Contract(
    {
        "openapi": "3.1.0",
        "paths": {
            "/find": {
                "post": {
                    "requestBody": {
                        "content": {
                            "application/x-www-form-urlencoded": {
                                "schema": {
                                    "type": "object",
                                    "required": ["page"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "page": {"type": "integer", "minimum": 1},
                                        "open": {"type": "boolean"},
                                        "tags": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
                                        "name": {"type": "string"},
                                    },
                                }
                            }
                        }
                    }
                }
            }
        },
    }
)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("page=2&open=true&tags=1&tags=2&name=7", None),
        ("page=1&tags=5", None),
        ("page=0", "/page does not satisfy minimum"),
        ("page=x", "/page does not satisfy type"),
        ("page=1&page=2", "/page does not satisfy type"),
        ("open=true", " does not satisfy required"),
        ("page=1&tags=1&tags=2&tags=3", "/tags does not satisfy maxItems"),
        ("page=1&admin=1", " does not satisfy additionalProperties"),
    ],
)
def test_forms_are_held_against_their_schema(form: str, expected: str | None) -> None:
    operation, _, _ = FORMS.find("POST", "/find")
    assert operation is not None
    check = operation.body_check(FORM)
    assert check is not None
    found = check(operation.forms[FORM].value(pairs(form)))
    assert (None if found is None else f"{found.where} {found.what}") == expected
