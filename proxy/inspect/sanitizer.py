"""Named fields of queries, forms and JSON documents, cleaned; every byte that no change asked for stays as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote_plus

import orjson

from proxy.inspect.bodies import Malformed, divided, field_name, media_type
from proxy.inspect.cleaning import Action, Edit
from proxy.inspect.parts import decoded
from proxy.inspect.pointers import Pointers, values
from proxy.inspect.rewrite import rewritten

FORM_TYPE, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"


@dataclass(frozen=True, slots=True)
class Field:
    """`at` is its pointer or parameter name, as the policy names it; `operators` whether names that databases read as
    operators (`$ne`, `p[$ne]`) go."""

    at: str
    edits: tuple[tuple[Action, Edit], ...] = ()
    operators: bool = False


Change = tuple[str, Action]
"""Which field, and what was done: both words of the policy."""


class Unreadable(Exception):
    """A document with fields to clean can't be read as its media type says."""


class Sanitizer:
    """Immutable; shared by the filter and by rules on messages."""

    def __init__(self, json: tuple[Field, ...], form: tuple[Field, ...], query: tuple[Field, ...]) -> None:
        self._pointers = Pointers([(one.at, one) for one in json])
        self._has_json = bool(json)
        self._form = _by_name(form)
        self._query = _by_name(query)
        self._keys = [orjson.dumps(name) for name in self._pointers.names if name != "*"]
        self._any_name = len(self._keys) < len(self._pointers.names)

    def query(self, raw: bytes, changes: list[Change]) -> bytes:
        """Of a target, with its question mark."""
        return _parameters(raw, self._query, changes) if self._query and len(raw) > 1 else raw

    def reads(self, content_type: bytes) -> bool:
        """Whether bodies of that type have fields to clean."""
        name = _name(content_type)
        return bool(self._form) if name in (FORM_TYPE, MULTIPART) else self._has_json

    def body(self, content_type: bytes, raw: bytes, changes: list[Change]) -> bytes:
        """What says that it is JSON or a form has to be one; what says something else, but is JSON, is cleaned as such,
        since an application may read it so. Raises Unreadable."""
        if not self.reads(content_type):
            return raw
        name = _name(content_type)
        if name == FORM_TYPE:
            return _parameters(raw, self._form, changes)
        if name == MULTIPART:
            return self._multipart(content_type, raw, changes)
        if _is_json(name):
            return self.json(raw, changes)
        if raw.lstrip(b" \t\r\n")[:1] not in (b"{", b"["):
            return raw
        try:
            return self.json(raw, changes)
        except Unreadable:
            return raw

    def _multipart(self, content_type: bytes, raw: bytes, changes: list[Change]) -> bytes:
        """Fields of a form; files stay as they came. Raises Unreadable, also where what is left would end its part."""
        try:
            delimiter, parts = divided(media_type(content_type), raw)
            named = [(*field_name(head), head, content) for head, content in parts]
        except Malformed as error:
            raise Unreadable(f"the form can't be read: {error.detail}") from None
        pieces: list[bytes] = []
        same = True
        for name, is_file, head, content in named:
            base, _, path = name.partition("[")
            held = tuple(field for key in dict.fromkeys((name, base, "*")) for field in self._form.get(key, ()))
            stripping = next((field for field in held if field.operators), None)
            if stripping is not None and _is_operator(name, path):
                changes.append((stripping.at, "strip_operators"))
                same = False
                continue
            if held and not is_file:
                try:
                    value = content.decode()
                except UnicodeDecodeError:
                    raise Unreadable("a field of the form is no UTF-8") from None
                after = _edited(value, held, changes)
                if after != value:
                    same, content = False, after.encode()
                    if delimiter in content:
                        raise Unreadable("a field of the form hides a boundary")
            pieces.append(b"%b\r\n%b\r\n\r\n%b\r\n" % (delimiter, head, content))
        return raw if same else b"".join([*pieces, delimiter, b"--\r\n"])

    def json(self, raw: bytes, changes: list[Change]) -> bytes:
        """Raises Unreadable."""
        if not self._has_json:
            return raw
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise Unreadable("the body is no JSON") from None
        if not self._needs_rewriting(raw, found):
            return raw
        return rewritten(
            raw,
            self._pointers,
            lambda text, held: _edited(text, held, changes),
            lambda name, held: _dropped(name, held, changes),
        )

    def _needs_rewriting(self, raw: bytes, found: object) -> bool:
        """Also where a name may stand twice, of which the parser shows the last."""
        if self._any_name or b"\\u" in raw:
            return True
        if any(raw.count(key) > 1 for key in self._keys):
            return True
        ignored: list[Change] = []
        for value, held in values(found, self._pointers):
            if isinstance(value, str):
                if _edited(value, held, ignored) != value:
                    return True
            elif any(_dropped(name, held, ignored) for name in value):
                return True
        return False


def _name(content_type: bytes) -> bytes:
    return content_type.split(b";", 1)[0].strip().lower()


def _is_json(name: bytes) -> bool:
    return name == b"application/json" or name.endswith(b"+json")


def _edited(text: str, held: tuple[Field, ...], changes: list[Change]) -> str:
    for field in held:
        for action, edit in field.edits:
            after = edit(text)
            if after != text:
                changes.append((field.at, action))
                text = after
    return text


def _dropped(name: str, held: tuple[Field, ...], changes: list[Change]) -> bool:
    if not name.startswith("$"):
        return False
    for field in held:
        if field.operators:
            changes.append((field.at, "strip_operators"))
            return True
    return False


def _is_operator(name: str, path: str) -> bool:
    return "[$" in name or name.startswith("$") or (bool(path) and ".$" in name)


def _by_name(fields: tuple[Field, ...]) -> dict[str, tuple[Field, ...]]:
    return {name: tuple(one for one in fields if one.at == name) for name in {one.at for one in fields}}


def _parameters(raw: bytes, fields: Mapping[str, tuple[Field, ...]], changes: list[Change]) -> bytes:
    """Of a query or a form: a parameter that is changed is written anew, the others stay as they came."""
    mark, rest = (b"?", raw[1:]) if raw[:1] == b"?" else (b"", raw)
    kept: list[bytes] = []
    same = True
    for item in rest.split(b"&"):
        raw_name, equals, raw_value = item.partition(b"=")
        name = decoded(raw_name.decode("latin-1"))
        base, _, path = name.partition("[")
        held = tuple(field for key in dict.fromkeys((name, base, "*")) for field in fields.get(key, ()))
        if not held:
            kept.append(item)
            continue
        stripping = next((field for field in held if field.operators), None)
        if stripping is not None and _is_operator(name, path):
            changes.append((stripping.at, "strip_operators"))
            same = False
            continue
        value = decoded(raw_value.decode("latin-1"))
        after = _edited(value, held, changes)
        if after != value:
            same = False
            item = raw_name + equals + quote_plus(after).encode()
        kept.append(item)
    if same:
        return raw
    body = b"&".join(kept)
    return mark + body if body else b""
