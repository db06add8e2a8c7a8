from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rejection import Rejection
from proxy.target import TargetRules, canonical

STRICT = TargetRules()
LENIENT = TargetRules("resolve", "merge", "decode", "slash", "keep", "keep", "accept")


def path_of(target: bytes, rules: TargetRules = STRICT) -> bytes:
    return canonical(target, b"GET", b"a.test", rules)[0]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/b.c", b"/a/b.c"),
        (b"/%61%2E%7e", b"/a.~"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"http://A.test/x?y", b"/x"),
        (b"http://a.test", b"/"),
        (b"/a|b", b"/a%7Cb"),
    ],
)
def test_canonical_form(target: bytes, path: bytes) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    "target",
    [
        b"/a/../b", b"/./a", b"/%2e%2e/a", b"/..;/a", b"//a", b"/a//b", b"/a%2fb", b"/a\\b",
        b"/a%5cb", b"/a%00", b"/a%0d%0a",
        b"/%c0%af", b"/%ff", b"/a%", b"/a%zz", b"/a#b", b"*", b"http://b.test/", b"ftp://a.test/",
        b"a", b"/a b", b"/\xc3\xa9",
    ],
)  # fmt: skip
def test_ambiguity_is_refused(target: bytes) -> None:
    with pytest.raises(Rejection) as refused:
        path_of(target)
    assert refused.value.status in (400, 501)


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/a/../b", b"/b"), (b"/a/./b/..", b"/a/"), (b"//a///b", b"/a/b"),
     (b"/a%2fb", b"/a/b"), (b"/a\\b", b"/a/b"), (b"/%ff", b"/%FF")],
)  # fmt: skip
def test_named_options_read_it_one_way(target: bytes, path: bytes) -> None:
    assert path_of(target, LENIENT) == path


def test_nothing_climbs_above_the_root() -> None:
    with pytest.raises(Rejection):
        path_of(b"/a/../../b", LENIENT)


@given(st.binary(max_size=40), st.sampled_from([STRICT, LENIENT]))
def test_the_canonical_form_is_stable(tail: bytes, rules: TargetRules) -> None:
    try:
        path, query = canonical(b"/" + tail, b"GET", b"a", rules)
    except Rejection:
        return
    assert canonical(path + query, b"GET", b"a", rules) == (path, query)
