"""Only named fields change, and of a document only their bytes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.cleaning import DEFAULT_ATTRIBUTES, DEFAULT_TAGS, MAX_DEPTH, Action, Engine, edits
from proxy.inspect.sanitizer import Change, Field, Sanitizer, Unreadable

HIDDEN = "a\u202eb\u200bc"


def field(at: str, *actions: Action, engine: Engine = "nh3") -> Field:
    made = edits(actions, engine, DEFAULT_TAGS, DEFAULT_ATTRIBUTES)
    return Field(at, made, operators="strip_operators" in actions)


def cleaned(raw: str, *fields: Field) -> tuple[str, list[Change]]:
    changes: list[Change] = []
    return Sanitizer(fields, (), ()).json(raw.encode(), changes).decode(), changes


@pytest.mark.parametrize(
    ("raw", "at", "actions", "expected"),
    [
        ('{ "n" : "<b>x</b>", "m":"<b>", "z": 1.0e+2}', "/n", ["strip_html"], '{ "n" : "x", "m":"<b>", "z": 1.0e+2}'),
        ('{"n":"AT&T <3 5 < 6"}', "/n", ["strip_html"], '{"n":"AT&T <3 5 < 6"}'),
        (r'{"n":"\u003cscript>x\u003c/script>y"}', "/n", ["strip_html"], '{"n":"y"}'),
        (r'{"\u006e":" a "}', "/n", ["trim"], r'{"\u006e":"a"}'),
        ('{"n":" a ","n":" b "}', "/n", ["trim"], '{"n":"a","n":"b"}'),
        ('{"a":{"n":" a "},"a":{}}', "/a/n", ["trim"], '{"a":{"n":"a"},"a":{}}'),
        ('[{"n":" a "}, {"n":"b "}]', "/*/n", ["trim"], '[{"n":"a"}, {"n":"b"}]'),
        ('{"n":{"deep":[" a ",1]},"m":" a "}', "/n", ["trim"], '{"n":{"deep":["a",1]},"m":" a "}'),
        (f'{{"n":"{HIDDEN}"}}', "/n", ["normalize"], '{"n":"abc"}'),
        ('{"n":"e\u0301 👩\u200d💻"}', "/n", ["normalize"], '{"n":"é 👩\u200d💻"}'),
        ('{"n":"<a>"}', "/n", ["escape_html"], '{"n":"&lt;a&gt;"}'),
        ('{"p":{"$ne": null}}', "/p", ["strip_operators"], '{"p":{}}'),
        ('{"p":{"a":1, "$gt":"", "$lt": {"x":[1]}, "b":2}}', "", ["strip_operators"], '{"p":{"a":1, "b":2}}'),
        ('{"$where":"1","$or":[{"$a":1}], "u":"$5"}', "", ["strip_operators"], '{"u":"$5"}'),
        ('{"a":[{"$x":1},{"y":{"$z":1}}]}', "/a", ["strip_operators"], '{"a":[{},{"y":{}}]}'),
        ('" <b>x</b> "', "", ["strip_html", "trim"], '"x"'),
    ],
)  # fmt: skip
def test_what_is_named_changes_and_nothing_else(raw: str, at: str, actions: list[Action], expected: str) -> None:
    found, changes = cleaned(raw, field(at, *actions))
    assert found == expected
    assert bool(changes) == (found != raw)
    if "escape_html" not in actions:
        assert cleaned(found, field(at, *actions)) == (found, [])


@pytest.mark.parametrize("engine", ["nh3", "bleach"])
def test_both_engines_keep_what_is_allowed(engine: Engine) -> None:
    given = json.dumps({"n": '<p onclick="x()">a <b>b</b><script>x</script> <a href="javascript:x">c</a></p>'})
    found = json.loads(cleaned(given, field("/n", "allow_html", engine=engine))[0])["n"]
    assert "<b>b</b>" in found
    assert "<p>" in found
    assert not any(one in found for one in ("onclick", "<script", "javascript:"))


@pytest.mark.parametrize("hostile", ["<b><p>" * 8000, "<div>" * 9600, "<table><b>" * 4800, "<" * 48_000])
@pytest.mark.parametrize("engine", ["nh3", "bleach"])
def test_hostile_markup_takes_no_longer_than_its_length(hostile: str, engine: Engine) -> None:
    begun = time.process_time()
    found, _ = cleaned(json.dumps({"n": hostile}), field("/n", "strip_html", engine=engine))
    assert time.process_time() - begun < 0.5
    assert "<b" not in found


def test_a_text_that_nests_too_deep_is_escaped() -> None:
    text = "<i>" * (MAX_DEPTH + 1)
    assert json.loads(cleaned(json.dumps({"n": text}), field("/n", "strip_html"))[0])["n"] == text.replace(
        "<", "&lt;"
    ).replace(">", "&gt;")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just("n"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def trimmed(value: Any, *, named: bool) -> Any:
    """The slow way: as a parsed document."""
    if isinstance(value, dict):
        return {key: trimmed(one, named=named or key == "n") for key, one in value.items()}
    if isinstance(value, list):
        return [trimmed(one, named=named) for one in value]
    return value.strip() if named and isinstance(value, str) else value


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_any_document_is_the_same_but_for_what_was_named(value: Any, escaped: bool, indent: int | None) -> None:
    raw = json.dumps({"other": value, "n": value}, ensure_ascii=escaped, indent=indent)
    try:
        found, changes = cleaned(raw, field("/n", "trim"))
    except (Unreadable, UnicodeEncodeError):
        return
    wanted = {"other": value, "n": trimmed(value, named=True)}
    assert json.loads(found) == wanted
    assert (found == raw) == (not changes)
    untouched, none = cleaned(raw, field("/not/there", "trim", "strip_html", "strip_operators"))
    assert (untouched, none) == (raw, [])


def test_parameters_keep_their_bytes() -> None:
    changes: list[Change] = []
    sanitizer = Sanitizer((), (field("q", "strip_html", "trim"),), (field("*", "strip_operators"),))
    assert sanitizer.query(b"?a=%41&user[$ne]=1&$where=x&b=+", changes) == b"?a=%41&b=+"
    assert sanitizer.query(b"?$where=x", changes) == b""
    assert sanitizer.query(b"?a[b]=$1", changes) == b"?a[b]=$1"
    form = b"application/x-www-form-urlencoded"
    assert sanitizer.body(form, b"x=%3Cb%3E&q=+%3Cb%3Ehi%3C/b%3E&q=%41", changes) == b"x=%3Cb%3E&q=hi&q=%41"
    assert set(changes) == {("*", "strip_operators"), ("q", "strip_html"), ("q", "trim")}


def test_all_that_is_said_of_a_parameter_holds() -> None:
    changes: list[Change] = []
    fields = (field("q", "trim"), field("q", "escape_html"), field("*", "strip_operators"))
    assert Sanitizer((), (), fields).query(b"?q[$ne]=1&q=+%3C&r=+%3C", changes) == b"?q=%26lt%3B&r=+%3C"


OPERATED = st.recursive(
    st.integers(0, 9) | st.text("ab ", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["$a", "$b", "c", "d", "e"]), inner, max_size=5)
    ),
    max_leaves=15,
)


def without_operators(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_operators(one) for key, one in value.items() if not key.startswith("$")}
    if isinstance(value, list):
        return [without_operators(one) for one in value]
    return value.strip() if isinstance(value, str) else value


@given(OPERATED, st.sampled_from([None, 1]))
def test_operators_go_from_any_document(value: Any, indent: int | None) -> None:
    found, _ = cleaned(json.dumps(value, indent=indent), field("", "strip_operators", "trim"))
    assert json.loads(found) == without_operators(value)


def test_what_is_no_json_says_so() -> None:
    with pytest.raises(Unreadable):
        cleaned('{"n": ', field("/n", "trim"))


BOUNDARY = b"multipart/form-data; boundary=x7"


def form(*parts: tuple[str, bytes]) -> bytes:
    pieces = [
        b"--x7\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (told.encode(), value) for told, value in parts
    ]
    return b"".join([*pieces, b"--x7--\r\n"])


def of_form(raw: bytes, *fields: Field) -> tuple[bytes, list[Change]]:
    changes: list[Change] = []
    return Sanitizer((), fields, ()).body(BOUNDARY, raw, changes), changes


def test_fields_of_a_multipart_form_are_cleaned_and_files_are_not() -> None:
    raw = form(('name="note"', b"<b>x</b>"), ('name="note"; filename="a.txt"', b"<b>x</b>"), ('name="other"', b"<b>"))
    found, changes = of_form(raw, field("note", "strip_html"))
    assert found == form(
        ('name="note"', b"x"), ('name="note"; filename="a.txt"', b"<b>x</b>"), ('name="other"', b"<b>")
    )
    assert changes == [("note", "strip_html")]
    assert of_form(found, field("note", "strip_html")) == (found, [])


def test_operators_of_a_multipart_form_go_with_their_part() -> None:
    raw = form(('name="p[$ne]"', b"1"), ('name="p"', b"2"))
    assert of_form(raw, field("p", "strip_operators"))[0] == form(('name="p"', b"2"))


@pytest.mark.parametrize(
    "raw",
    [
        form(('name="note"', b'a\r\n-<b></b>-x7\r\nContent-Disposition: form-data; name="admin"\r\n\r\n1')),
        form(('name="note"', b"-<b></b>-x7--")),
        form(('name="note"', b"\xff")),
        form(("", b"x")),
        b"--x7\r\n\r\nno end",
        b"before --x7\r\n",
    ],
)
def test_a_form_that_can_not_be_cleaned_does_not_pass(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        of_form(raw, field("note", "strip_html"))


@given(st.lists(st.tuples(st.sampled_from(["note", "other"]), st.binary(max_size=30)), max_size=5))
def test_any_form_is_the_same_form_after(parts: list[tuple[str, bytes]]) -> None:
    raw = form(*((f'name="{name}"', value) for name, value in parts))
    try:
        found, changes = of_form(raw, field("note", "strip_html", "trim"))
    except Unreadable:
        return
    assert found.count(b"--x7") == raw.count(b"--x7") or changes
    assert of_form(found, field("note", "strip_html", "trim"))[0] == found


@pytest.mark.parametrize("media", [b"", b"text/plain", b"text/plain; charset=utf-8", b"application/octet-stream"])
def test_json_by_another_name_is_cleaned_as_json(media: bytes) -> None:
    sanitizer = Sanitizer((field("/n", "trim"),), (), ())
    changes: list[Change] = []
    assert sanitizer.body(media, b' {"n":" a "}', changes) == b' {"n":"a"}'
    assert sanitizer.body(media, b"{ no JSON", changes) == b"{ no JSON"
    assert sanitizer.body(media, b"n = 1", changes) == b"n = 1"
    with pytest.raises(Unreadable):
        sanitizer.body(b"application/json", b"{ no JSON", changes)
