"""Cross-origin requests (Fetch, section 3.2), over both protocols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.origins import Origins
from tests.conftest import Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

POLICY = '{cors: {origins: ["https://app.example", "https://*.shop.example"], credentials: true}}'
HERE = "Origin: https://app.example"


async def test_an_allowed_origin_is_told_so(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    application.lines = "Access-Control-Allow-Origin: *\r\n"
    answer = await ask(await serve(upstream.port, policies=POLICY), HERE)
    assert [one for one in answer.lines if one.lower().startswith("access-control-allow-origin")] == [
        "access-control-allow-origin: https://app.example"
    ]
    assert answer.fields["access-control-allow-credentials"] == "true"
    assert answer.fields["access-control-expose-headers"] == "x-request-id, x-correlation-id"
    assert answer.fields["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil", "http://app.example", "null"])
async def test_another_origin_gets_nothing(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, origin: str
) -> None:
    answer = await ask(await serve(upstream.port, policies=POLICY), f"Origin: {origin}")
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.fields
    assert not application.heads


async def test_ones_own_origin_and_none_pass(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies=POLICY)
    assert (await ask(served, "Origin: http://app.test")).status == 200
    answer = await ask(served)
    assert answer.status == 200
    assert "access-control-allow-origin" not in answer.fields


async def test_in_shadow_nothing_is_refused_or_changed(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies=POLICY.replace("{cors: {", "{cors: {mode: shadow, "))
    answer = await ask(served, "Origin: https://evil.example")
    assert answer.status == 200
    assert not [name for name in answer.fields if name.startswith("access-control")]
    assert served.proxy.listener.stats.rejections["all.cors", "forbidden", "shadow"] == 1


async def test_a_preflight_is_answered_here(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies=POLICY)
    status, fields, body = await served.ask(
        b"OPTIONS /a HTTP/1.1\r\nHost: app.test\r\nOrigin: https://eu.shop.example\r\n"
        b"Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: Content-Type, X-Evil\r\n\r\n"
    )
    assert (status, body, application.heads) == (204, b"", [])
    assert fields["access-control-allow-origin"] == "https://eu.shop.example"
    assert fields["access-control-allow-methods"] == "GET, HEAD, POST, PUT, PATCH, DELETE"
    assert fields["access-control-allow-headers"] == "content-type"
    assert fields["access-control-max-age"] == "600"


async def test_options_without_preflight_goes_on(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=POLICY)
    status, _, _ = await served.ask(b"OPTIONS /a HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert status == 200
    assert application.heads[0].startswith("OPTIONS /a ")


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(LABEL, min_size=1, max_size=3), st.sampled_from(["https", "http"]))
def test_a_star_stands_for_labels_in_front(labels: list[str], scheme: str) -> None:
    origins = Origins(("https://*.example.org",))
    host = ".".join(labels)
    assert (f"{scheme}://{host}.example.org".encode() in origins) == (scheme == "https")
    assert f"https://{host}example.org".encode() not in origins
    assert f"https://{host}.example.org.evil.com".encode() not in origins
    assert f"https://evil.com/{host}.example.org".encode() not in origins
    assert f"https://{host}.example.org:8443".encode() not in origins


def test_every_origin() -> None:
    assert b"https://whoever.example" in Origins(("*",))


async def test_the_own_origin_behind_a_proxy_that_rewrites_the_host(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies=POLICY, trusted="[127.0.0.1/32]")
    lines = ("X-Forwarded-Host: shop.example", "X-Forwarded-Proto: https")
    assert (await ask(served, "Origin: https://shop.example", *lines)).status in (101, 200)
    assert (await ask(served, "Origin: https://other.example", *lines)).status == 403
