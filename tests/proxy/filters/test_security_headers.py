"""Helmet's set on every answer: the upstream's, a refusal, a 101."""

from __future__ import annotations

import base64

import pytest

from tests.conftest import Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

HELMET = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "origin-agent-cluster": "?1",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
    "x-download-options": "noopen",
    "x-frame-options": "SAMEORIGIN",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "0",
}


async def test_the_whole_set(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    answer = await ask(await serve(upstream.port))
    assert answer.status == 200
    assert {name: answer.fields.get(name) for name in HELMET} == HELMET
    assert answer.fields["content-security-policy"].startswith("default-src 'self'; base-uri 'self'; font-src")
    assert "strict-transport-security" not in answer.fields


async def test_on_refusals_too(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await serve(upstream.port, policies="{security_headers: {}, ip: {deny: [127.0.0.0/8]}}")
    for target in ("/a", "/%00"):
        answer = await ask(served, target=target)
        assert answer.status in (400, 403)
        assert {name: answer.fields.get(name) for name in HELMET} == HELMET
    assert not application.heads


@pytest.mark.parametrize(("present", "kept"), [
    ("override", ["x-frame-options: SAMEORIGIN"]),
    ("keep", ["x-frame-options: ALLOWALL"]),
    ("append", ["x-frame-options: ALLOWALL"]),
])  # fmt: skip
async def test_what_the_upstream_set_itself(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, present: str, kept: list[str]
) -> None:
    application.lines = "X-Frame-Options: ALLOWALL\r\nContent-Security-Policy: default-src *\r\n"
    served = await serve(upstream.port, policies=f"{{security_headers: {{upstream: {present}}}}}")
    answer = await ask(served)
    assert [line for line in answer.lines if line.startswith("x-frame-options")] == kept
    policies = [line for line in answer.lines if line.startswith("content-security-policy")]
    assert len(policies) == (2 if present == "append" else 1)
    assert any("default-src *" in line for line in policies) == (present != "override")


async def test_hsts_only_over_tls(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await serve(upstream.port, trusted="[127.0.0.0/8]")
    assert "strict-transport-security" not in (await ask(served, "X-Forwarded-Proto: http")).fields
    answer = await ask(served, "X-Forwarded-Proto: https")
    assert answer.fields["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    untrusting = await serve(upstream.port)
    assert "strict-transport-security" not in (await ask(untrusting, "X-Forwarded-Proto: https")).fields


async def test_a_nonce_is_made_anew_and_offered(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies='{security_headers: {csp: {script-src: ["{nonce}"]}}}')
    nonces = set()
    for _ in range(3):
        answer = await ask(served, "X-CSP-Nonce: mine")
        offered = [line for line in application.heads[-1].split("\r\n") if line.startswith("x-csp-nonce: ")]
        nonce = offered[0].removeprefix("x-csp-nonce: ")
        assert len(offered) == 1
        assert len(base64.b64decode(nonce)) == 16
        assert f"script-src 'nonce-{nonce}';" in answer.fields["content-security-policy"] + ";"
        nonces.add(nonce)
    assert len(nonces) == 3


async def test_report_only(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await serve(upstream.port, policies="{security_headers: {csp_report_only: true}}")
    answer = await ask(served)
    assert "content-security-policy" not in answer.fields
    assert answer.fields["content-security-policy-report-only"].startswith("default-src 'self'")


async def test_headers_left_out_and_of_ones_own(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    policies = "{security_headers: {headers: {x-frame-options: null, permissions-policy: camera=()}}}"
    answer = await ask(await serve(upstream.port, policies=policies))
    assert "x-frame-options" not in answer.fields
    assert answer.fields["permissions-policy"] == "camera=()"


@pytest.mark.parametrize("mode", ["shadow", "off"])
async def test_without_enforcing_no_byte_changes(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, mode: str
) -> None:
    served = await serve(upstream.port, policies=f"{{security_headers: {{mode: {mode}}}}}")
    answer = await ask(served)
    assert not HELMET.keys() & answer.fields.keys()
    counted = served.proxy.listener.stats.rejections
    assert (("all.security_headers", "would-change", "shadow") in counted) == (mode == "shadow")
