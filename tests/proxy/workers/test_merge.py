"""Several workers' metrics as one page: sums, the worst, and counters that never go back."""

from __future__ import annotations

from proxy.workers.merge import SUMMED, WORST_IS_LEAST, WORST_IS_MOST, Merger, parsed
from tests.conftest import Start
from tests.wire import ScriptedUpstream

PAGE = """# HELP proxy_requests_total x
# TYPE proxy_requests_total counter
proxy_requests_total{{route="a",status="200"}} {requests}
# HELP proxy_request_duration_seconds x
# TYPE proxy_request_duration_seconds histogram
proxy_request_duration_seconds_bucket{{route="a",le="0.1"}} {requests}
proxy_request_duration_seconds_bucket{{route="a",le="+Inf"}} {requests}
proxy_request_duration_seconds_count{{route="a"}} {requests}
proxy_request_duration_seconds_sum{{route="a"}} 1.5
# HELP proxy_connections x
# TYPE proxy_connections gauge
proxy_connections {connections}
# HELP proxy_store_up x
# TYPE proxy_store_up gauge
proxy_store_up {up}
# HELP proxy_breaker_state x
# TYPE proxy_breaker_state gauge
proxy_breaker_state{{breaker="app"}} {breaker}
"""


def page(requests: int, connections: int = 1, up: int = 1, breaker: int = 0) -> str:
    return PAGE.format(requests=requests, connections=connections, up=up, breaker=breaker)


def shown(merger: Merger) -> dict[str, float]:
    lines = [line for line in merger.expose().decode().splitlines() if line[:1] not in ("#", "")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_each_family_by_its_meaning() -> None:
    merger = Merger()
    merger.see(1, parsed(page(10, connections=3)))
    merger.see(2, parsed(page(5, connections=4, up=0, breaker=2)))
    told = shown(merger)
    assert told['proxy_requests_total{route="a",status="200"}'] == 15
    assert told['proxy_request_duration_seconds_bucket{le="0.1",route="a"}'] == 15
    assert told['proxy_request_duration_seconds_sum{route="a"}'] == 3.0
    assert (told["proxy_connections"], told["proxy_store_up"]) == (7, 0)
    assert told['proxy_breaker_state{breaker="app"}'] == 2


def test_counters_never_go_back_when_a_worker_goes() -> None:
    merger = Merger()
    merger.see(1, parsed(page(10, connections=3)))
    merger.see(2, parsed(page(5)))
    merger.retire(1)
    assert shown(merger)['proxy_requests_total{route="a",status="200"}'] == 15
    assert shown(merger)["proxy_connections"] == 1, "but it holds nothing any more"
    merger.see(3, parsed(page(1)))
    assert shown(merger)['proxy_requests_total{route="a",status="200"}'] == 16
    merger.retire(99)


async def test_every_gauge_of_the_proxy_has_a_meaning(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, more='redis: {url: "redis://127.0.0.1:1"}', limits="{few: {limit: 9/1m}}")
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
    gauges = {family.name for family in served.proxy.metrics.collect() if family.type == "gauge"}
    assert len(gauges) > 15
    assert not gauges - (SUMMED | WORST_IS_LEAST | WORST_IS_MOST)
    assert not (SUMMED & WORST_IS_LEAST) | (SUMMED & WORST_IS_MOST) | (WORST_IS_LEAST & WORST_IS_MOST)
