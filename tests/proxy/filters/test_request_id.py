"""Names of an exchange: request id, correlation id, trace."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def sent(application: Application, name: str) -> list[str]:
    lines = application.heads[-1].split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")]


async def test_made_where_nothing_came(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    application.lines = "X-Request-ID: the-upstreams\r\n"
    answer = await ask(await serve(upstream.port))
    made = answer.fields["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert sent(application, "x-request-id") == sent(application, "x-correlation-id") == [made]
    assert re.fullmatch(f"00-{made}-[0-9a-f]{{16}}-01", sent(application, "traceparent")[0])
    assert [line for line in answer.lines if line.lower().startswith("x-request-id")] == [f"x-request-id: {made}"]


async def test_well_formed_ones_are_kept(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port)
    answer = await ask(served, "X-Request-ID: req-12345678", "X-Correlation-ID: corr_1.2345", f"traceparent: {TRACE}")
    assert (answer.fields["x-request-id"], answer.fields["x-correlation-id"]) == ("req-12345678", "corr_1.2345")
    assert sent(application, "traceparent") == [TRACE]


@pytest.mark.parametrize("bad", ["short", "a" * 129, "has space in it", "<script>alert(1)</script>", "-12345678"])
async def test_others_are_replaced(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, bad: str
) -> None:
    served = await serve(upstream.port)
    answer = await ask(served, f"X-Request-ID: {bad}", f"X-Correlation-ID: {bad}", f"traceparent: {bad}")
    assert bad not in "".join(answer.lines)
    assert bad not in application.heads[-1]
