"""The admin's page as docs/images shows it: python -m tests.shots, while `make run` serves with seeded data."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import aiohttp
from playwright.async_api import async_playwright

from upstream_app.seed import PASSWORD

FOLDER = Path(__file__).parents[1] / "docs" / "images"
PROXY = f"http://127.0.0.1:{os.environ.get('PROXY_PORT', '8080')}"
ADMIN = f"http://127.0.0.1:{os.environ.get('ADMIN_PORT', '9901')}"
SECONDS = 12
PATHS = ["/api/customers?limit=5", "/api/customers?search=ada", "/api/jobs", "/api/health/live"]


async def traffic(stop: asyncio.Event) -> None:
    """Honest requests, cached ones, refused ones, and a few WebSockets."""
    async with aiohttp.ClientSession() as session:
        token = {}
        for name in ("manager", "sales", "dispatcher"):
            body = {"username": name, "password": PASSWORD}
            async with session.post(f"{PROXY}/api/auth/login", json=body) as answer:
                token[name] = (await answer.json())["data"]["access_token"]
        sockets = [
            await session.ws_connect(f"{PROXY}/realtime?access_token={one}", origin=PROXY) for one in token.values()
        ]
        while not stop.is_set():
            name = random.choice(list(token))
            headers = {"Authorization": f"Bearer {token[name]}"}
            path = random.choice(PATHS)
            async with session.get(PROXY + path, headers=headers) as answer:
                await answer.read()
            if random.random() < 0.05:
                async with session.get(f"{PROXY}/api/customers?search=%27%20OR%201%3D1--", headers=headers) as answer:
                    await answer.read()
            await asyncio.sleep(0.35)
        for socket in sockets:
            await socket.close()


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    stop = asyncio.Event()
    going = asyncio.create_task(traffic(stop))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, width, height in (("admin-ui", 1280, 900), ("admin-ui-phone", 390, 844)):
            page = await browser.new_page(viewport={"width": width, "height": height})
            await page.goto(f"{ADMIN}/ui")
            await page.wait_for_timeout(SECONDS * 1000)
            await page.screenshot(path=FOLDER / f"{name}.png", full_page=name == "admin-ui")
        await browser.close()
    stop.set()
    await going


if __name__ == "__main__":
    asyncio.run(main())
