"""What parameters usually hold: learned from what passed, bounded, told as a policy reads it, and weighed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.detector import Detector
from proxy.inspect.judge import Judge
from proxy.inspect.parts import Part
from proxy.inspect.profile import KINDS, Lessons, kind_of, merged, usual, where
from proxy.policy.findings import PolicyError
from tests.conftest import Start
from tests.wire import Reader, ScriptedUpstream, Writer, read_request


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("7", "number"),
        ("-12.50", "number"),
        ("2026-11-28", "word"),
        ("a.b+c@example.com", "word"),
        ("5f1e-11aa_Z", "word"),
        ("Müller", "word"),
        ("12 Main Street, Springfield", "line"),
        ("O'Brien", "text"),
        ("../etc/passwd", "line"),
        ("a\nb", "text"),
        ("<b>", "text"),
        ("1;ls", "text"),
        ("x" * 301, "text"),
    ],
)
def test_kinds(value: str, kind: str) -> None:
    assert KINDS[kind_of(value)] == kind


@given(st.lists(st.text(max_size=20), min_size=1, max_size=30))
def test_the_widest_kind_is_learned_in_any_order(values: list[str]) -> None:
    lessons, back = Lessons(), Lessons()
    parts = [Part("query", "q", value) for value in values]
    lessons.learn("r", parts)
    back.learn("r", reversed(parts))
    assert lessons.told(1) == back.told(1)
    seen = [kind_of(value) for value in values if value]
    places = lessons.told(1)["routes"].get("r", {})
    assert places == ({"query q": {"kind": KINDS[max(seen)], "seen": len(seen)}} if seen else {})


def test_an_exception_is_no_rule() -> None:
    lessons = Lessons()
    for number in range(99):
        lessons.learn("r", [Part("query", "id", str(number))])
    lessons.learn("r", [Part("query", "id", "<b>")])
    assert lessons.told()["routes"]["r"]["query id"] == {"kind": "number", "seen": 100}
    for _ in range(3):
        lessons.learn("r", [Part("query", "id", "<b>")])
    assert lessons.told()["routes"]["r"]["query id"]["kind"] == "text"


def test_names_places_and_indexes() -> None:
    lessons = Lessons()
    lessons.learn(
        "r",
        [
            Part("json", "/items/0/name", "a"), Part("json", "/items/12/name", "b"), Part("query", "q", "q", key=True),
            Part("header", "x-a", "1"), Part("path", "", "/x"), Part("query", "n" * 200, "1"),
        ],
    )  # fmt: skip
    assert lessons.told(1) == {"routes": {"r": {"json /items/*/name": {"kind": "word", "seen": 2}}}}
    assert lessons.told() == {"routes": {}}


def test_strangers_names_push_out_nothing_that_was_learned() -> None:
    lessons = Lessons(most=50)
    for number in range(30):
        lessons.learn("r", [Part("query", "kept", str(number))])
    for request in range(40):
        lessons.learn("r", [Part("form", f"n{request}.{number}", "1") for number in range(4000)])
    places = lessons.told(1)["routes"]["r"]
    assert len(places) == 50
    assert places["query kept"] == {"kind": "number", "seen": 30}


def test_what_workers_learned_is_merged() -> None:
    one = {"routes": {"r": {"query q": {"kind": "number", "seen": 12}, "query p": {"kind": "word", "seen": 3}}}}
    two = {"routes": {"r": {"query q": {"kind": "line", "seen": 9}}}}
    assert merged([one, two]) == {"routes": {"r": {"query q": {"kind": "line", "seen": 21}}}}


@pytest.mark.parametrize(
    "given", [[], {}, {"routes": []}, {"routes": {"r": []}}, {"routes": {"r": {"query q": "any"}}}]
)
def test_what_is_no_profile_is_told(given: object) -> None:
    with pytest.raises(ValueError, match=r"expected|needs routes|a kind is one of"):
        usual(given)


def test_a_profile_weighs_what_was_found_and_refuses_nothing_alone() -> None:
    judge = Judge(Detector(1), 5)
    ids = {where(Part("query", "id", "")): KINDS.index("number")}
    suspect, odd = Part("query", "id", "12' ;"), Part("query", "id", "twelve & more")
    assert judge.score(suspect).score == 3
    assert {one.name: one.score for one in judge.score(suspect, ids).findings} == {"sql.cut": 3, "profile.unusual": 2}
    assert judge.score(odd, ids).score == 0
    texts = {where(Part("query", "id", "")): KINDS.index("text")}
    assert judge.score(suspect, texts).score == 1.5
    assert judge.score(Part("query", "id", "7;ls"), texts).score == 5, "what is certain stays certain"
    assert judge.score(Part("query", "other", "12' ;"), ids).score == 3


async def test_learned_in_shadow_saved_and_enforced(serve: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    learning = await serve(upstream.port, policies="{inspect: {mode: shadow, learn: true}}")
    for number in range(25):
        assert (await learning.ask(f"GET /?id={number % 5}&q=it's+{number % 3} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))[
            0
        ] == 200
    assert (await learning.ask(b"GET /?id=%27+or+1%3D1--+ HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200, "shadow"
    learned = learning.proxy.shared.lessons.told()
    assert learned == {
        "routes": {"everything": {"query id": {"kind": "number", "seen": 25}, "query q": {"kind": "text", "seen": 25}}}
    }
    saved = tmp_path / "profile.json"
    saved.write_bytes(orjson.dumps(learned))
    plain = await serve(upstream.port, policies="{inspect: {}}")
    taught = await serve(upstream.port, policies=f"{{inspect: {{profile: {saved}}}}}")
    weak = b"GET /?id=12%27+%3B HTTP/1.1\r\nHost: a\r\n\r\n"
    assert [(await one.ask(weak))[0] for one in (plain, taught)] == [200, 403]
    assert (await taught.ask(b"GET /?q=12%27+%3B HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200


async def test_an_attack_or_an_error_teaches_nothing(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies="{inspect: {learn: true}}")
    assert (await served.ask(b"GET /?id=%27+or+1%3D1--+ HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 403

    async def nothing_there(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    upstream.script = nothing_there
    assert (await served.ask(b"GET /?id=9 HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 404
    assert served.proxy.shared.lessons.told(1) == {"routes": {}}


@pytest.mark.parametrize(("text", "told"), [(None, "can't be read"), ("[]", "holds no object"), ("{}", "needs routes")])
async def test_a_profile_that_cannot_be_used_is_a_finding(
    serve: Start, tmp_path: Path, text: str | None, told: str
) -> None:
    if text is not None:
        (tmp_path / "p.json").write_text(text)
    with pytest.raises(PolicyError, match=rf"policies\.all\.inspect\.profile: .*p\.json.*{told}"):
        await serve(1, policies=f"{{inspect: {{profile: {tmp_path}/p.json}}}}")
