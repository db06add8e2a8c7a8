"""A request as the values that its application will read: each with its place, a pointer to it, and decoded once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from proxy.inspect.decoding import percent

_URL = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]{1,20}:)?//[^\s<>\"'`\\(){}|^;]+$")
_TORN = re.compile(r"<|%3c|&(?:amp;)?(?:lt|gt|#)", re.I)
_PAIRS = re.compile(r"[?&]?[\w.\[\]%-]{1,60}=[^&\s]*(?:&[\w.\[\]%~-]{1,60}=[^&\s]*)+$")


SKIPPED = frozenset(
    b"host connection content-length transfer-encoding upgrade sec-websocket-key sec-websocket-version "
    b"sec-websocket-extensions keep-alive expect upgrade-insecure-requests".split()
)
"""Header fields that the proxy reads itself, or that go no further."""
_TOKEN = re.compile(r"bearer [A-Za-z0-9._~+/-]+=*", re.I)


class Part(NamedTuple):
    """`pointer` is a parameter's name, or a JSON Pointer (RFC 6901) into it; `key` is whether a name is meant.

    `only` is the one kind of finding that counts, where several values are looked at as one.
    """

    place: str
    pointer: str
    value: str
    key: bool = False
    only: str = ""


def pairs(raw: str, separator: str = "&") -> Iterator[tuple[str, str]]:
    """Names and values of a query or a form, decoded once as forms are (WHATWG URL section 5.1)."""
    for item in raw.split(separator):
        if item:
            name, _, value = item.partition("=")
            yield decoded(name), decoded(value)


def torn(raw: str) -> bool:
    """Whether markup may lie over several parameters, since an entity's ampersand parted it."""
    return "&" in raw and _TORN.search(raw) is not None


def decoded(text: str) -> str:
    """Percent signs and plus, once; what is no UTF-8 is read as lenient decoders do, so that nothing is lost."""
    if "+" in text:
        text = text.replace("+", " ")
    return percent(text) if "%" in text else text


def unfolded(place: str, pointer: str, value: str, depth: int = 0) -> Iterator[Part]:
    """A value that is itself JSON, a URL or a query is read as such: its own parts, and not its punctuation."""
    first = value[:1]
    if first in ("{", "[") and depth < 3:
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict | list):
            yield from of_json(place, pointer, found, depth + 1)
            return
    if "=" in value and depth < 3 and len(value) < 16_384:
        if _URL.match(value):
            address, _, rest = value.partition("?")
            rest, _, fragment = rest.partition("#")
            yield Part(place, pointer, address)
            for name, one in pairs(rest):
                yield from unfolded(place, f"{pointer}/{name}", one, depth + 1)
            if fragment:
                yield Part(place, pointer, decoded(fragment))
            return
        if "&" in value and _PAIRS.match(value):
            for name, one in pairs(value.lstrip("?&")):
                yield Part(place, pointer, name, key=True)
                yield from unfolded(place, f"{pointer}/{name}", one, depth + 1)
            return
    yield Part(place, pointer, value)


def of_json(place: str, pointer: str, value: Any, depth: int = 0) -> list[Part]:
    """Strings and names of what orjson read, without recursion over the tree."""
    found: list[Part] = []
    add = found.append
    stack: list[tuple[str, Any]] = [(pointer, value)]
    while stack:
        where, one = stack.pop()
        kind = type(one)
        if kind is dict:
            for name, below in one.items():
                if name:
                    add(_part(Part, (place, where, name, True, "")))
                kind = type(below)
                if kind is str or kind is dict or kind is list:
                    step = escaped(name) if "~" in name or "/" in name else name
                    if kind is not str:
                        stack.append((f"{where}/{step}", below))
                    elif "=" not in below and below[:1] not in _OPENS:
                        if below:
                            add(_part(Part, (place, f"{where}/{step}", below, False, "")))
                    else:
                        found.extend(unfolded(place, f"{where}/{step}", below, depth + 1))
        elif kind is list:
            for index, below in enumerate(one):
                kind = type(below)
                if kind is str or kind is dict or kind is list:
                    stack.append((f"{where}/{index}", below))
        elif one and kind is str:
            found.extend(unfolded(place, where, one, depth + 1))
    return found


_OPENS = frozenset("{[")
_part = tuple.__new__
"""A document has many: as the class makes them they cost thrice as much."""


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1") if "~" in name or "/" in name else name


def head_parts(path: bytes, query: bytes) -> Iterable[Part]:
    """Of the target: the whole path, its segments where one may hide something, and the query's names and values."""
    text = decoded(path.replace(b"+", b"%2B").decode("latin-1"))
    yield Part("path", "", text)
    if (len(text) > 1 and not text.isascii()) or any(one in text for one in "<>'\"{}()|;`$=&*\n\r"):
        yield Part("path", "", text[1:])
    for segment in text.split("/"):
        if len(segment) >= 12:
            yield Part("path", "", segment)
    raw = query.removeprefix(b"?").decode("latin-1")
    if raw:
        for name, value in pairs(raw):
            yield Part("query", name, name, key=True)
            if value:
                yield from unfolded("query", name, value)
        if "&&" in raw or "&%20" in raw or "&+" in raw:
            yield Part("query", "", decoded(raw))
        elif torn(raw):
            yield Part("query", "", decoded(raw), only="xss")


def header_parts(pairs_of: Sequence[tuple[bytes, bytes]]) -> Iterable[Part]:
    for name, value in pairs_of:
        if name == b"cookie":
            for item in value.decode("latin-1").split(";"):
                key, _, one = item.strip().partition("=")
                if one:
                    yield from unfolded("cookie", key, decoded(one.replace("+", "%2B")) if "%" in one else one)
                elif key and not key.isalnum():
                    yield Part("cookie", "", key)
            if b"=" not in value.partition(b";")[0]:
                yield Part("cookie", "", value.decode("latin-1"))
        elif name not in SKIPPED:
            place = "agent" if name in (b"user-agent", b"referer") else "header"
            text = value.decode("utf-8", "replace")
            if name in (b"authorization", b"proxy-authorization"):
                if not _TOKEN.fullmatch(text):
                    yield Part(place, name.decode("latin-1"), text.partition(" ")[2] or text)
            elif place == "agent" and "://" in text[:12]:
                yield from unfolded(place, name.decode("latin-1"), text)
            else:
                yield Part(place, name.decode("latin-1"), text)
