"""The request target in one canonical form: matched, logged and forwarded alike (RFC 9112 section 3.2, RFC 3986).

What can be read in two ways is refused, unless an option names how to read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from proxy.rejection import AmbiguousTarget, MalformedRequest, MethodNotImplemented, Rejection

_CLEAN = re.compile(rb"((?:/[A-Za-z0-9\-_~!$&'()*+,;=:@][A-Za-z0-9\-._~!$&'()*+,;=:@]*)+/?|/)(\?[\x21\x22\x24-\x7e]*)?")
_VISIBLE = re.compile(rb"[\x21-\x7e]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)(/[^?]*)?(\?.*)?", re.DOTALL)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEEDS_ESCAPE = re.compile(rb'["<>^`{|}\[\]]')


@dataclass(frozen=True, slots=True)
class TargetRules:
    """How each ambiguity is read; the defaults are the strict ones."""

    dot_segments: Literal["refuse", "resolve"] = "refuse"
    duplicate_slashes: Literal["refuse", "merge", "keep"] = "refuse"
    encoded_slash: Literal["refuse", "keep", "decode"] = "refuse"
    backslash: Literal["refuse", "keep", "slash"] = "refuse"
    encoded_controls: Literal["refuse", "keep"] = "refuse"
    invalid_utf8: Literal["refuse", "keep"] = "refuse"
    absolute_form: Literal["accept", "refuse"] = "accept"


def canonical(target: bytes, method: bytes, host: bytes | None, rules: TargetRules) -> tuple[bytes, bytes]:
    """`(path, query)`, the query with its `?` or empty. Raises a Rejection that names the rule to change."""
    if method == b"CONNECT":
        raise MethodNotImplemented("CONNECT is not answered by a reverse proxy", rule="http.connect")
    clean = _CLEAN.fullmatch(target)
    if clean:
        return clean[1], clean[2] or b""
    path, mark, rest = target.partition(b"?")
    query = mark + rest
    if not _VISIBLE.fullmatch(target):
        raise MalformedRequest("the target holds bytes that have to be percent-encoded", rule="http.target")
    if b"#" in target:
        raise MalformedRequest("a request target has no fragment", rule="http.target")
    if target == b"*":
        if method != b"OPTIONS":
            raise MalformedRequest("the target * is for OPTIONS alone", rule="http.target")
        return b"*", b""
    if not target.startswith(b"/"):
        path, query = _from_absolute(target, host, rules)
        if method == b"OPTIONS" and not path and not query:
            return b"*", b""
        path = path or b"/"
    return _canonical_path(path, rules), query


def authority(target: bytes) -> bytes:
    """Of a target in absolute form (RFC 9112 section 3.2.2); empty for another."""
    match = _ABSOLUTE.fullmatch(target)
    return match[1] if match else b""


def _from_absolute(target: bytes, host: bytes | None, rules: TargetRules) -> tuple[bytes, bytes]:
    match = _ABSOLUTE.fullmatch(target)
    if not match:
        raise MalformedRequest("the target is neither a path nor an http URL", rule="http.target")
    if rules.absolute_form == "refuse":
        raise _ambiguous("the target is in absolute form", "absolute_form")
    authority, path, query = match.groups()
    if host is not None and authority.lower() != host.lower():
        raise MalformedRequest("the target's host is not the Host field's", rule="http.host")
    return path or b"", query or b""


def _canonical_path(path: bytes, rules: TargetRules) -> bytes:
    if b"%" in path:
        path = _decode(path, rules)
    if b"\\" in path:
        if rules.backslash == "refuse":
            raise _ambiguous("the path holds a backslash", "backslash")
        path = path.replace(b"\\", b"/" if rules.backslash == "slash" else b"%5C")
    path = _NEEDS_ESCAPE.sub(lambda match: b"%%%02X" % match[0][0], path)
    if b"//" in path:
        if rules.duplicate_slashes == "refuse":
            raise _ambiguous("the path holds an empty segment (//)", "duplicate_slashes")
        if rules.duplicate_slashes == "merge":
            path = re.sub(rb"/{2,}", b"/", path)
    if b"/." in path:
        path = _resolve_dots(path, rules)
    return path


def _resolve_dots(path: bytes, rules: TargetRules) -> bytes:
    """RFC 3986 section 5.2.4, but a `..` above the root is refused, not forgotten. `;x` after dots counts as dots."""
    segments = path.split(b"/")[1:]
    stems = [segment.split(b";", 1)[0] for segment in segments]
    if b"." not in stems and b".." not in stems:
        return path
    if rules.dot_segments == "refuse":
        raise _ambiguous("the path holds a dot segment (. or ..)", "dot_segments")
    kept: list[bytes] = []
    for segment, stem in zip(segments, stems, strict=True):
        if stem == b"..":
            if not kept:
                raise AmbiguousTarget("the path climbs above the root", rule="http.target")
            kept.pop()
        elif stem != b".":
            kept.append(segment)
    if stems[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def _decode(path: bytes, rules: TargetRules) -> bytes:
    """Escapes that mean themselves are decoded, the others are written in upper case; one pass, never two."""
    raw = bytearray()

    def one(match: re.Match[bytes]) -> bytes:
        if match[1] is None:
            raise MalformedRequest("a percent sign is not followed by two hexadecimal digits", rule="http.target")
        code = int(match[1], 16)
        raw.append(code)
        if code in _UNRESERVED:
            return bytes((code,))
        if code < 0x20 or code == 0x7F:
            if rules.encoded_controls == "refuse":
                raise _ambiguous("the path holds an encoded control character", "encoded_controls")
        elif code == 0x2F:
            if rules.encoded_slash == "refuse":
                raise _ambiguous("the path holds an encoded slash (%2F)", "encoded_slash")
            if rules.encoded_slash == "decode":
                return b"/"
        elif code == 0x5C:
            return b"\\"
        return b"%%%02X" % code

    decoded = _ESCAPE.sub(one, path)
    if rules.invalid_utf8 == "refuse" and max(raw) >= 0x80:
        try:
            _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), decoded).decode()
        except UnicodeDecodeError:
            raise _ambiguous("the path's escapes are no UTF-8", "invalid_utf8") from None
    return decoded


def _ambiguous(what: str, option: str) -> Rejection:
    return AmbiguousTarget(
        what,
        rule=f"http.{option.replace('_', '-')}",
        remedy=f"Send the normalised form of the path; the operator may set listener.http.{option}.",
    )
