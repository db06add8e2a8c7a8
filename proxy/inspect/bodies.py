"""A body as the application will read it: by its media type, strictly, in one pass; and what is wrong with it."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.inspect.json_check import JsonTerms, check_json
from proxy.inspect.openapi import Check
from proxy.inspect.parts import Part, decoded, of_json, pairs, torn, unfolded

BINARY = (
    b"image/", b"video/", b"audio/", b"font/", b"application/octet-stream", b"application/pdf", b"application/zip",
    b"application/gzip", b"application/protobuf", b"application/x-protobuf", b"application/grpc", b"application/wasm",
)  # fmt: skip
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)')
_TEXT_NODE = re.compile(r">([^<]+)<|<!\[CDATA\[(.*?)\]\]>|=\s*\"([^\"<]*)\"|=\s*'([^'<]*)'", re.DOTALL)
_QUOTED = re.compile(r'"([^"\r\n]+)"')
_DTD = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)\b", re.I)
_EXECUTABLE = re.compile(
    r"\.(?:php\d?|phtml|phar|pht|inc|jspx?|jsw|asp|aspx|ashx|asmx|cgi|pl|py|rb|sh|bash|exe|dll|bat|cmd|com|scr|msi|ps1"
    r"|vbs|jar|war|htaccess|shtml|user\.ini)"
    r"(?:\.|;|:|%|\x00|\s|$)",
    re.I,
)  # fmt: skip
_MAGIC: tuple[tuple[bytes, bytes], ...] = (
    (b"image/png", b"\x89PNG\r\n\x1a\n"), (b"image/jpeg", b"\xff\xd8\xff"), (b"image/gif", b"GIF8"),
    (b"application/pdf", b"%PDF-"), (b"application/zip", b"PK"), (b"image/webp", b"RIFF"),
)  # fmt: skip
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.){1,}"')
_SHORT_TAG = re.compile(rb"<\?=\s*[`$]|<\?\s+[a-z]{3,}")
_SCRIPT_BYTES = re.compile(rb"<\?php|<script|<%@|#!/|\x7fELF|^MZ", re.I)
MAX_FIELD = 4 * 1024 * 1024


class Malformed(Exception):
    """What the body is not; `status` is 400, 413 or 415, `pointer` where it was seen."""

    def __init__(self, check: str, detail: str, pointer: str = "", status: int = 400) -> None:
        super().__init__(detail)
        self.check = check
        self.detail = detail
        self.pointer = pointer
        self.status = status


@dataclass(frozen=True, slots=True)
class BodyTerms:
    """Bounds; `files` are media types that uploads may have, anything where it is empty."""

    json: JsonTerms = field(default_factory=JsonTerms)
    parameters: int = 1000
    repeated: bool = True
    parts: int = 200
    files: frozenset[bytes] = frozenset()
    dtd: bool = False
    inflate: int = 0
    """Bytes that a compressed body may inflate to; 0 refuses compressed ones."""
    ratio: int = 200
    schema: Check | None = None
    """What every JSON document has to satisfy."""


@dataclass(frozen=True, slots=True)
class MediaType:
    name: bytes
    parameters: dict[bytes, bytes]

    @property
    def is_json(self) -> bool:
        return self.name == b"application/json" or self.name.endswith(b"+json")


def media_type(value: bytes) -> MediaType:
    """Raises Malformed where a parameter is there twice: two readers would take two different ones."""
    name, found = value.split(b";", 1)[0].strip().lower(), {}
    for match in _PARAMETER.finditer(value):
        key, given = match[1].lower(), match[2].strip()
        if key in found:
            raise Malformed("media-type", "a parameter of the media type is there twice")
        found[key] = re.sub(rb"\\(.)", rb"\1", given[1:-1]) if given[:1] == b'"' else given
    return MediaType(name, found)


def read_body(
    index: Mapping[bytes, bytes], body: bytes, terms: BodyTerms, *, strict: bool, cut: bool = False, looks: bool = True
) -> list[Part]:
    """A body by its header fields (names in lower case), its first bytes where `cut`. Raises Malformed where `strict`;
    else what is not what it says is read as it is, as text. Unless one `looks` at them, JSON's parts are left out."""
    encoding = index.get(b"content-encoding", b"").strip().lower()
    if encoding not in (b"", b"identity"):
        try:
            body = inflated(encoding, body, terms)
        except Malformed:
            if strict:
                raise
    content_type = index.get(b"content-type", b"")
    if cut:
        return list(_cut(content_type, body, terms))
    return parts_of(content_type, body, terms, strict=strict, looks=looks)


