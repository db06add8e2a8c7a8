"""Fields of a cache are read as their RFCs ask, and nothing that can be sent breaks the reading."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.fields import age_of, byte_range, date_of, directives, matches_any, seconds, targeted


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=1, max-age=2", {b"max-age": b"1"}),
        (b'no-cache="a, b", x', {b"no-cache": b"a, b", b"x": None}),
        (b'a="\\"", b', {b"a": b'"', b"b": None}),
        (b" , ,", {}),
        (b'a="x', {b"a": b'"x', b"no-store": None}),
        (b"not a token=1, b", {b"b": None}),
        (b'no-cache="a", no-cache', {b"no-cache": None}),
        (b'private, private="a"', {b"private": None}),
        (b'private="a", private="b, c"', {b"private": b"a,b, c"}),
    ],
)
def test_directives(value: bytes, expected: dict[bytes, bytes | None]) -> None:
    assert directives([value]) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", {b"max-age": b"60"}),
        (b"max-age=60;x=1, public", {b"max-age": b"60", b"public": None}),
        (b"public=?0, max-age=1", {b"max-age": b"1"}),
        (
            b'no-store, x=("a" "b");p=@1659578233, y=:YWJj:, z=@-1',
            {b"no-store": None, b"x": b'("a" "b")', b"y": b":YWJj:", b"z": b"@-1"},
        ),
        (b"max-age=1,", None),
        (b"Max-Age=1", None),
        (b"max-age = 1", None),
        (b"", None),
    ],
)
def test_targeted_fields(value: bytes, expected: dict[bytes, bytes | None] | None) -> None:
    assert targeted([value]) == expected


@given(st.integers(min_value=0, max_value=4102444800))
def test_a_date_is_read_in_all_its_forms(moment: int) -> None:
    at = time.gmtime(moment)
    assert date_of(time.strftime("%a, %d %b %Y %H:%M:%S GMT", at).encode()) == moment
    assert date_of(time.strftime("%a %b %e %H:%M:%S %Y", at).encode()) == moment
    years = at.tm_year - time.gmtime().tm_year
    if -50 < years < 50:
        assert date_of(time.strftime("%A, %d-%b-%y %H:%M:%S GMT", at).encode()) == moment


@pytest.mark.parametrize(
    "value",
    [b"", b"0", b"-1", b"Mon, 30 Feb 2026 00:00:00 GMT", b"Mon, 01 Jan 2026 24:00:00 GMT",
     b"Mon, 01 Jan 2026 00:00:00 UTC", b"Mon, 1 Jan 2026 00:00:00 GMT", b"Mon, 01 Foo 2026 00:00:00 GMT"],
)  # fmt: skip
def test_what_is_no_date(value: bytes) -> None:
    assert date_of(value) is None


@given(st.binary(max_size=80))
def test_nothing_breaks_the_reading(value: bytes) -> None:
    found = directives([value])
    assert all(seconds(argument) >= 0 for argument in found.values())
    targeted([value])
    date_of(value)
    assert age_of([value]) >= 0
    matches_any(value, b'"a"')
    span = byte_range(value, 10)
    if isinstance(span, tuple):
        assert 0 <= span[0] <= span[1] < 10


@given(st.binary(max_size=40).filter(lambda one: b'"' not in one and b"\\" not in one))
def test_no_store_is_seen_wherever_it_stands(other: bytes) -> None:
    assert b"no-store" in directives([other, b"no-store"])
    assert b"no-store" in directives([b"no-store", other])


@pytest.mark.parametrize(("digits", "expected"), [(b"9" * 5000, 2**31), (b"0" * 5000, 0), (b"1" + b"0" * 19, 2**31)])
def test_numbers_of_any_length_are_read(digits: bytes, expected: int) -> None:
    assert seconds(digits) == age_of([digits]) == expected
