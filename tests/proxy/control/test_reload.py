"""A policy that changes while requests run."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import Proxy
from proxy.control import reload as reload_module
from proxy.policy.compile import Compiled
from proxy.policy.load import load
from proxy.websocket.frames import TEXT, frame, unmasked
from tests.conftest import Served
from tests.proxy.filters.conftest import ACCEPT, HANDSHAKE
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

POLICY = """\
version: 1
listener: {{address: "127.0.0.1:{port}", drain: 1s}}
admin: {{address: "127.0.0.1:0"}}
access_log: {{enabled: false}}
reload: {reload}
clusters: {{app: {{endpoints: ["127.0.0.1:{upstream}"], timeouts: {{idle: {idle}}}}}}}
policies: {{web: {{security_headers: {{preset: helmet}}, request: {{methods: {methods}}}}}}}
routes:
  all: {{match: {{prefix: /}}, use: [web], to: app, limits: {limits}}}
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Running(Served):
    def __init__(self, path: Path, upstream: int) -> None:
        self.path = path
        self._upstream = upstream
        self.write()
        super().__init__(Proxy(load(path, {}), path))

    def write(self, **changes: Any) -> None:
        settings = {"port": 0, "reload": "{}", "idle": "60s", "methods": "[GET, POST]", "limits": "{}"}
        self.path.write_text(POLICY.format(upstream=self._upstream, **{**settings, **changes}))

    @property
    def reloader(self) -> reload_module.Reloader:
        assert self.proxy.reloader is not None
        return self.proxy.reloader

    async def reload(self, **changes: Any) -> reload_module.Outcome:
        self.write(**changes)
        return await self.reloader.reload()


