"""Bans over HTTP and over WebSocket handshakes: refused too often, scanners, honeypots; longer each time; by hand."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
import pytest

from proxy.filters.bans import BanList
from proxy.fleet.board import Board
from tests.conftest import Served, Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

BANS = "{{bans: {{strikes: 2/1m, count: [rate-limited, 404], ban: {{from: 1h, to: 1d}}{more}}}}}"
FROM = "X-Forwarded-For: 192.0.2.{}"


async def admin(served: Served, method: str, path: str) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as session:
        answer = await session.request(method, f"http://127.0.0.1:{served.proxy.admin.port}{path}")
        return answer.status, await answer.json()


async def start(serve: Start, upstream: ScriptedUpstream, more: str = "", limits: str = "{}") -> Served:
    return await serve(upstream.port, policies=BANS.format(more=more), limits=limits, trusted="[127.0.0.0/8]")


async def test_refused_too_often(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await start(serve, upstream, limits="{one: {limit: 1/1h}}")
    seen = [(await ask(served, FROM.format(1))).status for _ in range(6)]
    assert seen == [200, 429, 429, 429, 403, 403]
    refused = await ask(served, FROM.format(1))
    problem = orjson.loads(refused.body)
    assert problem["type"].endswith(":banned")
    assert problem["detail"].startswith("kept out until 20")
    assert 3500 < int(refused.fields["retry-after"]) <= 3600
    assert problem["rule"] == "all.bans"
    assert (await ask(served, FROM.format(2))).status == 200
    assert len(application.heads) == 2
    assert "proxy_bans 1.0" in served.proxy.metrics.expose().decode()


async def test_missing_too_often(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    application.status = b"404 Not Found"
    served = await start(serve, upstream)
    seen = [
        (await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))[0] for _ in range(4)
    ]
    assert seen == [404, 404, 404, 403]


@pytest.mark.parametrize("target", ["/.env", "/wp-login.php"])
async def test_honeypots(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, target: str
) -> None:
    served = await start(serve, upstream)
    assert (await ask(served, FROM.format(1), target=target)).status == 403
    assert (await ask(served, FROM.format(1))).status == 403
    assert application.heads == []


@pytest.mark.parametrize("agent", ["sqlmap/1.8#stable", "Mozilla/5.00 (Nikto/2.5.0)", "Nuclei - Open-source"])
async def test_scanners(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, agent: str
) -> None:
    served = await start(serve, upstream)
    assert (await ask(served, FROM.format(1), f"User-Agent: {agent}")).status == 403
    assert (await ask(served, FROM.format(1), "User-Agent: Mozilla/5.0")).status == 403


async def test_scanners_where_they_may(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream, more=", scanners: false")
    assert (await ask(served, "User-Agent: sqlmap/1.8")).status == 200


async def test_the_allowed_are_never_banned(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream, more=", allow: [192.0.2.0/24]", limits="{one: {limit: 1/1h}}")
    seen = [(await ask(served, FROM.format(1), "User-Agent: nikto")).status for _ in range(6)]
    assert seen == [200, 429, 429, 429, 429, 429]


async def test_shadow_counts_and_bans_nobody(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream, more=", mode: shadow", limits="{one: {limit: 2/1h}}")
    seen = [(await ask(served, FROM.format(1), target="/.env")).status for _ in range(6)]
    assert seen == [200, 200, 429, 429, 429, 429]
    assert served.proxy.listener.stats.rejections["all.bans", "banned", "shadow"] == 6
    assert list(served.proxy.compiled.ban_list) == []


async def test_by_hand(serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask) -> None:
    served = await start(serve, upstream)
    status, told = await admin(served, "POST", "/bans?subject=ip:192.0.2.9&seconds=60")
    assert (status, told["subject"]) == (200, "ip:192.0.2.9")
    assert (await ask(served, FROM.format(9))).status == 403
    _, told = await admin(served, "GET", "/bans")
    assert isinstance(told["bans"], list)
    assert [(row["subject"], row["reason"]) for row in told["bans"]] == [("ip:192.0.2.9", "by-hand")]
    assert (await admin(served, "POST", "/bans/lift?subject=ip:192.0.2.9"))[0] == 200
    assert (await ask(served, FROM.format(9))).status == 200
    assert (await admin(served, "POST", "/bans/lift?subject=ip:192.0.2.9"))[0] == 404
    for wrong in ("subject=ip:nobody", "subject=ada", "subject=ip:192.0.2.9&seconds=0", ""):
        assert (await admin(served, "POST", f"/bans?{wrong}"))[0] == 400


async def test_an_ipv6_address_stands_for_its_network(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream)
    where = "X-Forwarded-For: 2001:db8:0:1::{}"
    assert (await ask(served, where.format(1), target="/.env")).status == 403
    assert (await ask(served, where.format("ffff:2"))).status == 403
    assert (await ask(served, "X-Forwarded-For: 2001:db8:0:2::1")).status == 200
    assert [ban.subject for ban in served.proxy.compiled.ban_list] == ["ip:2001:db8:0:1::/64"]
    assert (await admin(served, "POST", "/bans/lift?subject=ip:2001:db8:0:1::/64"))[0] == 200
    assert (await ask(served, where.format(1))).status == 200
    _, told = await admin(served, "POST", "/bans?subject=ip:2001:db8:0:1::9&seconds=60")
    assert told["subject"] == "ip:2001:db8:0:1::/64"
    assert (await ask(served, where.format(1))).status == 403
    assert (await admin(served, "POST", "/bans/lift?subject=ip:2001:db8:0:1::9"))[0] == 200


async def test_strikes_of_one_network_add_up(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    application.status = b"404 Not Found"
    served = await start(serve, upstream)
    request = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8:0:1::%d\r\n\r\n"
    seen = [(await served.ask(request % last))[0] for last in range(1, 6)]
    assert seen == [404, 404, 404, 403, 403]


async def test_another_sites_page_bans_nobody(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream)
    seen = await ask(served, FROM.format(1), "Sec-Fetch-Site: cross-site", target="/.env")
    assert seen.status == 200
    assert (await ask(served, FROM.format(1))).status == 200
    assert (await ask(served, FROM.format(1), "Sec-Fetch-Site: same-origin", target="/.env")).status == 403


@pytest.mark.parametrize("value", ["", "1", "x y z", "by somebody", "1 2"])
def test_a_ban_that_somebody_wrote_otherwise_holds_until_its_end(value: str) -> None:
    now = 0.0
    board = Board("bans", clock=lambda: now)
    bans = BanList(board)
    board.learn("ip:a", value, 60)
    assert bans.left("ip:a") == 60
    assert [(ban.subject, ban.seconds, ban.reason) for ban in bans] == [("ip:a", 60, value)]
    assert bans.ban("ip:a", "test", 60, 300, 1000) == 120


def test_longer_each_time_that_is_remembered() -> None:
    now = 0.0
    bans = BanList(Board("bans", clock=lambda: now))

    def ban() -> float:
        return bans.ban("ip:a", "test", 60, 300, 1000)

    assert ban() == 60
    now = 59
    assert bans.left("ip:a") == pytest.approx(1)
    now = 61
    assert bans.left("ip:a") == 0
    assert list(bans) == []
    assert ban() == 120
    now += 121
    assert ban() == 240
    now += 241
    assert ban() == 300
    now += 1301
    assert ban() == 60
    assert [(ban.subject, ban.level) for ban in bans] == [("ip:a", 1)]


async def test_a_strike_is_the_fleets(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    """Without a store the strikes are counted in this process, at once."""
    application.status = b"404 Not Found"
    served = await start(serve, upstream)
    async with asyncio.timeout(5):
        asked = [served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n") for _ in range(6)]
        seen = [status for status, _, _ in await asyncio.gather(*asked)]
    assert set(seen) <= {404, 403}
    assert (await served.ask(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))[0] == 403
