"""What answers say: leaks and repeated markup withheld or told, cookies hardened, everything else byte for byte."""

from __future__ import annotations

import asyncio
import gzip

import orjson
import pytest

from tests.conftest import Served, Start
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

TRACE = b'{"error": "Traceback (most recent call last):\\n File"}'
GET = b"GET /x HTTP/1.1\r\nHost: shop.example.com\r\nAccept: application/json\r\n\r\n"


def answers(upstream: ScriptedUpstream, body: bytes, fields: bytes, pieces: int = 1, *, chunked: bool = False) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            size = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n\r\n" % (fields, size))
            step = max(1, -(-len(body) // pieces))
            for at in range(0, len(body), step):
                piece = body[at : at + step]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
                await asyncio.sleep(0)
            if chunked:
                writer.write(b"0\r\n\r\n")

    upstream.script = script


def refused(served: Served) -> dict[tuple[str, str, str], int]:
    return dict(served.proxy.listener.stats.rejections)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 7])
async def test_leaks_are_withheld(serve: Start, upstream: ScriptedUpstream, chunked: bool, pieces: int) -> None:
    answers(upstream, TRACE, b"Content-Type: application/json\r\nX-Inner: 1", pieces, chunked=chunked)
    served = await serve(upstream.port, policies="{leaks: {mode: enforce}, security_headers: {preset: helmet}}")
    status, fields, body = await served.ask(GET)
    problem = orjson.loads(body)
    assert (status, problem["rule"], problem["type"]) == (
        502, "all.leaks", "urn:simplepro-proxy:rejection:answer-withheld",
    )  # fmt: skip
    assert "trace.python" in problem["detail"]
    assert "x-inner" not in fields
    assert fields["x-content-type-options"] == "nosniff"
    assert refused(served) == {("all.leaks", "answer-withheld", "enforce"): 1}


@pytest.mark.parametrize("chunked", [False, True])
async def test_shadow_passes_every_byte_and_tells(serve: Start, upstream: ScriptedUpstream, chunked: bool) -> None:
    answers(upstream, TRACE, b"Content-Type: application/json", 5, chunked=chunked)
    served = await serve(upstream.port, policies="{leaks: {}}")
    assert (await served.ask(GET))[2] == TRACE
    assert refused(served) == {("all.leaks", "answer-withheld", "shadow"): 1}


