"""What a request may look like."""

from __future__ import annotations

import orjson
import pytest

from tests.conftest import Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

TYPES = "{request: {media_types: [application/json, application/*+json, image/*]}}"


@pytest.mark.parametrize(("given", "passes"), [
    ("application/json", True), ("Application/JSON; charset=utf-8", True), ("application/problem+json", True),
    ("image/png", True), ("text/plain", False), ("application/jsonx", False), ("", False), ("image", False),
])  # fmt: skip
async def test_media_types_of_bodies(
    serve: Start, upstream: ScriptedUpstream, application: Application, given: str, passes: bool
) -> None:
    served = await serve(upstream.port, policies=TYPES)
    line = f"Content-Type: {given}\r\n" if given else ""
    request = f"POST / HTTP/1.1\r\nHost: a\r\n{line}Content-Length: 2\r\n\r\n{{}}"
    status, fields, body = await served.ask(request.encode())
    assert status == (200 if passes else 415)
    if not passes:
        assert "application/json" in fields["accept"]
        assert orjson.loads(body)["rule"] == "all.request"


async def test_no_body_needs_no_type(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies=TYPES)
    status, _, _ = await served.ask(b"POST /logout HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert status == 200


async def test_methods(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies="{request: {methods: [GET, HEAD]}}")
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
    status, fields, _ = await served.ask(b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, fields["allow"]) == (405, "GET, HEAD")


async def test_targets(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await serve(upstream.port, policies="{request: {max_target: 20}}")
    assert (await ask(served, target="/" + "a" * 19)).status == 200
    assert (await ask(served, target="/" + "a" * 20)).status == 414
    assert (await ask(served, target="/?" + "a" * 19)).status == 414


async def test_sizes(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies="{request: {max_body: 10}}")
    assert (await served.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"))[0] == 200
    assert (await served.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890"))[0] == 413


async def test_a_body_that_grows_in_chunks_meets_the_routes_limit(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(11):
        wire.send(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
    status, _, body = await wire.answer()
    assert status == 413
    assert orjson.loads(body)["rule"] == "limits.max_body"