def _cut(content_type: bytes, body: bytes, terms: BodyTerms) -> Iterator[Part]:
    """Of a body whose rest was not read: whole parts and strings, by the form that the whole would have."""
    with contextlib.suppress(Malformed):
        kind = media_type(content_type)
        if kind.name == b"multipart/form-data" and (boundary := kind.parameters.get(b"boundary")):
            delimiter = b"\r\n--" + boundary
            last = body.rfind(delimiter)
            if last >= 0 and b"\r\n\r\n" not in body[last:]:
                body = body[:last]
            yield from parts_of(content_type, body + delimiter + b"--\r\n", terms, strict=False)
            return
        if kind.is_json:
            for match in _STRING.finditer(body):
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield from unfolded("json", "", orjson.loads(match[0]))
            return
        if kind.name == b"application/x-www-form-urlencoded" or kind.name.startswith(BINARY):
            yield from parts_of(content_type, body, terms, strict=False)
            return
    text = body.decode("utf-8", "replace")
    if "\x00" not in text[:4096]:
        yield from unfolded("text", "", text)


def parts_of(content_type: bytes, body: bytes, terms: BodyTerms, *, strict: bool, looks: bool = True) -> list[Part]:
    """Raises Malformed; where not `strict`, what can't be read by its media type is read as text."""
    try:
        kind = media_type(content_type)
        charset = kind.parameters.get(b"charset", b"utf-8").lower()
        if charset not in (b"utf-8", b"utf8", b"us-ascii", b"ascii"):
            raise Malformed("charset", "the body is in another charset than UTF-8", status=415)
        if kind.is_json:
            found = _json(body, terms)
            return of_json("json", "", found) if looks else []
        return list(_read(kind, body, terms, strict=strict))
    except Malformed:
        if strict:
            raise
        text = body.decode("utf-8", "replace")
        quoted = _QUOTED.findall(text) if content_type.lstrip().lower().startswith(b"multipart/") else []
        return [*_guessed(text), *(Part("multipart", "", one) for one in quoted[: terms.parameters])]


def _read(kind: MediaType, body: bytes, terms: BodyTerms, *, strict: bool) -> Iterator[Part]:
    name = kind.name
    if name == b"application/x-www-form-urlencoded":
        yield from _form(body, terms)
    elif name == b"multipart/form-data":
        yield from _multipart(kind, body, terms, strict=strict)
    elif name in (b"application/xml", b"text/xml") or name.endswith(b"+xml"):
        yield from _xml(_text(body), terms)
    elif name.startswith(BINARY):
        yield from _program(body)
    else:
        yield from _guessed(_text(body))


def _program(body: bytes) -> Iterator[Part]:
    """Of bytes that nobody reads as text: what a server would run, or wake to objects."""
    start = body[:256].lstrip()
    if start.startswith(b"\xac\xed\x00\x05"):
        yield Part("text", "", "aced0005" + body[4:8].hex())
    elif start.startswith((b"<?php", b"<?=", b"<%", b"<jsp:")):
        yield Part("text", "", body[:65_536].decode("utf-8", "replace"))


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed("utf8", f"the body is no UTF-8 (byte {error.start})") from None


def _json(body: bytes, terms: BodyTerms) -> Any:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("json", f"the body is no JSON (line {error.lineno}, column {error.colno})") from None
    check_json(body, found, terms.json, Malformed)
    if terms.schema is not None and (wrong := terms.schema(found)) is not None:
        raise Malformed("schema", f"the document {wrong.what}", wrong.where)
    return found


def _form(body: bytes, terms: BodyTerms) -> Iterator[Part]:
    text = _text(body)
    seen: set[str] = set()
    for count, (name, value) in enumerate(pairs(text)):
        if count >= terms.parameters:
            raise Malformed("form", f"the form has more than {terms.parameters} parameters", status=413)
        if not terms.repeated and name in seen and not name.endswith("[]"):
            raise Malformed("form", "a parameter is there twice", name[:60])
        seen.add(name)
        yield Part("form", name, name, key=True)
        yield from unfolded("form", name, value)
    if torn(text):
        yield Part("form", "", decoded(text), only="xss")


def _xml(text: str, terms: BodyTerms) -> Iterator[Part]:
    if not terms.dtd and _DTD.search(text):
        raise Malformed("dtd", "the document has a document type or entities of its own")
    yield from _document(text)


def _document(text: str) -> Iterator[Part]:
    yield Part("xml", "", text)
    for match in _TEXT_NODE.finditer(text):
        value = match[1] or match[2] or match[3] or match[4] or ""
        if value.strip():
            yield Part("xml", "text()", value.strip())


