"""What is measured is what happened."""

from __future__ import annotations

from tests.conftest import Start
from tests.wire import ScriptedUpstream


async def test_durations_are_finer_than_the_loops_clock(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    wire = await served.connect()
    for _ in range(5):
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await wire.answer()
    total = served.proxy.compiled.routes.routes[0].stats.durations.total
    assert 0 < total < 5
    assert (total * 1000) % 1 != 0
    text = served.proxy.metrics.expose().decode()
    assert 'proxy_requests_total{route="everything",status="200"} 5.0' in text
    assert 'proxy_upstream_requests_total{cluster="app",outcome="2xx"} 5.0' in text
