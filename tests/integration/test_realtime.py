"""Two SimplePro instances, each behind its sidecar and the policy: limits, ends, resume, a browser, a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from bson import ObjectId
from playwright.async_api import async_playwright
from pymongo import AsyncMongoClient

from breaker import Breaker, Settings
from proxy.throttle.cluster import slot_of
from stack import servers
from stack.process import ROOT, ServerProcess
from tests.integration.test_redis_cluster import Cluster
from tests.integration.test_redis_cluster import cluster as cluster
from tests.upstream_app.realtime.talker import Talker
from upstream_app import redis, settings
from upstream_app.auth.sessions import Sessions
from upstream_app.auth.tokens import Tokens
from upstream_app.events import LASTING
from upstream_app.seed import PASSWORD

POLICY = ROOT / "config" / "simplepro.yaml"


@dataclass
class Pods:
    """`proxies` and `apps` by pod; `mongo` is the database's address."""

    mongo: str
    ports: list[int]
    admins: list[int]
    proxies: list[ServerProcess]
    apps: list[ServerProcess]
    session: aiohttp.ClientSession
    opened: list[Talker] = field(default_factory=list)

    def url(self, pod: int) -> str:
        return f"http://127.0.0.1:{self.ports[pod]}"

    async def log_in(self, name: str, pod: int = 0) -> str:
        body = {"username": name, "password": PASSWORD}
        async with self.session.post(f"{self.url(pod)}/api/auth/login", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["data"]["access_token"])

    async def talk(self, token: str, pod: int = 0, **query: str) -> Talker:
        url = f"{self.url(pod)}/realtime"
        headers = {"Authorization": f"Bearer {token}"}
        talker = Talker(await self.session.ws_connect(url, params=query, headers=headers, timeout=_PATIENT))
        self.opened.append(talker)
        return await talker.welcomed()


_PATIENT = aiohttp.ClientWSTimeout(ws_close=5.0)


@contextlib.asynccontextmanager
async def running(folder: Path, redis_url: str, environment: Mapping[str, str], users: bool) -> AsyncIterator[Pods]:
    """Two pods on a database of their own; with the seed's users where wanted."""
    mongo_port = servers.free_port()
    uri = f"mongodb://127.0.0.1:{mongo_port}/live"
    mongo = ServerProcess(servers.mongo(mongo_port, folder / "mongo"))
    ports = [[servers.free_port() for _ in range(3)] for _ in range(2)]
    common = {"MONGODB_MIN_POOL_SIZE": "0", **environment}
    apps = [ServerProcess(servers.app(app, uri, redis_url, common)) for app, _, _ in ports]
    proxies = [
        ServerProcess(servers.proxy(POLICY, port, admin, f"127.0.0.1:{app}", redis_url, common))
        for app, port, admin in ports
    ]
    started: list[ServerProcess] = []
    try:
        for process in (mongo, *apps, *proxies):
            started.append(process)
            await process.start()
        if users:
            seeding = await asyncio.create_subprocess_exec(
                str(servers.BIN / "simplepro-app"), "seed", stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, **common, "MONGODB_URI": uri, "REDIS_URL": redis_url},
            )  # fmt: skip
            assert await seeding.wait() == 0
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            made = Pods(uri, [p for _, p, _ in ports], [a for _, _, a in ports], proxies, apps, session)
            yield made
            await asyncio.gather(*(one.close() for one in made.opened))
    finally:
        for process in reversed(started):
            await process.stop()


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    port = servers.free_port()
    valkey = ServerProcess(servers.valkey(port, tmp_path / "valkey"))
    await valkey.start()
    try:
        environment = {"SHUTDOWN_TIMEOUT": "4000", "SOCKET_LEASE": "4s", "CONNECTS_PER_IP": "100000"}
        async with running(tmp_path, f"redis://127.0.0.1:{port}", environment, users=True) as made:
            yield made
    finally:
        await valkey.stop()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refused(pods: Pods, token: str, pod: int = 0, **headers: str) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await pods.session.ws_connect(f"{pods.url(pod)}/realtime", headers=bearer(token) | headers)
    return caught.value.status


async def test_the_reports_limits_of_sockets(pods: Pods) -> None:
    async with pods.session.get(f"{pods.url(0)}/realtime", headers={"Upgrade": "websocket"}) as answer:
        assert answer.status in (400, 401)
    sales, manager, lead = [await pods.log_in(name) for name in ("sales", "manager", "crew_lead")]
    assert await refused(pods, sales, Origin="https://evil.example.com") == 403
    talkers = [await pods.talk(sales, pod % 2) for pod in range(5)]
    assert [await refused(pods, sales, pod) for pod in (0, 1)] == [429, 429], "a sixth of one user, whatever the pod"
    await talkers[0].close()
    first = await admitted(pods, sales, 1)
    await first.ws.send_json({"type": "sendMessage", "data": {"to": "broadcast", "content": "x" * 5_001}})
    told = await first.until("error")
    assert (told["rule"], told["reason"]) == ("sockets.websocket.shape", "invalid-payload")
    await first.ws.send_json({"type": "locationUpdate", "data": {"latitude": 1, "longitude": 1}})
    assert (await first.until("error"))["reason"] == "message-refused", "the proxy knows who may say what"
    await (await pods.talk(lead)).done("locationUpdate", latitude=1.0, longitude=1.0)
    busy = await pods.talk(manager)
    for _ in range(110):
        with contextlib.suppress(ConnectionError):
            await busy.ws.send_json({"type": "unsubscribeFromAnalytics", "data": {}})
    assert await busy.closed() == 4429
    large = await pods.talk(manager, 1)
    await large.ws.send_str('"' + "x" * 70_000 + '"')
    assert await large.closed() == 1009


