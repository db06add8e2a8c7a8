"""Bounds of a JSON document that was parsed already; names that stand twice are found without a second parser."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

_LONG_NUMBER = re.compile(rb"-?\d{%d,}|\d\.\d{%d,}" % (40, 60))
_DIGITS = bytes(0x30 if 0x30 <= one <= 0x39 else one for one in range(256))
_MANY_DIGITS = b"0" * 40
_POLLUTED = frozenset({"__proto__"})


class Complaint(Protocol):
    def __call__(self, check: str, detail: str, pointer: str = "", status: int = 400) -> Exception: ...


@dataclass(frozen=True, slots=True)
class JsonTerms:
    """`string` is characters of one; `duplicates` whether a name may stand twice in an object."""

    depth: int = 64
    keys: int = 20_000
    string: int = 1024 * 1024
    duplicates: bool = False
    nul: bool = False


def check_json(raw: bytes, value: Any, terms: JsonTerms, complaint: Complaint) -> None:
    """Raises what `complaint` makes. One walk, level by level, where the text alone can't tell that all is well."""
    if _is_plain(raw, value, terms):
        return
    level: list[tuple[str, Any]] = [("", value)]
    count = members = colons = 0
    for _ in range(terms.depth):
        below: list[tuple[str, Any]] = []
        for pointer, one in level:
            if isinstance(one, dict):
                count += len(one)
                members += len(one)
                for name, item in one.items():
                    colons += name.count(":")
                    if name in _POLLUTED or (name == "constructor" and isinstance(item, dict) and "prototype" in item):
                        raise complaint("prototype", "a name reaches for an object's prototype", pointer)
                    if isinstance(item, str):
                        colons += item.count(":")
                        _check_text(item, pointer, terms, complaint)
                    elif isinstance(item, dict | list):
                        below.append((f"{pointer}/{name}"[:200], item))
            elif isinstance(one, list):
                count += len(one)
                for item in one:
                    if isinstance(item, str):
                        colons += item.count(":")
                        _check_text(item, pointer, terms, complaint)
                    elif isinstance(item, dict | list):
                        below.append((pointer, item))
            elif isinstance(one, str):
                colons += one.count(":")
                _check_text(one, pointer, terms, complaint)
            if count > terms.keys:
                raise complaint("json", f"the document has more than {terms.keys} names and items", "", 413)
        level = below
        if not level:
            break
    else:
        raise complaint("json", f"the document nests deeper than {terms.depth}", level[0][0])
    if _MANY_DIGITS in raw.translate(_DIGITS) and _has_long_number(raw):
        raise complaint("json", "a number has more digits than anything reads exactly")
    if not terms.duplicates and raw.count(b":") != members + colons:
        _find_twice(raw, complaint)


def _is_plain(raw: bytes, value: Any, terms: JsonTerms) -> bool:
    """Whether no bound can be passed, by counts of what bounds consist of.

    Written anew the document has as many colons as before, unless a name stood twice: escapes, which could hide one,
    are not plain. More items than commas and brackets there can't be.
    """
    if len(raw) > terms.string or b"\\u" in raw or b"__proto__" in raw or b"prototype" in raw:
        return False
    opened = raw.count(b"{") + raw.count(b"[")
    if opened > terms.depth or 2 * (raw.count(b",") + opened + 1) > terms.keys:
        return False
    if _MANY_DIGITS in raw.translate(_DIGITS):
        return False
    return terms.duplicates or _colons(value) == raw.count(b":")


def _colons(value: Any) -> int:
    """Of the document written anew; -1 where it nests deeper than orjson writes, though it reads it."""
    try:
        return orjson.dumps(value).count(b":")
    except orjson.JSONEncodeError:
        return -1


def _check_text(text: str, pointer: str, terms: JsonTerms, complaint: Complaint) -> None:
    if len(text) > terms.string:
        raise complaint("json", f"a text is longer than {terms.string} characters", pointer, 413)
    if not terms.nul and "\x00" in text:
        raise complaint("nul", "a text has a NUL", pointer)


def _has_long_number(raw: bytes) -> bool:
    """Outside of texts."""
    return bool(_LONG_NUMBER.search(re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', raw)))


def _find_twice(raw: bytes, complaint: Complaint) -> None:
    """More colons than names: a name stands twice, or one was written as an escape; the slow parser knows which."""

    def checked(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise complaint("json", "a name stands twice in an object")
        return made

    json.loads(raw, object_pairs_hook=checked)


def has_name_twice(raw: bytes, value: Any) -> bool:
    """Whether a name stands twice in an object of `raw`, of which a parser that takes the last made `value`."""
    if b"\\u" not in raw and _colons(value) == raw.count(b":"):
        return False
    try:
        _find_twice(raw, _Twice)
    except (_Twice, RecursionError):
        return True
    return False


class _Twice(Exception):
    def __init__(self, check: str, detail: str, pointer: str = "", status: int = 400) -> None:
        super().__init__(detail)
