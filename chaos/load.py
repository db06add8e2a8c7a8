"""Clients that go on whatever happens, and write down what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from chaos.history import ANSWERED, FAILED, HUNG, Heard, History, Request, Sample
from chaos.topology import Pod, Topology

PASSWORD = "SimplePro1!"  # noqa: S105  # of the seed's users
PATIENCE = 15.0
"""Seconds that a client waits; whoever needs it all has found a request without a deadline."""
PROMISED = ("x-content-type-options", "x-frame-options", "content-security-policy", "x-request-id")
ATTACK = {"firstName": "<script>alert(1)</script>", "lastName": {"$ne": None}, "phone": "' or 1=1 -- -"}


class Load:
    """All kinds of load on all pods, until it is stopped."""

    def __init__(self, topology: Topology, session: aiohttp.ClientSession, token: str) -> None:
        self._topology = topology
        self._session = session
        self._token = token
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count()
        self._last_seq: dict[str, str] = {}
        self._run = secrets.token_hex(4)
        self._customer = ""
        self._stopping = asyncio.Event()
        self._heard = asyncio.Event()
        self.history = History()

    @property
    def run(self) -> str:
        """In every e-mail address that this load writes."""
        return self._run

    def start(self) -> None:
        for pod in self._topology.pods.values():
            every = (
                (self._reads(pod), "reads"), (self._writes(pod), "writes"), (self._probes(pod), "probes"),
                (self._health(pod, "limited", 0.02), "limited"), (self._health(pod, "closed", 0.1), "closed"),
                (self._health(pod, "slots", 0.02), "slots"), (self._health(pod, "slots", 0.02), "slots"),
                (self._attacks(pod), "attacks"), (self._receiver(pod), "receiver"), (self._samples(pod), "samples"),
            )  # fmt: skip
            self._tasks += [asyncio.create_task(one, name=f"{name} {pod.name}") for one, name in every]
        self._tasks.append(asyncio.create_task(self._sender(self._topology.pods["a"]), name="sender"))

    async def stop(self) -> None:
        """Let what runs end, and then a little longer for messages that are on their way."""
        self._stopping.set()
        self.history.ended = self.history.now
        senders = [task for task in self._tasks if not task.get_name().startswith("receiver")]
        await asyncio.wait(senders, timeout=PATIENCE + 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(6):
                while not self._all_heard():
                    await self._news()
        for task in self._tasks:
            task.cancel()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        for task, error in zip(self._tasks, done, strict=True):
            if isinstance(error, Exception):
                raise RuntimeError(f"the load {task.get_name()} failed") from error

    async def _news(self) -> None:
        """Until something more was heard."""
        self._heard.clear()
        await self._heard.wait()

    def _all_heard(self) -> bool:
        wanted = {number for number, what in self.history.sent.items() if what == "acked"}
        return all(
            wanted <= {one.number for one in self.history.heard if one.pod == pod} for pod in self._topology.pods
        )

    async def _pace(self, seconds: float) -> AsyncIterator[None]:
        """At that pace, without catching up."""
        while not self._stopping.is_set():
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()

    async def _ask(
        self, load: str, pod: Pod, method: str, path: str, good: tuple[int, ...], key: str = "", body: Any = None,
        chaos: str = "",
    ) -> Request:  # fmt: skip
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if chaos:
            headers["X-Chaos"] = chaos
        at = self.history.now
        made = Request(load, pod.name, at, 0.0, FAILED, key=key)
        try:
            async with asyncio.timeout(PATIENCE):
                async with self._session.request(
                    method, f"http://127.0.0.1:{pod.client}{path}", headers=headers, json=body
                ) as answer:
                    text = await answer.read()
                    made.outcome = ANSWERED
                    made.status = answer.status
                    made.headers = all(name in answer.headers for name in PROMISED)
                    made.good = answer.status in good
                    if answer.status == 201 and not self._customer:
                        self._customer = str(orjson.loads(text)["data"]["id"])
                    if answer.status >= 400 and "json" in answer.content_type:
                        with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
                            made.rule = str(orjson.loads(text).get("rule", ""))
        except TimeoutError:
            made.outcome = HUNG
        except (aiohttp.ClientError, OSError):
            made.outcome = FAILED
        made.took = self.history.now - at
        self.history.requests.append(made)
        return made

    async def _probes(self, pod: Pod) -> None:
        async for _ in self._pace(0.05):
            await self._ask("probes", pod, "GET", "/api/health/live", (200,))

    async def _reads(self, pod: Pod) -> None:
        async for _ in self._pace(0.1):
            await self._ask("reads", pod, "GET", "/api/customers?limit=5", (200,))

    async def _health(self, pod: Pod, chaos: str, pace: float) -> None:
        good = (200, 429) if chaos == "limited" else (200,)
        async for _ in self._pace(pace):
            await self._ask(chaos, pod, "GET", "/api/health/live", good, chaos=chaos)

    async def _writes(self, pod: Pod) -> None:
        async for _ in self._pace(0.1):
            number = next(self._numbers)
            key = f"{self._run}-{number}@example.com"
            if self._customer and number % 2:
                what, body = "opportunities", {"customerId": self._customer, "title": key}
            else:
                what = "customers"
                body = {"firstName": "Chaos", "lastName": "Write", "phone": "+1 555 0100", "email": key}
            await self._ask("writes", pod, "POST", f"/api/{what}", (201,), key, body)

    async def _attacks(self, pod: Pod) -> None:
        async for _ in self._pace(0.2):
            key = f"{self._run}-attack{next(self._numbers)}@example.com"
            await self._ask("attacks", pod, "POST", "/api/customers", (403,), key, {**ATTACK, "email": key})

    async def _samples(self, pod: Pod) -> None:
        async for _ in self._pace(0.25):
            process = self._topology.processes[f"proxy-{pod.name}"]
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    base = f"http://127.0.0.1:{pod.admin}"
                    async with self._session.get(f"{base}/clusters") as answer:
                        state = (await answer.json())["app"]["breaker"]["state"]
                    async with self._session.get(f"{base}/readyz") as answer:
                        store = (await answer.json()).get("store", {}).get("available", True)
                    rss, files = footprint(process.pid)
                    self.history.samples.append(Sample(pod.name, self.history.now, state, rss, files, store))

    # messages

    async def _open(self, pod: Pod, query: dict[str, str]) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(
            f"http://127.0.0.1:{pod.client}/realtime", params=query,
            headers={"Authorization": f"Bearer {self._token}"}, timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            heartbeat=2.0,
        )  # fmt: skip

    async def _receiver(self, pod: Pod) -> None:
        """Comes back after every end, and asks for what it missed."""
        while True:
            last = self._last_seq.get(pod.name, "")
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    socket = await self._open(pod, {"resume": last} if last else {})
                async with socket:
                    async for message in socket:
                        if message.type is not aiohttp.WSMsgType.TEXT:
                            break
                        self._hear(pod, orjson.loads(message.data), resumed=bool(last))
            await asyncio.sleep(0.1)

    def _hear(self, pod: Pod, told: dict[str, Any], *, resumed: bool) -> None:
        data = told.get("data") or {}
        self._heard.set()
        if told["type"] == "connected":
            if not resumed or not data.get("resumed"):
                self.history.heard.append(Heard(pod.name, self.history.now, -1))
            self._last_seq[pod.name] = str(data.get("seq") or "")
        elif told.get("seq"):
            self._last_seq[pod.name] = str(told["seq"])
        if told["type"] == "broadcast" and str(data.get("content", "")).startswith(self._run):
            number = int(str(data["content"]).rpartition(" ")[2])
            self.history.heard.append(Heard(pod.name, self.history.now, number))

    async def _sender(self, pod: Pod) -> None:
        """One numbered broadcast after the other, each acknowledged before the next; and one that is not allowed."""
        await self._receivers_there()
        number = 0
        while not self._stopping.is_set():
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    socket = await self._open(pod, {})
                async with socket:
                    while not self._stopping.is_set():
                        number += 1
                        await self._say(socket, pod, number)
                        await asyncio.sleep(0.1)
            await asyncio.sleep(0.2)

    async def _receivers_there(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while len({one.pod for one in self.history.heard}) < len(self._topology.pods):
                    await self._news()

    async def _say(self, socket: aiohttp.ClientWebSocketResponse, pod: Pod, number: int) -> None:
        self.history.sent[number] = "unknown"
        content = {"to": "broadcast", "content": f"{self._run} {number}"}
        await socket.send_json({"type": "sendMessage", "data": content, "ref": number})
        if (await self._answer(socket, number)).get("type") == "ack":
            self.history.sent[number] = "acked"
        if number % 10 == 0:
            at = self.history.now
            await socket.send_json({"type": "emergencyAlert", "data": {"text": self._run}, "ref": -number})
            told = await self._answer(socket, -number)
            rule = str(told.get("rule", ""))
            made = Request("refused messages", pod.name, at, self.history.now - at, ANSWERED, 403, rule=rule)
            made.good = rule == "sockets.websocket.shape"
            self.history.requests.append(made)

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse, ref: int) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise aiohttp.ClientConnectionError("closed")
                told: dict[str, Any] = orjson.loads(message.data)
                if told.get("ref") == ref or (ref < 0 and told.get("rule")):
                    return told


def footprint(pid: int) -> tuple[float, int]:
    """MiB resident, and open files."""

    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
