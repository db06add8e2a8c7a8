"""Sanitizing over the wire: counted, told on demand, right in length; a shadow changes nothing."""

from __future__ import annotations

import gzip

import orjson
import pytest

from proxy.websocket.frames import TEXT
from tests.conftest import Start
from tests.proxy.websocket.conftest import Application, connect, part
from tests.proxy.websocket.conftest import application as application  # a fixture
from tests.wire import ScriptedUpstream

FIELDS = "fields: [{json: /notes, do: [strip_html]}, {query: q, do: [trim]}]"
BODY = b'{"name": "<b>", "notes":"<b>hi</b>"}'
REQUEST = b"POST /x?q=+a&r=+b HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_named_fields_are_cleaned_and_counted(serve: Start, upstream: ScriptedUpstream, mode: str) -> None:
    served = await serve(upstream.port, policies=f"{{sanitize: {{mode: {mode}, tell: true, {FIELDS}}}}}")
    status, fields, told = await served.ask(REQUEST % (len(BODY), BODY))
    head, _, body = told.partition(b"\r\n\r\n")
    assert status == 200
    changed = mode == "enforce"
    assert body == (b'{"name": "<b>", "notes":"hi"}' if changed else BODY)
    assert head.startswith(b"POST /x?q=a&r=+b " if changed else b"POST /x?q=+a&r=+b ")
    assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"
    assert fields["x-sanitized"] == "q trim, /notes strip_html"
    assert dict(served.proxy.listener.stats.changes) == {
        ("all.sanitize", "q trim", mode): 1,
        ("all.sanitize", "/notes strip_html", mode): 1,
    }
    assert b'proxy_changes_total{change="/notes strip_html",mode="%b",rule="all.sanitize"} 1.0' % mode.encode() in (
        served.proxy.metrics.expose()
    )


async def test_large_bodies_and_what_cannot_be_read(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies=f"{{sanitize: {{{FIELDS}}}}}")
    large = orjson.dumps({"notes": "<i>x</i>" * 4000, "rest": ["<i>"] * 100})
    _, _, told = await served.ask(REQUEST % (len(large), large))
    assert told.partition(b"\r\n\r\n")[2] == large.replace(b"<i>x</i>", b"x")
    for body in (b'{"notes": ', BODY.replace(b"hi", b"\xff")):
        status, _, answer = await served.ask(REQUEST % (len(body), body))
        assert (status, orjson.loads(answer)["rule"]) == (400, "all.sanitize")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_compressed_body_does_not_pass_uncleaned(serve: Start, upstream: ScriptedUpstream, kind: str) -> None:
    fields = "fields: [{json: /notes, do: [strip_html]}, {form: notes, do: [strip_html]}]"
    served = await serve(upstream.port, policies=f"{{sanitize: {{{fields}}}}}")
    body = gzip.compress(b"notes=%3Cb%3E")
    more = f"Content-Type: {kind}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    status, _, answer = await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\n" + more.encode() + body)
    assert (status, orjson.loads(answer)["rule"]) == (415, "all.sanitize")


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
async def test_messages_are_cleaned_in_fragments_too(
    serve: Start, upstream: ScriptedUpstream, application: Application, mode: str
) -> None:
    rule = f"{{mode: {mode}, sanitize: {{fields: [{{json: /data/content, do: [strip_html]}}]}}}}"
    served = await serve(upstream.port, policies=f"{{websocket: {{messages: {{clean: {rule}}}}}}}")
    socket = await connect(served)
    said, clean = b'{"type":"<b>", "data": {"content":"<b>hi</b>"}}', b'{"type":"<b>", "data": {"content":"hi"}}'
    wanted = clean if mode == "enforce" else said
    socket.say(said)
    assert await application.heard() == (0x80 | TEXT, wanted)
    socket.raw(part(TEXT, said[:20]) + part(0, said[20:], end=True))
    heard = await application.heard()
    if mode == "shadow":
        heard = (heard[0] | 0x80, heard[1] + (await application.heard())[1])
    assert heard == (0x80 | TEXT, wanted)
    assert served.proxy.listener.stats.changes == {("all.websocket.clean", "/data/content strip_html", mode): 2}
    if mode == "enforce":
        socket.say("no JSON")
        assert (await socket.closed())[0] == 1007


async def test_bodies_are_held_only_where_their_fields_are_named(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies="{sanitize: {fields: [{query: q, do: [trim]}]}}")
    assert not served.proxy.compiled.routes.routes[0].chain.buffers_request
