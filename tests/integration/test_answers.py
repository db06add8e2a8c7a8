"""What a refused client reads, by what it accepts; and the admin's token."""

from __future__ import annotations

import re

import aiohttp
import orjson
import pytest

from tests.conftest import Start
from tests.wire import ScriptedUpstream

DENY = "{ip: {deny: [127.0.0.0/8]}}"


@pytest.mark.parametrize(("accept", "media_type"), [
    ("", "application/problem+json"),
    ("*/*", "application/problem+json"),
    ("application/json", "application/problem+json"),
    ("text/html,application/xhtml+xml", "text/html; charset=utf-8"),
    ("text/plain", "text/plain; charset=utf-8"),
    ("application/json, text/html", "application/problem+json"),
])  # fmt: skip
async def test_by_accept(serve: Start, upstream: ScriptedUpstream, accept: str, media_type: str) -> None:
    served = await serve(upstream.port, policies=DENY)
    line = f"Accept: {accept}\r\n" if accept else ""
    status, fields, body = await served.ask(f"GET /a HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
    assert (status, fields["content-type"], fields["cache-control"]) == (403, media_type, "no-store")
    for said in ("all.ip", "this client address has no access", fields["x-request-id"], "Ask the operator"):
        assert said in body.decode()


async def test_a_problem_document_has_all_of_rfc_9457(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies=DENY)
    _, fields, body = await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    problem = orjson.loads(body)
    decision = problem["decision"]
    assert problem == {
        "type": "urn:simplepro-proxy:rejection:forbidden",
        "title": "Forbidden",
        "status": 403,
        "detail": "this client address has no access",
        "remedy": "Ask the operator to allow it.",
        "rule": "all.ip",
        "requestId": fields["x-request-id"],
        "decision": decision,
    }
    assert re.fullmatch(r"[0-9a-f]{16}", decision)


async def test_the_same_bytes_whether_the_upstream_lives_or_not(serve: Start, upstream: ScriptedUpstream) -> None:
    request = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-ID: same-id-12345\r\nX-Correlation-ID: same-id-12345\r\n\r\n"
    bodies = []
    for port in (upstream.port, 1):
        _, fields, body = await (await serve(port, policies=DENY)).ask(request)
        del fields["date"]
        bodies.append((fields, re.sub(rb'"decision":"[0-9a-f]{16}"', b'"decision":""', body)))
    assert bodies[0] == bodies[1]


async def test_an_answer_to_head_is_only_its_head(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port, policies=DENY)).connect()
    wire.send(b"HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    raw = await wire.rest()
    assert b"content-length: " in raw
    assert raw.endswith(b"\r\n\r\n")


async def test_no_route_and_no_method(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, match="{prefix: /api, methods: [GET]}")
    status, _, body = await served.ask(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, orjson.loads(body)["rule"]) == (404, "routes")
    status, fields, _ = await served.ask(b"DELETE /api HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, fields["allow"]) == (405, "GET, HEAD")


async def test_the_admin_asks_for_its_token(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, token="s3cret-token")
    base = f"http://127.0.0.1:{served.proxy.admin.port}"

    async def status(path: str, token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with aiohttp.ClientSession() as session, session.get(base + path, headers=headers) as answer:
            assert "s3cret-token" not in await answer.text()
            return answer.status

    for probe in ("/livez", "/readyz", "/startupz"):
        assert await status(probe) == 200
    for path in ("/metrics", "/config_dump", "/clusters", "/routes"):
        assert await status(path) == 401
        assert await status(path, "wrong") == 401
        assert await status(path, "s3cret-token") == 200