async def test_compressed_answers_are_read_and_binary_ones_are_not(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies="{leaks: {mode: enforce}}")
    answers(upstream, gzip.compress(TRACE), b"Content-Type: application/json\r\nContent-Encoding: gzip")
    assert (await served.ask(GET))[0] == 502
    served = await serve(upstream.port, policies="{leaks: {mode: enforce}}")
    answers(upstream, TRACE, b"Content-Type: image/png")
    assert (await served.ask(GET))[2] == TRACE


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 300_000])
async def test_honest_answers_come_whole(serve: Start, upstream: ScriptedUpstream, size: int, chunked: bool) -> None:
    body = (b"an honest line\n" * (size // 15 + 1))[:size]
    answers(upstream, body, b"Content-Type: text/plain", 9, chunked=chunked)
    served = await serve(upstream.port, policies="{leaks: {mode: enforce, max_body: 256B}}")
    wire = await served.connect()
    for _ in range(3):
        wire.send(GET)
        status, _, got = await wire.answer()
        assert (status, got) == (200, body)


async def test_a_leak_that_is_withheld_is_not_kept_as_a_stale_answer(serve: Start, upstream: ScriptedUpstream) -> None:
    answers(upstream, TRACE, b"Content-Type: application/json")
    served = await serve(
        upstream.port, policies="{leaks: {mode: enforce}}", route_more="fallback: {on: [502], stale: {}}"
    )
    assert (await served.ask(GET))[0] == 502
    assert (await served.ask(GET))[0] == 502


async def test_events_are_not_held(serve: Start, upstream: ScriptedUpstream) -> None:
    go_on = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go_on.wait()

    upstream.script = script
    served = await serve(upstream.port, policies="{leaks: {mode: enforce}}")
    wire = await served.connect()
    wire.send(GET)
    assert (await wire.head())[0] == 200
    assert await wire.reader.readuntil(b"data: 1\n\n")
    go_on.set()


PAGE = b"<html><p>You looked for <script>alert(1)</script></p></html>"
ASKED = b"GET /?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n"


async def test_markup_that_a_page_repeats(serve: Start, upstream: ScriptedUpstream) -> None:
    answers(upstream, PAGE, b"Content-Type: text/html", 4)
    served = await serve(upstream.port, policies="{reflection: {mode: enforce}}")
    status, _, body = await served.ask(ASKED)
    assert (status, orjson.loads(body)["rule"]) == (502, "all.reflection")
    assert (await served.ask(GET))[2] == PAGE
    shadow = await serve(upstream.port, policies="{reflection: {}}")
    assert (await shadow.ask(ASKED))[2] == PAGE
    assert refused(shadow) == {("all.reflection", "answer-withheld", "shadow"): 1}


@pytest.mark.parametrize("chunked", [False, True])
async def test_repeated_markup_is_escaped(serve: Start, upstream: ScriptedUpstream, chunked: bool) -> None:
    answers(upstream, PAGE, b"Content-Type: text/html; charset=utf-8", 4, chunked=chunked)
    served = await serve(upstream.port, policies="{reflection: {mode: enforce, do: escape}}")
    wire = await served.connect()
    for _ in range(2):
        wire.send(ASKED)
        status, fields, body = await wire.answer()
        assert status == 200
        assert body == b"<html><p>You looked for &lt;script&gt;alert(1)&lt;/script&gt;</p></html>"
        assert fields["content-length"] == str(len(body))
    assert dict(served.proxy.listener.stats.changes) == {("all.reflection", "reflection escaped", "enforce"): 2}


@pytest.mark.parametrize(
    ("sent", "terms", "got"),
    [
        (b"a=1", "{}", "a=1; Secure; HttpOnly; SameSite=Lax"),
        (b"a=1; secure; HTTPONLY; SameSite=None", "{}", "a=1; secure; HTTPONLY; SameSite=None"),
        (b"a=1; Path=/;", "{same_site: keep, http_only: false}", "a=1; Path=/; Secure"),
        (b"csrf=1", "{scripted: [csrf], secure: https, same_site: Strict}", "csrf=1; SameSite=Strict"),
        (b"a=1; Domain=.example.com", "{secure: never, same_site: keep}", "a=1; Domain=.example.com; HttpOnly"),
        (b"a=1; Domain=shop.example.com", "{}", "a=1; Domain=shop.example.com; Secure; HttpOnly; SameSite=Lax"),
        (b"a=1; Domain=evil.test", "{}", None),
        (b"a=1; Domain=com", "{}", None),
        (b"a=1; Domain=op.example.com", "{}", None),
        (b"a=1; Domain=cdn.test", "{domains: [cdn.test]}", "a=1; Domain=cdn.test; Secure; HttpOnly; SameSite=Lax"),
    ],
    ids=range(10),
)
async def test_cookies(serve: Start, upstream: ScriptedUpstream, sent: bytes, terms: str, got: str | None) -> None:
    answers(upstream, b"ok", b"Set-Cookie: " + sent)
    served = await serve(upstream.port, policies=f"{{cookies: {terms}}}")
    _, fields, _ = await served.ask(GET)
    assert fields.get("set-cookie") == got
    shadow = await serve(upstream.port, policies=f"{{cookies: {{mode: shadow{', ' * (terms != '{}')}{terms[1:-1]}}}}}")
    assert (await shadow.ask(GET))[1]["set-cookie"] == sent.decode()
    assert dict(served.proxy.listener.stats.changes) == {
        (rule, detail, "enforce"): count for (rule, detail, _), count in shadow.proxy.listener.stats.changes.items()
    }