async def admitted(pods: Pods, token: str, pod: int) -> Talker:
    """Once there is room."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                return await pods.talk(token, pod)
            await asyncio.sleep(0.1)


async def test_a_killed_pod_gives_back_its_sockets_with_their_lease(pods: Pods) -> None:
    token = await pods.log_in("sales")
    for _ in range(5):
        await pods.talk(token)
    assert await refused(pods, token, 1) == 429
    pods.proxies[0].signal(signal.SIGKILL)
    await pods.proxies[0].wait()
    assert await refused(pods, token, 1) == 429, "they are held, until the lease is over"
    for _ in range(5):
        await admitted(pods, token, 1)
    assert await refused(pods, token, 1) == 429, "five, and not one more"


async def test_a_log_out_closes_at_both_pods(pods: Pods) -> None:
    token = await pods.log_in("sales")
    talkers = [await pods.talk(token, pod) for pod in (0, 1)]
    async with pods.session.post(f"{pods.url(0)}/api/auth/logout", headers=bearer(token)) as said:
        assert said.status == 200
    assert [await one.closed() for one in talkers] == [4401, 4401]
    assert await refused(pods, token, 1) == 401


async def test_a_pod_that_goes_loses_nobody_anything(pods: Pods) -> None:
    """SIGTERM of one sidecar with its sockets open, while somebody speaks: all come back elsewhere, without a gap."""
    manager = await pods.log_in("manager")
    names = ["sales", "dispatcher", "crew_lead", "crew_member", "customer_service"]
    tokens = [await pods.log_in(name) for name in names]
    speaker = await pods.talk(manager, 1)
    listeners = [await pods.talk(token) for token in tokens]
    ended = asyncio.Event()
    said = 0

    async def speak() -> int:
        nonlocal said
        while not ended.is_set():
            await speaker.done("sendMessage", to="broadcast", content=str(said))
            said += 1
            await asyncio.sleep(0.08)
        return said

    async def listen(talker: Talker, token: str) -> list[int]:
        """Until `ended` and all was heard: the first connection's to its close, then the other pod's."""
        code = await _drained(talker)
        assert code == 1012
        seq = [one["seq"] for one in talker.heard if "seq" in one] or [talker.welcome["seq"]]
        after = await pods.talk(token, 1, resume=seq[-1])
        assert after.welcome["resumed"] is True
        heard = [int(one["data"]["content"]) for one in talker.heard if one["type"] == "broadcast"]
        await asyncio.wait_for(ended.wait(), 20)
        total = await asyncio.shield(speaking)
        async with asyncio.timeout(10):
            while len(found := _contents(after)) + len(heard) < total:
                await after.next()
        return heard + found

    speaking = asyncio.create_task(speak())
    await listeners[0].until("broadcast")
    listening = [asyncio.create_task(listen(one, token)) for one, token in zip(listeners, tokens, strict=True)]
    pods.proxies[0].signal(signal.SIGTERM)
    await asyncio.wait_for(pods.proxies[0].wait(), 10)
    gone = said
    async with asyncio.timeout(10):
        while said < gone + 3:
            await asyncio.sleep(0.01)
    ended.set()
    total = await speaking
    assert total > 10
    assert [await one for one in listening] == [list(range(total))] * len(listeners)


def _contents(talker: Talker) -> list[int]:
    return [int(one["data"]["content"]) for one in talker.heard if one["type"] == "broadcast"]


async def _drained(talker: Talker) -> int:
    async with asyncio.timeout(20):
        while True:
            message = await talker.ws.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                talker.heard.append(orjson.loads(message.data))
            else:
                return int(message.data if message.type is aiohttp.WSMsgType.CLOSE else talker.ws.close_code or 0)


async def test_the_demo_page_in_a_browser(pods: Pods) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page(viewport={"width": 390, "height": 800})
        wrong: list[str] = []
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.goto(f"{pods.url(0)}/demo")
        await page.get_by_label("User name").fill("manager")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Log in and connect").click()
        await page.locator("#state", has_text="wrong").wait_for()
        assert any("401" in one for one in wrong)
        wrong.clear()
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Log in and connect").click()
        await page.locator("#state", has_text="Connected as manager").wait_for()
        other = await pods.talk(await pods.log_in("dispatcher", 1), 1)
        await other.done("sendMessage", to="broadcast", content="<b>Hello</b> from pod 1")
        await page.locator("#events li", has_text="<b>Hello</b> from pod 1").wait_for()
        await page.get_by_role("button", name="Live statistics").click()
        await page.locator("#events li[data-type=analyticsUpdate]").first.wait_for()
        await page.get_by_label("Emergency").fill("Piano on the stairs")
        await page.get_by_role("button", name="Call for help").click()
        assert (await other.until("emergencyAlert"))["data"]["text"] == "Piano on the stairs"
        await page.get_by_role("button", name="Cut the connection").click()
        await page.locator("#state", has_text="replayed").wait_for()
        assert await page.locator("#events li", has_text="Hello").count() == 1, "nothing twice"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "fits a phone"
        assert wrong == []
        await browser.close()


def _heard(talker: Talker) -> int:
    return sum(one["type"] == "newMessage" for one in talker.heard)


async def test_five_hundred_clients_while_a_master_dies(cluster: Cluster, tmp_path: Path) -> None:
    """Each event reaches exactly its room's members, once, and in one order, over two pods and a Cluster.

    What is said while the Cluster has no master for the events waits in the application; it is told when there is one.
    """
    nodes = ",".join(f"127.0.0.1:{one}" for one in list(cluster.nodes)[:3])
    environment = {
        "REDIS_CLUSTER_MODE": "true", "REDIS_CLUSTER_NODES": nodes, "SOCKETS_PER_IP": "1000",
        "CONNECTS_PER_IP": "100000", "GLOBAL_LIMIT": "100000",
    }  # fmt: skip
    url = f"redis://127.0.0.1:{next(iter(cluster.nodes))}"
    sockets, rooms, before, said = 500, 5, 15, 60
    async with running(tmp_path, url, environment, users=False) as pods:
        tokens = await people(pods, url, environment, sockets // 5)
        gate = asyncio.Semaphore(32)

        async def connect(number: int) -> Talker:
            async with gate:
                talker = await pods.talk(tokens[number % len(tokens)], number % 2)
                await talker.done("subscribeToJob", jobId=JOBS[number % rooms])
                return talker

        talkers = await asyncio.gather(*(connect(number) for number in range(sockets)))
        speakers = talkers[:rooms]

        dead = asyncio.Event()

        async def speak(number: int) -> None:
            for count in range(said):
                if count == before:
                    await dead.wait()
                text = f"{number} {count}"
                await speakers[number].ws.send_json(
                    {"type": "sendMessage", "data": {"to": "job", "id": JOBS[number], "content": text}}
                )
                await asyncio.sleep(0.05)

        async def listen(number: int) -> list[str]:
            talker = talkers[number]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    while _heard(talker) < said:
                        await talker.next(60)
            return [one["data"]["content"] for one in talker.heard if one["type"] == "newMessage"]

        speaking = [asyncio.create_task(speak(number)) for number in range(rooms)]
        listening = [asyncio.create_task(listen(number)) for number in range(sockets)]
        async with asyncio.timeout(40):
            while any(_heard(talker) < before for talker in talkers):
                await asyncio.sleep(0.01)
        master = await cluster.owner(slot_of(LASTING))
        await cluster.replicated(master)
        cluster.nodes[master].signal(signal.SIGKILL)
        dead.set()
        await asyncio.gather(*speaking)
        heard = await asyncio.gather(*listening)
        for number, one in enumerate(heard):
            assert one == [f"{number % rooms} {count}" for count in range(said)], f"what socket {number} heard"
        assert not any(talker.ws.closed for talker in talkers)


JOBS = [str(ObjectId()) for _ in range(5)]
_A_JOB = {"customerId": ObjectId(), "status": "scheduled", "scheduledDate": "2030-01-01"}


async def people(pods: Pods, url: str, environment: Mapping[str, str], count: int) -> list[str]:
    """Sessions of so many users, and the jobs that they follow."""
    chosen = settings.read({"REDIS_URL": url, **environment})
    client = redis.connect(chosen)
    sessions = Sessions(client, Breaker("sessions", Settings()), chosen.REDIS_PREFIX)
    tokens = Tokens(chosen.JWT_SECRET.get_secret_value(), chosen.JWT_REFRESH_SECRET.get_secret_value())
    mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(pods.mongo)
    await mongo["live"]["jobs"].insert_many(
        [
            {"_id": ObjectId(job), "number": f"JOB-{number}", "crew": [], "version": 1, **_A_JOB}
            for number, job in enumerate(JOBS)
        ]
    )
    await mongo.close()
    made = []
    for number in range(count):
        user, session = str(ObjectId()), secrets.token_hex(8)
        await sessions.begin(session, user, "x", "test")
        claims = {"username": f"d{number}", "role": "customer_service", "name": f"D {number}", "email": "d@example.com"}
        made.append(tokens.issue("access", user, session, claims)[0])
    await client.aclose()
    return made
