"""Who may come, by the address that trusted proxies vouch for."""

from __future__ import annotations

import orjson
import pytest

from tests.conftest import Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream


@pytest.mark.parametrize(("policy", "client", "passes"), [
    ("deny: [192.0.2.0/24]", "192.0.2.7", False),
    ("deny: [192.0.2.0/24]", "198.51.100.1", True),
    ("allow: [198.51.100.0/24]", "198.51.100.1", True),
    ("allow: [198.51.100.0/24]", "203.0.113.1", False),
    ("allow: [198.51.100.0/24], deny: [198.51.100.1/32]", "198.51.100.1", False),
    ("deny: [\"2001:db8::/32\"]", "2001:db8::1", False),
    ("deny: [\"2001:db8::/32\"]", "2001:db9::1", True),
    ("deny: [192.0.2.0/24]", "::ffff:192.0.2.7", False),
])  # fmt: skip
async def test_by_client_address(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, policy: str, client: str, passes: bool
) -> None:
    served = await serve(upstream.port, trusted="[127.0.0.0/8]", policies=f"{{ip: {{{policy}}}}}")
    answer = await ask(served, f"X-Forwarded-For: {client}", "Accept: application/json")
    assert answer.status == (200 if passes else 403)
    assert bool(application.heads) == passes
    if not passes:
        problem = orjson.loads(answer.body)
        assert problem["rule"] == "all.ip"
        assert problem["requestId"] == answer.fields["x-request-id"]
        assert client not in answer.body.decode()
        assert served.proxy.listener.stats.rejections["all.ip", "forbidden", "enforce"] == 1


async def test_an_address_that_nobody_trusted_vouches_for_says_nothing(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies="{ip: {allow: [198.51.100.0/24]}}")
    assert (await ask(served, "X-Forwarded-For: 198.51.100.1")).status == 403


async def test_in_shadow_all_pass_and_are_counted(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, policies="{ip: {mode: shadow, deny: [127.0.0.0/8]}}")
    assert (await ask(served)).status == 200
    assert served.proxy.listener.stats.rejections["all.ip", "forbidden", "shadow"] == 1
