"""The live page in a browser, and what guards the admin against the browser's other pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright

from proxy.app import Proxy
from proxy.policy.load import load
from tests.conftest import Served, Start
from tests.wire import ScriptedUpstream

POLICY = """
version: 1
listener: {{address: "127.0.0.1:0", drain: 2s}}
admin: {{address: "127.0.0.1:0", token: {token}}}
access_log: {{enabled: false}}
clusters: {{app: {{endpoints: ["127.0.0.1:{port}"]}}}}
policies:
  all:
    bans: {{strikes: 100/minute}}
    limits: {{few: {{limit: 3/minute, key: [ip]}}}}
routes:
  everything: {{match: {{prefix: /}}, to: app, use: [all]}}
"""
TOKEN = "a-token-of-this-test"


@asynccontextmanager
async def from_file(folder: Path, upstream: ScriptedUpstream, token: str = "") -> AsyncIterator[tuple[Served, Path]]:
    path = folder / "policy.yaml"
    path.write_text(POLICY.format(port=upstream.port, token=token))
    served = Served(Proxy(load(path, {}), path))
    await served.proxy.start()
    try:
        yield served, path
    finally:
        served.close_wires()
        await served.settled()
        async with asyncio.timeout(5):
            await served.proxy.stop(0)


@dataclass
class Seen:
    """What the browser complained of, and whom it asked."""

    wrong: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


@asynccontextmanager
async def browsing(url: str, width: int = 1200) -> AsyncIterator[tuple[Page, Seen]]:
    seen = Seen()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(15_000)
        page.on("console", lambda said: seen.wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: seen.wrong.append(str(error)))
        page.on("request", lambda request: seen.asked.add("/".join(request.url.split("/")[:3])))
        await page.goto(f"{url}/")
        yield page, seen
        await browser.close()


async def fits(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def test_the_page_tells_what_happens_while_it_happens(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with from_file(tmp_path, upstream) as (served, path):
        admin = f"http://127.0.0.1:{served.proxy.admin.port}"
        async with browsing(admin) as (page, seen):
            await page.locator("#state", has_text="ready").wait_for()
            for _ in range(5):
                await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            row = page.locator("#routes tr", has_text="everything")
            await row.locator("td", has_text="5").first.wait_for()
            refused = page.locator("#refusals tr", has_text="all.few")
            await refused.locator("td", has_text="more than 3 requests in 60 s").wait_for()
            await page.locator("#limits tr", has_text="100 %").wait_for()
            await refused.get_by_role("button", name="Explain").click()
            dialog = page.locator("#decision")
            await dialog.locator("dd", has_text="429 rate-limited").wait_for()
            assert "denied, 0 of 3 left" in await dialog.locator("#decision-limits").inner_text()
            assert "Throttle (all.few): refused" in await dialog.locator("#decision-filters").inner_text()
            await page.keyboard.press("Escape")

            served.proxy.compiled.ban_list.ban("ip:192.0.2.7", "by-hand", 600, 600, 0)
            lift = page.get_by_role("button", name="Lift the ban of ip:192.0.2.7")
            await lift.wait_for()
            await lift.focus()
            await page.keyboard.press("Enter")
            await page.locator("#bans", has_text="Nobody is banned").wait_for()
            assert not list(served.proxy.compiled.ban_list)

            path.write_text(path.read_text().replace("to: app", "to: ap"))
            await page.get_by_role("button", name="Read the file again").click()
            finding = page.locator("#findings li", has_text="policy.yaml:")
            await finding.wait_for()
            assert "app" in await finding.inner_text()
            assert served.proxy.compiled.routes.routes[0].cluster.name == "app"

            await page.keyboard.press("/")
            await page.keyboard.type("no such thing")
            await page.locator("#routes", has_text="Nothing here has what you look for").wait_for()
            assert await fits(page)
            wanted = [one for one in seen.wrong if "409" not in one]
            assert wanted == []
            assert seen.asked == {admin}


async def test_the_page_fits_a_phone(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with (
        from_file(tmp_path, upstream) as (served, _),
        browsing(f"http://127.0.0.1:{served.proxy.admin.port}", width=360) as (page, seen),
    ):
        await page.locator("#clusters tr", has_text=f"127.0.0.1:{upstream.port}").wait_for()
        await served.ask(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        await page.locator("#routes tr", has_text="everything").wait_for()
        assert await fits(page)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        assert seen.wrong == []


async def test_a_guarded_admin_shows_figures_for_its_token_only(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with (
        from_file(tmp_path, upstream, TOKEN) as (served, _),
        browsing(f"http://127.0.0.1:{served.proxy.admin.port}") as (page, seen),
    ):
        box = page.get_by_label("Token", exact=True)
        await box.fill("wrong")
        async with page.expect_response("**/ui/events") as answered:
            await page.keyboard.press("Enter")
        assert (await answered.value).status == 401
        await page.wait_for_function("document.querySelector('#token').open")
        assert await page.locator("#routes table").count() == 0
        await box.fill(TOKEN)
        await page.get_by_role("button", name="Show the figures").click()
        await page.locator("#state", has_text="ready").wait_for()
        assert all("401" in one for one in seen.wrong)


async def test_the_page_says_when_the_sidecar_has_gone(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    async with browsing(f"http://127.0.0.1:{served.proxy.admin.port}") as (page, _):
        await page.locator("#state", has_text="ready").wait_for()
        async with asyncio.timeout(5):
            await served.proxy.admin.close()
        await page.locator("#state", has_text="not connected").wait_for()
        assert "No figures" in await page.locator("#alert").inner_text()


async def test_pages_are_guarded_by_headers_and_bounded(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    admin = f"http://127.0.0.1:{served.proxy.admin.port}"
    async with aiohttp.ClientSession() as session:
        for path in ("/ui", "/ui/app.js", "/ui/style.css"):
            async with session.get(admin + path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert "http" not in policy
                text = await answer.text()
                assert "http://" not in text
                assert "https://" not in text
        streams = [await session.get(f"{admin}/ui/events") for _ in range(16)]
        async with session.get(f"{admin}/ui/events") as answer:
            assert answer.status == 503
        for stream in streams:
            assert (await stream.content.readline()).startswith(b"data: {")
            stream.close()


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("GET", {"Host": "evil.example:9901"}, 403),
        ("GET", {"Host": "evil.example"}, 403),
        ("GET", {"Host": "localhost:9901"}, 200),
        ("GET", {"Host": "[::1]:9901"}, 200),
        ("GET", {"Host": "127.0.0.1"}, 200),
    ],
)
async def test_another_sites_page_can_neither_read_nor_write(
    serve: Start, upstream: ScriptedUpstream, method: str, headers: dict[str, str], status: int
) -> None:
    served = await serve(upstream.port)
    path = "/drain" if method == "POST" else "/limits"
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{served.proxy.admin.port}{path}"
        async with session.request(method, url, headers=headers) as answer:
            assert answer.status == status
    assert not served.proxy.listener.draining


async def test_another_programs_metrics_come_through(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    known = served.proxy.policy.admin.scrape
    known["app"] = f"http://127.0.0.1:{upstream.port}/metrics"
    known["away"] = "http://127.0.0.1:1/metrics"
    admin = f"http://127.0.0.1:{served.proxy.admin.port}"
    async with aiohttp.ClientSession() as session:
        for name, status in (("app", 200), ("away", 502), ("other", 404)):
            async with session.get(f"{admin}/scrape/{name}") as answer:
                assert answer.status == status, name
                assert name != "other" or "away" in (await answer.json())["error"]