def _guessed(text: str) -> Iterator[Part]:
    """What tells no type, or one that nothing is known of: by its first character, else as a text."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start in ("{", "["):
        try:
            yield from of_json("json", "", orjson.loads(text))
            return
        except orjson.JSONDecodeError:
            pass
    if start == "<" and ">" in text:
        yield from _document(text)
        return
    if "=" in text[:200] and "\n" not in text[:200]:
        for name, value in pairs(text):
            yield Part("form", name, name, key=True)
            yield from unfolded("form", name, value)
        if len(text) < MAX_FIELD:
            yield Part("text", "", text)
        return
    yield from unfolded("text", "", text)


def _multipart(kind: MediaType, body: bytes, terms: BodyTerms, *, strict: bool) -> Iterator[Part]:
    _, pieces = divided(kind, body)
    if len(pieces) > terms.parts:
        raise Malformed("multipart", f"the body has more than {terms.parts} parts", status=413)
    for head, content in pieces:
        yield from _field(_fields(head), content, terms, strict=strict)


def divided(kind: MediaType, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The delimiter, and each part's head and content. Raises Malformed.

    RFC 7578, and nothing around it: no preamble, no epilogue, no bare line feeds, no folded or repeated fields.
    """
    boundary = kind.parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise Malformed("multipart", "the boundary is missing or is none (RFC 2046 section 5.1.1)")
    delimiter = b"--" + boundary
    if not body.startswith(delimiter + b"\r\n"):
        raise Malformed("multipart", "the body does not begin with its boundary")
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    if pieces[0] or pieces[-1] not in (b"--", b"--\r\n"):
        raise Malformed("multipart", "the body does not end with its boundary")
    found = []
    for piece in pieces[1:-1]:
        if not piece.startswith(b"\r\n"):
            raise Malformed("multipart", "a boundary is followed by something")
        head, end, content = piece[2:].partition(b"\r\n\r\n")
        if not end:
            raise Malformed("multipart", "a part has no end of its head")
        found.append((head, content))
    return delimiter, found


def field_name(head: bytes) -> tuple[str, bool]:
    """A part's name, and whether it is a file. Raises Malformed."""
    disposition = media_type(_fields(head).get(b"content-disposition", b"")).parameters
    if b"name" not in disposition:
        raise Malformed("multipart", "a part has no form-data name")
    return _text(disposition[b"name"]), b"filename" in disposition or b"filename*" in disposition


def _fields(head: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        key = name.lower()
        if not colon or key != key.strip() or not key or b"\n" in line or b"\r" in line or key in found:
            raise Malformed("multipart", "a part's head is folded, repeated or no head")
        found[key] = value.strip()
    return found


def _field(fields: dict[bytes, bytes], content: bytes, terms: BodyTerms, *, strict: bool) -> Iterator[Part]:
    disposition = media_type(fields.get(b"content-disposition", b""))
    if disposition.name != b"form-data" or b"name" not in disposition.parameters:
        raise Malformed("multipart", "a part has no form-data name")
    if b"content-transfer-encoding" in fields and fields[b"content-transfer-encoding"].lower() not in (
        b"binary",
        b"8bit",
        b"7bit",
    ):
        raise Malformed("multipart", "a part is encoded (RFC 7578 section 4.7)")
    name = _text(disposition.parameters[b"name"])
    yield Part("multipart", name, name, key=True)
    if b"filename*" in disposition.parameters:
        raise Malformed("multipart", "a file name is told in a way that forms don't use (RFC 7578 section 4.2)", name)
    if b"filename" not in disposition.parameters:
        yield from unfolded("multipart", name, _text(content))
        return
    given = _text(disposition.parameters[b"filename"])
    yield Part("multipart", f"{name}/filename", given)
    kind = media_type(fields.get(b"content-type", b"application/octet-stream")).name
    if any(one in given for one in ("/", "\\", "\x00")) or given in (".", "..") or _EXECUTABLE.search(given):
        raise Malformed("file-name", "a file's name is a path, or that of a program", name)
    if terms.files and kind not in terms.files:
        raise Malformed("file-type", "files of this media type are not taken here", name, 415)
    for of, magic in _MAGIC:
        if kind == of and not content.startswith(magic):
            if strict:
                raise Malformed("file-type", "a file is not what its media type says", name, 415)
            yield from _pretended(name, content)
    if content and _SCRIPT_BYTES.search(content[:8192] if kind.startswith(BINARY) else content[:64]):
        raise Malformed("file-type", "a file is a program, or holds one", name, 415)
    if kind.endswith(b"+xml") or kind in (b"application/xml", b"text/xml"):
        yield from _document(content.decode("utf-8", "replace"))
    elif kind.startswith(b"text/") and len(content) < MAX_FIELD:
        yield Part("multipart", name, content.decode("utf-8", "replace"))


def _pretended(name: str, content: bytes) -> Iterator[Part]:
    """A file of another kind than it says: as text, if it is one, else what of it a server would run."""
    try:
        yield Part("multipart", name, content[:65_536].decode())
    except UnicodeDecodeError:
        script = _SHORT_TAG.search(content, 0, 65_536)
        if script is not None:
            yield Part("multipart", name, content[script.start() : script.start() + 2000].decode("latin-1"))


def inflated(encoding: bytes, body: bytes, terms: BodyTerms) -> bytes:
    """Raises Malformed: 415 where it is not taken or not known, 413 where it is too much."""
    if not terms.inflate or encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Malformed("compressed", "bodies that are compressed so are not taken here", status=415)
    most = min(terms.inflate, max(1024, len(body) * terms.ratio))
    try:
        stream = zlib.decompressobj(47 if encoding != b"deflate" or body[:1] == b"\x78" else -15)
        found = stream.decompress(body, most + 1)
    except zlib.error:
        raise Malformed("compressed", "the body is not compressed as it says") from None
    if len(found) > most:
        raise Malformed("compressed", f"the body inflates to more than {most} bytes", status=413)
    if not stream.eof or stream.unused_data:
        raise Malformed("compressed", "the body is cut, or something follows it")
    return found
