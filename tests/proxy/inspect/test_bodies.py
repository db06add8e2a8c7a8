"""Bodies read strictly, in one way; and every way that they are refused."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.bodies import BodyTerms, Malformed, inflated, parts_of, read_body
from proxy.inspect.json_check import JsonTerms, check_json
from proxy.inspect.parts import of_json

TERMS = BodyTerms(JsonTerms(depth=5, keys=20, string=50), parameters=5, parts=3, inflate=10_000, ratio=50)
FORM, JSON, XML = b"application/x-www-form-urlencoded", b"application/json", b"text/xml"
MULTIPART = b"multipart/form-data; boundary=xyz"
FIELD = b'--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue\r\n--xyz--\r\n'


def refused(kind: bytes, body: bytes, terms: BodyTerms = TERMS) -> tuple[str, int]:
    with pytest.raises(Malformed) as caught:
        parts_of(kind, body, terms, strict=True)
    return caught.value.check, caught.value.status


def values(kind: bytes, body: bytes) -> list[tuple[str, str]]:
    return [
        (one.pointer, one.value) for one in parts_of(kind, body, TERMS, strict=True) if not one.key and not one.only
    ]


MALFORMED = [
    (JSON, b"{", "json", 400), (JSON, b"", "json", 400), (JSON, b'{"a":1} x', "json", 400),
    (JSON, b'{"a":1,"a":2}', "json", 400), (JSON, b'{"a":{"b":1,"\\u0062":2}}', "json", 400),
    (JSON, b'[{"a:":":","a:":1}]', "json", 400),
    (JSON, b"[[[[[[1]]]]]]", "json", 400), (JSON, b'{"a":"\\u0000"}', "nul", 400),
    (JSON, orjson.dumps(list(range(30))), "json", 413), (JSON, orjson.dumps("x" * 60), "json", 413),
    (JSON, b'{"__proto__":{"a":1}}', "prototype", 400), (JSON, b'{"constructor":{"prototype":{}}}', "prototype", 400),
    (JSON, b'{"a":' + b"1" * 50 + b"}", "json", 400), (JSON, b'{"a":"\xff"}', "json", 400),
    (b"application/json; charset=utf-16", b"{}", "charset", 415),
    (b"application/json; charset=utf-8; charset=utf-7", b"{}", "media-type", 400),
    (FORM, b"&".join(b"a%d=1" % n for n in range(9)), "form", 413), (FORM, b"a=\xff", "utf8", 400),
    (XML, b'<!DOCTYPE a [<!ENTITY b SYSTEM "c">]><a>&b;</a>', "dtd", 400), (XML, b"<!doctype a><a/>", "dtd", 400),
    (b"text/plain", b"\xc3\x28", "utf8", 400),
    (b"multipart/form-data", FIELD, "multipart", 400),
    (b"multipart/form-data; boundary=xyz; boundary=abc", FIELD, "media-type", 400),
    (MULTIPART, b"preamble\r\n" + FIELD, "multipart", 400), (MULTIPART, FIELD + b"epilogue", "multipart", 400),
    (MULTIPART, FIELD.replace(b"\r\n", b"\n"), "multipart", 400), (MULTIPART, FIELD[:-6], "multipart", 400),
    (MULTIPART, FIELD.replace(b'name="a"', b'name="a"; name="b"'), "media-type", 400),
    (MULTIPART, FIELD.replace(b'; name="a"', b""), "multipart", 400),
    (MULTIPART, FIELD.replace(b"form-data;", b"attachment;"), "multipart", 400),
    (MULTIPART, FIELD.replace(b"\r\n\r\n", b"\r\n folded\r\n\r\n"), "multipart", 400),
    (MULTIPART, FIELD.replace(b"\r\n\r\n", b"\r\nContent-Disposition: form-data\r\n\r\n"), "multipart", 400),
    (MULTIPART, FIELD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"), "multipart", 400),
    (MULTIPART, FIELD[:-9] * 4 + b"\r\n--xyz--", "multipart", 413),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_what_is_malformed_is_refused(number: int) -> None:
    kind, body, check, status = MALFORMED[number]
    assert refused(kind, body) == (check, status)
    parts_of(kind, body, TERMS, strict=False)


def upload(name: str, kind: str, content: bytes) -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + content + b"\r\n--xyz--\r\n"


@pytest.mark.parametrize(
    ("name", "kind", "content", "check"),
    [
        ("a.php", "image/png", b"\x89PNG\r\n\x1a\n", "file-name"),
        ("a.php.png", "image/png", b"\x89PNG\r\n\x1a\n", "file-name"),
        ("../a.png", "image/png", b"\x89PNG\r\n\x1a\n", "file-name"),
        ("a.png", "image/png", b"GIF89a", "file-type"),
        ("a.gif", "image/gif", b"GIF89a<?php system('id');?>", "file-type"),
        ("a.txt", "text/plain", b"#!/bin/sh", "file-type"),
        ("a.exe.txt", "text/plain", b"x", "file-name"),
    ],
)
def test_files_are_what_they_say(name: str, kind: str, content: bytes, check: str) -> None:
    assert refused(MULTIPART, upload(name, kind, content))[0] == check


def test_files_that_pass() -> None:
    assert values(MULTIPART, upload("my photo (1).png", "image/png", b"\x89PNG\r\n\x1a\n<b>")) == [
        ("f/filename", "my photo (1).png")
    ]
    assert ("f", "hello") in values(MULTIPART, upload("a.txt", "text/plain", b"hello"))
    only = BodyTerms(files=frozenset({b"image/png"}))
    assert refused(MULTIPART, upload("a.txt", "text/plain", b"x"), only) == ("file-type", 415)


def test_values_and_where_they_stand() -> None:
    assert sorted(values(JSON, b'{"a":{"b~/":["x",{"c":"y"}]},"d":1}')) == [
        ("/a/b~0~1/0", "x"),
        ("/a/b~0~1/1/c", "y"),
    ]
    assert values(FORM, b"a=1+2&b=%C3%A9&a=3") == [("a", "1 2"), ("b", "é"), ("a", "3")]
    assert values(MULTIPART, FIELD) == [("a", "value")]
    assert values(MULTIPART.replace(b"xyz", b'"xyz"'), FIELD) == [("a", "value")]
    assert ("text()", "it's") in values(XML, b"<a b='c'>it's</a>")
    assert values(b"image/png", b"\xff") == []
    assert values(b"", b'{"a":"x"}') == [("/a", "x")]


def test_compressed_bodies() -> None:
    body = b'{"a":"' + b"xyz" * 20 + b'"}'
    assert inflated(b"gzip", gzip.compress(body), TERMS) == body
    assert inflated(b"deflate", zlib.compress(body), TERMS) == body
    for encoding, given_body, status in (
        (b"gzip", gzip.compress(b"x" * 1_000_000), 413), (b"gzip", body, 400), (b"br", body, 415),
        (b"gzip", gzip.compress(body)[:-9], 400), (b"gzip", gzip.compress(body) + b"x", 400),
    ):  # fmt: skip
        with pytest.raises(Malformed) as caught:
            inflated(encoding, given_body, TERMS)
        assert caught.value.status == status
    with pytest.raises(Malformed):
        inflated(b"gzip", gzip.compress(body), BodyTerms())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(max_size=8)
    | st.sampled_from(["a:b", ":", "\\:"]),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just(":"), below, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_any_json_is_read_as_json_reads_it(value: Any, spaced: bool) -> None:
    raw = json.dumps(value, indent=1 if spaced else None).encode()
    texts = sorted(one.value for one in of_json("json", "", orjson.loads(raw)) if not one.key)
    assert texts == sorted(_texts(json.loads(raw)))
    check_json(raw, value, JsonTerms(nul=True), Malformed) if "__proto__" not in str(value) else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return _unfolded(value)
    below = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for one in below for text in _texts(one)]


def _unfolded(text: str) -> list[str]:
    """A text that is a document itself is read as one."""
    if text[:1] in ("{", "["):
        try:
            return _texts(json.loads(text))
        except json.JSONDecodeError:
            pass
    return [text] if text else []


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=5), st.booleans())
def test_names_that_stand_twice_are_found(items: list[tuple[str, str]], escape: bool) -> None:
    raw = "{" + ",".join(f"{json.dumps(n, ensure_ascii=escape)}:{json.dumps(v)}" for n, v in items) + "}"
    twice = len({name for name, _ in items}) < len(items)
    encoded = raw.encode("utf-8", "surrogatepass")
    try:
        found = orjson.loads(encoded)
    except orjson.JSONDecodeError:
        return
    try:
        check_json(encoded, found, JsonTerms(nul=True), Malformed)
    except Malformed as error:  # it may be refused
        assert error.check == "prototype" or twice
    else:
        assert not twice


@given(st.binary(max_size=300), st.sampled_from([JSON, FORM, MULTIPART, XML, b"", b"text/plain", b'a/b; c="d']))
def test_any_bytes_are_read_or_refused(body: bytes, kind: bytes) -> None:
    parts_of(kind, body, TERMS, strict=False)
    try:
        parts_of(kind, body, TERMS, strict=True)
    except Malformed as error:
        assert error.status in (400, 413, 415)


def cut(kind: bytes, body: bytes) -> list[tuple[str, str]]:
    found = read_body({b"content-type": kind}, body, BodyTerms(), strict=False, cut=True)
    return [(one.place, one.value) for one in found if not one.key and not one.only]


def test_of_a_body_that_is_cut_whole_parts_are_read_and_bytes_are_no_text() -> None:
    """A picture of a megabyte is one, however far it was read."""
    rest = b"".join(bytes([at % 256, (at * 7) % 256, (at * 13) % 256]) for at in range(60_000))
    for head, magic in ((b"image/jpeg", b"\xff\xd8\xff"), (b"application/zip", b"PK\x03\x04"), (b"image/png", b"no")):
        body = (
            b'--xyz\r\nContent-Disposition: form-data; name="note"\r\n\r\n<script>x</script>\r\n'
            b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
            b"Content-Type: " + head
            + b"\r\n\r\n" + magic + rest
        )  # fmt: skip
        assert cut(MULTIPART, body) == [("multipart", "<script>x</script>"), ("multipart", "a.jpg")]
        assert cut(MULTIPART, body + b"\r\n--xyz\r\nContent-Disp")[:1] == [("multipart", "<script>x</script>")]


def test_of_json_that_is_cut_whole_strings_are_read() -> None:
    body = b'{"a": "one\\n", "picture": "' + b"aGVsbG8g" * 5000
    assert cut(JSON, body)[:3] == [("json", "a"), ("json", "one\n"), ("json", "picture")]
    assert cut(b"application/octet-stream", b"\x00\xff" * 500) == []


@pytest.mark.parametrize(
    "start", [b"<?php system($_GET['c']);?>", b"<% eval request %>", b"\xac\xed\x00\x05sr\x00\x11"]
)
def test_bytes_that_a_server_would_run_are_looked_at(start: bytes) -> None:
    assert [place for place, _ in values(b"application/octet-stream", start)] != []
    assert values(b"application/octet-stream", b"\x00\x01" + start) == []


def test_a_vector_image_is_a_document() -> None:
    body = (
        b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="a.svg"\r\n'
        b"Content-Type: image/svg+xml\r\n\r\n"
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>\r\n--xyz--\r\n'
    )
    assert any("<!ENTITY" in value for _, value in values(MULTIPART, body))
