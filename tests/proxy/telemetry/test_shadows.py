"""What shadow saw: each finding once, with how often, and nothing that was sent."""

from __future__ import annotations

import aiohttp

from proxy.exchange import Exchange, Verdict
from proxy.headers import Headers
from proxy.telemetry.shadows import Shadows
from tests.conftest import Start
from tests.wire import ScriptedUpstream, echo


def exchange(path: bytes) -> Exchange:
    made = Exchange(b"GET", 1, Headers([]), "192.0.2.1", 0.0)
    made.path = path
    return made


def seen(why: str) -> Verdict:
    return Verdict("all.inspect", "attack-suspected", 403, False, why=why)


def test_one_row_a_finding_and_a_bound() -> None:
    shadows = Shadows(kept=3)
    for at in range(10):
        shadows.see(
            exchange(b"/%d" % at), Verdict("all.inspect", "attack-suspected", 403, False, why="x in query"), "r"
        )
    assert [(one["count"], one["path"], one["detail"]) for one in shadows.told()] == [(10, "/9", "x in query")]
    for at in range(50):
        shadows.see(exchange(b"/"), seen(f"{at} in query"), "r")
    assert [one["detail"] for one in shadows.told()] == ["47 in query", "48 in query", "49 in query"]


async def test_the_admin_tells_what_would_have_been_refused(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = echo
    served = await serve(upstream.port, policies="{inspect: {mode: shadow}}")
    for _ in range(3):
        wire = await served.connect()
        wire.send(b"GET /find?q=%27%20or%201=1--&secret=pa55word HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.answer())[0] == 200
        wire.close()
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{served.proxy.admin.port}/shadow?top=1")
        text = await answer.text()
        row = (await answer.json())["findings"][0]
    assert (row["count"], row["route"], row["path"], row["method"]) == (3, "everything", "/find", "GET")
    assert "sql." in row["detail"]
    assert "in query q" in row["detail"]
    assert "pa55word" not in text
