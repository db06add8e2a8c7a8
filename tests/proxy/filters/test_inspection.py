"""Inspection and validation over the wire: refusals that explain and repeat nothing; the rest byte for byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from proxy.cli import main
from stack.process import ROOT
from tests.conftest import Served, Start
from tests.proxy.websocket.conftest import Application, connect
from tests.proxy.websocket.conftest import application as sockets  # noqa: F401  # a fixture
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

ATTACK = b'{"a":{"notes":["fine","<script>alert(1)</script>"]}}'


@pytest.fixture
def bodies(upstream: ScriptedUpstream) -> list[bytes]:
    """What the application got."""
    got: list[bytes] = []

    async def answer(reader: Reader, writer: Writer) -> None:
        while True:
            _, body = await read_request(reader)
            got.append(body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = answer
    return got


async def post(served: Served, body: bytes, kind: str = "application/json", more: str = "") -> tuple[int, bytes]:
    head = f"POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    status, _, told = await served.ask(head.encode() + body)
    return status, told


async def test_a_refusal_says_which_rule_and_where_and_nothing_of_the_payload(
    serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]
) -> None:
    served = await serve(upstream.port, policies="{inspect: {}}")
    status, body = await post(served, ATTACK)
    told = orjson.loads(body)
    assert (status, told["rule"], told["type"].rpartition(":")[2]) == (403, "all.inspect", "attack-suspected")
    assert "json /a/notes/1" in told["detail"]
    assert "xss." in told["detail"]
    assert b"alert" not in body
    assert bodies == []
    for request in (
        b"GET /?q=%27%20or%201%3D1--%20 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?$where=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?user[$ne]=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Api: ${jndi:ldap://x/a}\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; b=<script>alert(1)</script>\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: () { :; }; echo x\r\n\r\n",
    ):
        assert (await served.ask(request))[0] == 403, request


async def test_honest_traffic_passes_as_it_came(serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]) -> None:
    served = await serve(upstream.port, policies="{inspect: {}, validation: {inflate: 1MiB}}")
    honest = b'{ "name" : "O\'Brien", "n": 1.50, "note":"a < b && c > d; \\u003cb\\u003e" }'
    packed = gzip.compress(honest)
    assert (await post(served, honest))[0] == 200
    assert (await post(served, packed, more="Content-Encoding: gzip\r\n"))[0] == 200
    assert (await post(served, b"a=1&b=it%27s", "application/x-www-form-urlencoded"))[0] == 200
    large = orjson.dumps({"text": ["It's a fine day; isn't it?" * 40] * 100})
    assert (await post(served, large))[0] == 200
    assert bodies == [honest, packed, b"a=1&b=it%27s", large]


async def test_shadow_counts_and_lets_pass(serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]) -> None:
    served = await serve(upstream.port, policies="{inspect: {mode: shadow}, validation: {mode: shadow}}")
    assert (await post(served, ATTACK))[0] == 200
    assert (await post(served, b"{"))[0] == 200
    assert bodies == [ATTACK, b"{"]
    assert dict(served.proxy.listener.stats.rejections) == {
        ("all.inspect", "attack-suspected", "shadow"): 1,
        ("all.validation", "invalid-body", "shadow"): 1,
    }


async def test_a_body_is_inspected_where_its_form_is_only_shadowed(
    serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]
) -> None:
    served = await serve(upstream.port, policies="{inspect: {}, validation: {mode: shadow}}")
    status, told = await post(served, b"<script>alert(1)</script>")
    assert (status, orjson.loads(told)["rule"]) == (403, "all.inspect")
    served = await serve(upstream.port, policies="{inspect: {max_body: 1KiB, on_oversize: head}, validation: {}}")
    assert (await post(served, orjson.dumps(["fine"] * 500)))[0] == 200, "what is cut is not malformed for that"
    assert (await post(served, ATTACK + b" " * 2000))[0] == 403


async def test_the_name_that_is_refused_is_not_repeated(
    serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]
) -> None:
    served = await serve(upstream.port, policies="{inspect: {}}")
    status, _, body = await served.ask(b"GET /?<svg/onload=alert(7)> HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 403
    assert b"alert" not in body
    assert b"onload" not in body


async def test_what_is_no_body_of_its_type(serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]) -> None:
    served = await serve(upstream.port, policies="{validation: {json: {depth: 3}}}")
    seen = [
        (await post(served, body, kind, more))[0]
        for body, kind, more in (
            (b"{", "application/json", ""), (b'{"a":1,"a":2}', "application/json", ""),
            (b"[[[[1]]]]", "application/json", ""), (b"{}", "application/json; charset=utf-16", ""),
            (b"<!DOCTYPE a><a/>", "application/xml", ""),
            (gzip.compress(b"{}"), "application/json", "Content-Encoding: gzip\r\n"),
            (b"{}", "application/json", ""),
        )
    ]  # fmt: skip
    assert seen == [400, 400, 400, 415, 400, 415, 200]
    assert bodies == [b"{}"]


@pytest.mark.parametrize(("oversize", "status"), [("refuse", 413), ("pass", 200), ("head", 403)])
async def test_more_than_is_read(
    serve: Start, upstream: ScriptedUpstream, bodies: list[bytes], oversize: str, status: int
) -> None:
    served = await serve(upstream.port, policies=f"{{inspect: {{max_body: 1KiB, on_oversize: {oversize}}}}}")
    body = b"<script>alert(1)</script>" + b" " * 2000
    assert (await post(served, body, "text/plain"))[0] == status


async def test_exclusions_are_by_parameter_and_rule(
    serve: Start, upstream: ScriptedUpstream, bodies: list[bytes]
) -> None:
    served = await serve(upstream.port, policies='{inspect: {exclude: [{rule: "xss.*", at: /a/notes}]}}')
    assert (await post(served, ATTACK))[0] == 200
    assert (await post(served, ATTACK.replace(b"notes", b"title")))[0] == 403


async def test_messages_are_inspected_too(serve: Start, upstream: ScriptedUpstream, sockets: Application) -> None:  # noqa: F811
    served = await serve(upstream.port, policies="{websocket: {messages: {one: {inspect: {}}}}}")
    socket = await connect(served)
    socket.say('{"text":"It\'s fine"}')
    assert (await sockets.heard())[1] == b'{"text":"It\'s fine"}'
    socket.say('{"text":"\\u003cscript>alert(1)</script>"}')
    assert (await socket.closed())[0] == 1008
    assert b"script" not in sockets.bytes


def test_the_command_shows_what_each_value_is_worth(tmp_path: Path) -> None:
    request = tmp_path / "request.txt"
    request.write_bytes(
        b"POST /a?q=1%27%20or%20%271%27=%271 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n" + ATTACK
    )
    asked = CliRunner().invoke(main, ["inspect", "--policy", str(ROOT / "config" / "waf.yaml"), str(request)])
    assert asked.exit_code == 3
    assert "query q (value)" in asked.output
    assert "json /a/notes/1 (value)" in asked.output
    request.write_bytes(b"GET /a?q=hello HTTP/1.1\r\nHost: x\r\n\r\n")
    asked = CliRunner().invoke(main, ["inspect", "--policy", str(ROOT / "config" / "waf.yaml"), str(request)])
    assert (asked.exit_code, asked.output) == (0, "nothing is found\n")
    asked = CliRunner().invoke(main, ["inspect", "--policy", str(ROOT / "config" / "minimal.yaml"), str(request)])
    assert (asked.exit_code, asked.output) == (1, "route everything inspects nothing\n")
