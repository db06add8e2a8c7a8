"""The policy's JSON Schema as editors want it: of what is written, references to the environment included."""

from __future__ import annotations

from typing import Any

from proxy.policy.model import Policy

REFERENCE = {"type": "string", "pattern": r"\$\{[^}]+\}"}
_SCALARS = frozenset({"integer", "number", "boolean"})


def schema() -> dict[str, Any]:
    made: dict[str, Any] = _widened(Policy.model_json_schema(by_alias=True, mode="validation"))
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "simplepro-proxy policy"
    return made


def _widened(node: Any, *, keys: bool = False) -> Any:
    """Wherever not any string would do, `${NAME}` may stand. `keys`: the node maps names to schemas."""
    if isinstance(node, list):
        return [_widened(one) for one in node]
    if not isinstance(node, dict):
        return node
    below = {
        key: value if key in ("default", "enum", "const", "required", "propertyNames")
        else _widened(value, keys=key in ("properties", "$defs") and not keys)
        for key, value in node.items()
    }  # fmt: skip
    kind = below.get("type")
    picky = kind == "string" and not below.keys().isdisjoint({"pattern", "enum", "const"})
    narrow = picky or (isinstance(kind, str) and kind in _SCALARS)
    if keys or not narrow:
        return below
    return {"anyOf": [below, REFERENCE]}