@pytest.fixture
async def running(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[Running]:
    served = Running(tmp_path / "policy.yaml", upstream.port)
    await served.proxy.start()
    yield served
    served.close_wires()
    await served.proxy.stop(0)


async def test_a_changed_policy_holds_from_the_next_request_on(running: Running) -> None:
    wire = await running.connect()
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    outcome = await running.reload(methods="[POST]")
    assert outcome.result == "applied"
    assert outcome.revision == hashlib.sha256(running.path.read_bytes()).hexdigest()[:12] == running.proxy.revision
    wire.send(GET)
    assert (await wire.answer())[0] == 405, "over the connection that was there"


async def test_what_is_wrong_is_told_with_its_place_and_changes_nothing(running: Running) -> None:
    before = running.proxy.compiled
    revision = running.reloader.revision
    outcome = await running.reload(methods="[GET, 7x]", limits="{few: {limit: 3/fortnight}}")
    assert outcome.result == "refused"
    assert [one.partition(": ")[0].removeprefix(str(running.path)) for one in outcome.findings] == [":7:79", ":9:72"]
    assert running.proxy.compiled is before
    assert running.proxy.revision == running.reloader.revision == revision
    assert (await running.ask(GET))[0] == 200


async def test_clusters_that_do_not_change_keep_connections_and_counts(
    running: Running, upstream: ScriptedUpstream
) -> None:
    await running.ask(GET)
    kept = running.proxy.compiled.clusters["app"]
    assert (await running.reload(methods="[GET]")).result == "applied"
    await running.ask(GET)
    assert running.proxy.compiled.clusters["app"] is kept
    assert upstream.connections == 1
    assert running.proxy.listener.routes.routes[0].stats.statuses[200] == 2


async def test_a_cluster_that_changes_is_closed_when_its_last_exchange_ends(
    running: Running, upstream: ScriptedUpstream
) -> None:
    go, there = asyncio.Event(), asyncio.Event()

    async def when_told(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        there.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = when_told
    wire = await running.connect()
    wire.send(GET)
    await there.wait()
    old = running.proxy.compiled.clusters["app"]
    assert (await running.reload(idle="30s", methods="[POST]")).result == "applied"
    assert running.proxy.compiled.clusters["app"] is not old
    assert old in running.proxy.listener._retired
    go.set()
    assert (await wire.answer())[0] == 200, "it began under the policy that let it in"
    async with asyncio.timeout(5):
        while running.proxy.listener._retired:
            await asyncio.sleep(0.05)
    assert not old.endpoints[0].pool.open


async def test_counts_of_limits_go_on(running: Running) -> None:
    limits = "{few: {limit: 3/1h}}"
    await running.reload(limits=limits)
    assert [(await running.ask(GET))[0] for _ in range(2)] == [200, 200]
    await running.reload(limits=limits, methods="[GET]")
    assert [(await running.ask(GET))[0] for _ in range(2)] == [200, 429]


async def test_another_address_is_opened_before_the_old_one_closes(running: Running) -> None:
    from stack.servers import free_port

    old = running.proxy.listener.port
    port = free_port()
    assert (await running.reload(port=port)).result == "applied"
    assert running.proxy.listener.port == port != old
    assert (await running.ask(GET))[0] == 200
    with pytest.raises(OSError, match="refused"):
        await asyncio.open_connection("127.0.0.1", old)


async def test_an_address_that_can_t_be_had_changes_nothing(running: Running, upstream: ScriptedUpstream) -> None:
    old = running.proxy.listener.port
    outcome = await running.reload(port=upstream.port, methods="[POST]")
    assert outcome.result == "refused"
    assert "in use" in outcome.findings[0]
    assert running.proxy.listener.port == old
    assert (await running.ask(GET))[0] == 200


async def test_what_is_opened_once_needs_a_restart(running: Running) -> None:
    running.write()
    text = running.path.read_text().replace('admin: {address: "127.0.0.1:0"}', 'admin: {address: "127.0.0.1:1"}')
    running.path.write_text(text)
    outcome = await running.reloader.reload()
    assert outcome.result == "refused"
    assert outcome.findings[0].startswith(f"{running.path}:3:9: admin.address: can't change while the proxy runs")


async def test_a_watched_file_is_taken_over_by_itself(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a link that is swapped, as a ConfigMap's is."""
    monkeypatch.setattr(reload_module, "TICK_SECONDS", 0.02)
    running.write(reload="{watch: true}")
    await running.reloader.reload()
    folder = running.path.parent
    (folder / "v2").mkdir()
    (folder / "v2" / "policy.yaml").write_text(running.path.read_text().replace("GET, POST", "POST"))
    os.symlink(folder / "v2" / "policy.yaml", folder / "new")
    os.replace(folder / "new", running.path)
    async with asyncio.timeout(5):
        while running.reloader.counts["applied"] < 2:
            await asyncio.sleep(0.01)
    assert (await running.ask(GET))[0] == 405


async def test_a_policy_that_makes_answers_bad_is_taken_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "TICK_SECONDS", 0.02)
    terms = "{revert: {within: 20s, above: 30%, of_at_least: 10}}"
    good = await running.reload(reload=terms, limits="{many: {limit: 1000/1h}}")
    for _ in range(12):
        assert (await running.ask(GET))[0] == 200
    bad = await running.reload(reload=terms, limits="{few: {limit: 1/1h}}")
    assert bad.result == "applied"
    assert bad.revision != good.revision
    async with asyncio.timeout(5):
        while not running.reloader.counts["reverted"]:
            await running.ask(GET)
            await asyncio.sleep(0.01)
    assert running.reloader.last.result == "reverted"
    assert running.proxy.revision == good.revision
    assert bad.revision in running.reloader.last.findings[0]
    assert (await running.ask(GET))[0] == 200


async def test_the_admin_reloads_and_tells(running: Running) -> None:
    base = f"http://127.0.0.1:{running.proxy.admin.port}"
    async with aiohttp.ClientSession(base) as session:
        async with session.get("/policy") as answer:
            told = await answer.json()
            tag = answer.headers["ETag"]
        assert told["revision"] == running.proxy.revision == tag.strip('"')
        async with session.post("/reload", headers={"If-Match": '"other"'}) as answer:
            assert answer.status == 412
        running.write(methods="[POST]")
        async with session.post("/reload", headers={"If-Match": tag}) as answer:
            assert answer.status == 200
            assert (await answer.json())["result"] == "applied"
        running.path.write_text("version: 2")
        async with session.post("/reload") as answer:
            assert answer.status == 409
            assert len((await answer.json())["findings"]) > 2
        async with session.get("/readyz") as answer:
            ready = await answer.json()
            assert answer.status == 200
            assert ready["policy"] == "the last file was refused: see /policy"
        async with session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        assert f'proxy_policy_info{{revision="{running.proxy.revision}"}} 1.0' in lines
        assert 'proxy_policy_reloads_total{result="refused"} 1.0' in lines
        assert "proxy_policy_last_reload_good 0.0" in lines


async def test_a_refusal_can_be_asked_for(running: Running) -> None:
    await running.reload(limits="{few: {limit: 1/1h}}")
    await running.ask(GET)
    status, _, body = await running.ask(GET)
    assert status == 429
    problem = orjson.loads(body)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{running.proxy.admin.port}") as session:
        async with session.get(f"/decisions/{problem['decision']}") as answer:
            told = await answer.json()
        async with session.get("/decisions?rule=all.few") as answer:
            assert [one["decision"] for one in (await answer.json())["decisions"]] == [problem["decision"]]
        async with session.get("/decisions/unknown") as answer:
            assert answer.status == 404
    assert told["rule"] == "all.few"
    assert told["revision"] == running.proxy.revision
    assert told["request_id"] == problem["requestId"]
    assert [(one["filter"], one["verdict"]) for one in told["filters"]] == [
        ("RequestId", "passed"), ("SecurityHeaders", "passed"), ("Throttle", "refused"),
        ("RequestLimits", "not reached"),
    ]  # fmt: skip
    [limit] = told["limits"]
    assert (limit["limit"], limit["admitted"], limit["remaining"]) == ("all.few", False, 0)
    assert "127.0.0.1" not in str(told)


async def test_the_last_refusals_are_held_against_a_new_policy(running: Running) -> None:
    await running.reload(limits="{few: {limit: 1/1h}}")
    for _ in range(4):
        await running.ask(GET)
    assert (await running.reload(limits="{few: {limit: 2/1h}}")).weaker == ()
    outcome = await running.reload(limits="{few: {limit: 2/1h, mode: shadow}}")
    assert outcome.weaker == ("all.few on route all made 3 of the last 3 refusals and does not refuse any more",)


async def test_a_hundred_reloads_under_load_lose_nothing(running: Running, upstream: ScriptedUpstream) -> None:
    """Under HTTP and 500 WebSockets: no disconnect, no other status, no policy that is kept for ever."""
    stop = asyncio.Event()
    seen: list[int] = []

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            if b"\r\nupgrade: websocket\r\n" not in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}".encode())
            while True:
                _, length = await reader.readexactly(2)
                key, payload = await reader.readexactly(4), await reader.readexactly(length & 0x7F)
                writer.write(frame(TEXT, unmasked(key + payload, 4, True), masked=False))

    upstream.script = script

    async def client() -> None:
        wire = await running.connect()
        while not stop.is_set():
            wire.send(GET)
            seen.append((await wire.answer())[0])

    many = "max_connections: 600"
    assert (await running.reload(idle=f"60s}}, {many}, breaker: {{consecutive: 1000")).result == "applied"
    sockets: list[Wire] = []
    for _ in range(500):
        wire = await running.connect()
        wire.send(f"GET /s HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n".encode())
        assert (await wire.head())[0] == 101
        sockets.append(wire)

    async def talk(word: bytes) -> None:
        for wire in sockets:
            wire.send(frame(TEXT, word, masked=True))
        for wire in sockets:
            assert await asyncio.wait_for(wire.reader.readexactly(2 + len(word)), 10) == frame(TEXT, word, masked=False)

    await talk(b"before")
    clients = [asyncio.create_task(client()) for _ in range(8)]
    policies: list[weakref.ref[Compiled]] = []
    for number in range(100):
        idle = f"{60 + number % 2}s}}, {many}, breaker: {{consecutive: 1000"
        outcome = await running.reload(idle=idle, limits=f"{{many: {{limit: {900 + number}00/1h}}}}")
        assert outcome.result == "applied"
        policies.append(weakref.ref(running.proxy.compiled))
        await asyncio.sleep(0.005)
    await talk(b"after")
    stop.set()
    await asyncio.gather(*clients)
    assert set(seen) == {200}
    assert len(seen) > 200
    for wire in sockets:
        wire.close()
    async with asyncio.timeout(10):
        while running.proxy.listener._retired:
            await asyncio.sleep(0.05)
    gc.collect()
    assert sum(one() is not None for one in policies) <= 2, "the one that runs, and the one that it may go back to"
