"""Bounds of JSON: what the counts alone let pass, the walk lets pass, too."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.inspect import json_check
from proxy.inspect.bodies import Malformed
from proxy.inspect.json_check import JsonTerms, check_json

NAMES = st.sampled_from(["a", "b", "c:", "__proto__", "constructor", "prototype", "é", ""])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(["", "x:y", "\u0000", "long" * 10, "é\u2028"])
)
DOCUMENTS = st.recursive(
    LEAVES, lambda below: st.lists(below, max_size=4) | st.dictionaries(NAMES, below, max_size=4), max_leaves=20
)
TERMS = JsonTerms(depth=4, keys=30, string=30)


def outcome(raw: bytes, terms: JsonTerms) -> str:
    try:
        check_json(raw, orjson.loads(raw), terms, Malformed)
    except Malformed as error:
        return error.check
    return ""


@given(DOCUMENTS, st.booleans(), st.booleans())
@example({"a": {"constructor": {"prototype": 1}}}, True, True)
def test_the_short_way_lets_pass_what_the_long_one_does(value: Any, ascii_only: bool, doubled: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if doubled:
        raw = raw.replace(b'{"a":', b'{"a": 1, "a":')
    with pytest.MonkeyPatch.context() as patch:
        short = outcome(raw, TERMS)
        patch.setattr(json_check, "_is_plain", lambda *_: False)
        assert short == outcome(raw, TERMS)


@pytest.mark.parametrize(
    ("raw", "check"),
    [
        (b'{"a":1,"a":2}', "json"), (b'{"a":":","a":1}', "json"), (b'[{"x":{"b":1,"b":":"}}]', "json"),
        (b'{"a":"\\u003a","a":1}', "json"), (b"[" + b"1" * 45 + b"]", "json"), (b"[1." + b"1" * 70 + b"]", "json"),
        (b'["' + b"1" * 45 + b'"]', ""), (b'{"__proto__":1}', "prototype"), (b'["\\u0000"]', "nul"),
    ],
)  # fmt: skip
def test_nothing_hides_from_the_counts(raw: bytes, check: str) -> None:
    assert outcome(raw, JsonTerms()) == check
