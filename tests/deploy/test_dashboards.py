"""The whole topology as processes, asked through the load balancer, and what Prometheus has of it for each panel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.process import ROOT
from stack.twin import Places, Twin
from upstream_app.seed import PASSWORD

pytestmark = pytest.mark.timeout(240)
DAY = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
ADDRESS = {"street": "1 Elm St", "city": "Springfield", "state": "IL", "zipCode": "62701"}


def panels() -> list[tuple[str, str]]:
    """Each panel's title and query that Prometheus answers."""
    boards = [
        json.loads(one.read_text()) for one in sorted((ROOT / "config" / "grafana" / "dashboards").glob("*.json"))
    ]
    return [
        (f"{board['title']}: {panel['title']}", target["expr"].replace("$instance", ".*"))
        for board in boards
        for panel in board["panels"]
        for target in panel.get("targets", [])
        if (target.get("datasource") or panel.get("datasource") or {}).get("type") != "loki"
    ]


class Asking:
    """Prometheus, until it has what is wanted."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}/api/v1"

    async def query(self, expression: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._url}/query", params={"query": expression}) as answer:
            told = await answer.json()
            assert told["status"] == "success", told
            return list(told["data"]["result"])

    async def get(self, path: str) -> Any:
        async with self._session.get(f"{self._url}/{path}") as answer:
            return (await answer.json())["data"]

    async def until(self, expression: str, true: Callable[[list[dict[str, Any]]], bool], seconds: float = 40.0) -> None:
        async with asyncio.timeout(seconds):
            while not true(await self.query(expression)):
                await asyncio.sleep(0.25)


class Visitor:
    """Somebody of the seed, through the load balancer."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self.headers = {"Authorization": f"Bearer {token}"}

    @classmethod
    async def logged_in(cls, session: aiohttp.ClientSession, url: str, name: str) -> Visitor:
        async with session.post(f"{url}/api/auth/login", json={"username": name, "password": PASSWORD}) as answer:
            assert answer.status == 200, await answer.text()
            return cls(session, url, (await answer.json())["data"]["access_token"])

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with self._session.request(method, self._url + path, json=body, headers=self.headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def done(self, method: str, path: str, body: object = None) -> Any:
        status, told = await self.ask(method, path, body)
        assert status < 300, (path, status, told)
        return told["data"]


async def business(visitor: Visitor, number: int) -> None:
    """A customer, an estimate and a job."""
    who = {
        "firstName": "Ada", "lastName": f"Number{number}", "email": f"ada{number}@example.com",
        "phone": "217-555-0100", "type": "residential", "source": "website", "address": ADDRESS,
    }  # fmt: skip
    customer = (await visitor.done("POST", "/api/customers", who))["id"]
    move = {"customerId": customer, "service": "local"}
    await visitor.done("POST", "/api/estimates", move | {"moveDate": DAY, "volume": 900})
    await visitor.done("POST", "/api/jobs", move | {"scheduledDate": DAY})
    await visitor.done("GET", f"/api/customers/{customer}")


async def refusals(visitor: Visitor) -> None:
    """One of each kind that boards show: an attack, a wrong log-in, a limit in shadow and one that holds."""
    attack = {"firstName": "<script>alert(1)</script>"}
    assert (await visitor.ask("POST", "/api/customers", attack))[0] == 403
    assert (await visitor.ask("POST", "/api/auth/login", {"username": "nobody", "password": "wrong"}))[0] == 401
    await asyncio.gather(*(visitor.ask("GET", "/api/crews") for _ in range(40)))
    statuses = [await visitor.ask("GET", "/api/audit") for _ in range(6)]
    assert 429 in [status for status, _ in statuses]


async def test_no_panel_is_empty_and_no_alert_fires(tmp_path: Path) -> None:
    places = Places.free()
    twin = Twin(places, tmp_path, scrape="1s")
    await twin.start()
    try:
        url = f"http://127.0.0.1:{places.balancer}"
        async with aiohttp.ClientSession() as session:
            prometheus = Asking(session, places.prometheus)
            await prometheus.until("sum(up)", lambda got: bool(got) and got[0]["value"][1] == "7")
            manager = await Visitor.logged_in(session, url, "manager")
            async with session.ws_connect(f"{url}/realtime", headers=manager.headers) as socket:
                await socket.receive_json()
                for number in range(4):
                    await business(manager, number)
                    await socket.send_json({"type": "ping", "id": str(number)})
                    await socket.receive_json()
                    await asyncio.sleep(1)
                await refusals(manager)
                await asyncio.sleep(1)
                await manager.ask("GET", "/api/jobs")
                empty = [one for one in panels() if not await shown(prometheus, one[1])]
                assert empty == []
            rows = await prometheus.query("sum(increase(business_customers_created_total[1d]))")
            assert float(rows[0]["value"][1]) > 0
            down = [
                one["scrapeUrl"] for one in (await prometheus.get("targets"))["activeTargets"] if one["health"] != "up"
            ]
            assert down == []
            rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
            assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
            firing = [one["labels"]["alertname"] for one in (await prometheus.get("alerts"))["alerts"]]
            assert [name for name in firing if name not in ("LimitsExceeded", "AttacksRefused")] == []
    finally:
        await twin.stop()
    assert twin.processes == []


async def shown(prometheus: Asking, expression: str) -> bool:
    """Within ten seconds: a rate needs two scrapes. NaN is nothing."""
    for _ in range(20):
        rows = await prometheus.query(expression)
        if any(row["value"][1] != "NaN" for row in rows):
            return True
        await asyncio.sleep(0.5)
    return False
