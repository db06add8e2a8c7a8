"""Redis stopped, frozen, slow, full, with another password, flushed: what becomes of limits, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import redis.asyncio as redis

from stack import servers
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import all_known
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LIMITS = "{few: {limit: 3/1h, strategy: fixed-window}}"


class Valkey:
    def __init__(self, data: Path, *arguments: str) -> None:
        self.port = servers.free_port()
        self._data = data
        self._arguments = arguments
        self.process = self._new()

    def _new(self) -> ServerProcess:
        return ServerProcess(servers.valkey(self.port, self._data, *self._arguments))

    async def start(self) -> None:
        self.process = self._new()
        await self.process.start()

    def policy(self, timeout: str = "20ms", password: str = "") -> str:
        return f'redis: {{url: "redis://{password}127.0.0.1:{self.port}", timeout: {timeout}}}\n'


@pytest.fixture
async def start_valkey(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Valkey]]]:
    """`await start_valkey(*arguments)`; what still runs at the end is ended."""
    running: list[Valkey] = []

    async def start(*arguments: str) -> Valkey:
        made = Valkey(tmp_path / f"valkey{len(running)}", *arguments)
        running.append(made)
        await made.start()
        return made

    yield start
    for made in running:
        made.process.signal(signal.SIGCONT)
        await made.process.stop()


@pytest.fixture
async def valkey(start_valkey: Callable[..., Awaitable[Valkey]]) -> Valkey:
    return await start_valkey()


async def ask(served: Served, times: int) -> list[int]:
    wire = await served.connect()
    found = []
    for _ in range(times):
        wire.send(GET)
        found.append((await wire.answer())[0])
    wire.close()
    return found


async def until(served: Served, *, available: bool) -> None:
    limiting = served.proxy.limiting
    assert limiting is not None
    async with asyncio.timeout(10):
        while limiting.store.available is not available:
            await asyncio.sleep(0.01)


async def test_stopped_the_share_holds_and_is_charged_when_it_is_back(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    served = await serve(upstream.port, more=valkey.policy(), limits=LIMITS)
    assert await ask(served, 1) == [200]
    await valkey.process.stop()
    await until(served, available=False)
    assert served.proxy.degraded
    assert await ask(served, 4) == [200, 200, 200, 429]
    await valkey.start()
    await until(served, available=True)
    assert not served.proxy.degraded
    assert await ask(served, 1) == [429]
    assert served.proxy.limiting is not None
    assert served.proxy.limiting.decisions["local"] == 4


@pytest.mark.parametrize(
    ("how", "expected"), [("open", [200] * 5), ("closed", [429] * 5), ("local", [200] * 3 + [429] * 2)]
)
async def test_each_rule_says_what_holds_without_it(
    serve: Start, upstream: ScriptedUpstream, how: str, expected: list[int]
) -> None:
    limits = f"{{few: {{limit: 3/1h, on_store_failure: {how}}}}}"
    served = await serve(upstream.port, more='redis: {url: "redis://127.0.0.1:1"}\n', limits=limits)
    assert await ask(served, 5) == expected


async def test_frozen_costs_its_deadline_and_then_nothing(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    served = await serve(upstream.port, more=valkey.policy("50ms"), limits="{many: {limit: 1000/1h}}")
    await ask(served, 1)
    valkey.process.signal(signal.SIGSTOP)
    began = time.perf_counter()
    assert await ask(served, 1) == [200]
    assert 0.04 < time.perf_counter() - began < 0.5
    await ask(served, 5)
    await until(served, available=False)
    began = time.perf_counter()
    assert await ask(served, 20) == [200] * 20
    assert time.perf_counter() - began < 0.5
    valkey.process.signal(signal.SIGCONT)
    await until(served, available=True)
    assert await ask(served, 1) == [200]
    limiting = served.proxy.limiting
    assert limiting is not None
    assert limiting.store.stats.failures["deadline"] >= 5


async def test_a_hold_that_was_made_too_late_to_be_told_is_given_back(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    limits = "{one: {concurrent: 1, lease: 1h, on_store_failure: open}}"
    served = await serve(upstream.port, more=valkey.policy("50ms"), limits=limits)
    assert await ask(served, 1) == [200]
    valkey.process.signal(signal.SIGSTOP)
    assert await ask(served, 1) == [200]
    valkey.process.signal(signal.SIGCONT)
    await until(served, available=True)
    await _free_again(served)


async def test_a_hold_whose_end_came_while_the_store_was_away_is_given_back(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    go = asyncio.Event()

    async def when_told(reader: Reader, writer: Writer) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = when_told
    limits = "{one: {concurrent: 1, lease: 1h, on_store_failure: open}}"
    served = await serve(upstream.port, more=valkey.policy("50ms"), limits=limits)
    wire = await served.connect()
    wire.send(GET)
    async with redis.Redis(port=valkey.port, protocol=2) as client, asyncio.timeout(5):
        while not [key async for key in client.scan_iter("*one*")]:
            await asyncio.sleep(0.01)
    assert await ask(served, 1) == [429]
    valkey.process.signal(signal.SIGSTOP)
    go.set()
    assert (await wire.answer())[0] == 200
    await ask(served, 5)
    valkey.process.signal(signal.SIGCONT)
    await until(served, available=True)
    await _free_again(served)


async def _free_again(served: Served) -> None:
    async with asyncio.timeout(8):
        while await ask(served, 1) != [200]:
            await asyncio.sleep(0.05)
    limiting = served.proxy.limiting
    assert limiting is not None
    assert limiting.store.available


async def test_slow_within_its_deadline_decides(serve: Start, upstream: ScriptedUpstream, valkey: Valkey) -> None:
    served = await serve(upstream.port, more=valkey.policy("2s"), limits=LIMITS)
    async with redis.Redis(port=valkey.port, protocol=2) as client:
        for expected in (200, 200, 200, 429):
            await client.client_pause(40)
            began = time.perf_counter()
            assert await ask(served, 1) == [expected]
            assert time.perf_counter() - began > 0.02
    assert served.proxy.limiting is not None
    assert served.proxy.limiting.decisions == {"redis": 4, "local": 0, "remembered": 0}


async def test_full_falls_back_decision_by_decision(
    serve: Start, upstream: ScriptedUpstream, start_valkey: Callable[..., Awaitable[Valkey]]
) -> None:
    valkey = await start_valkey("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    served = await serve(upstream.port, more=valkey.policy("2s"), limits=LIMITS)
    async with redis.Redis(port=valkey.port, protocol=2) as client:
        for size in (100_000, 10_000, 1_000, 100):
            with contextlib.suppress(redis.ResponseError):
                for number in range(2000):
                    await client.set(f"filler{size}.{number}", b"x" * size)
        await client.config_set("maxmemory", "1mb")
        assert await ask(served, 4) == [200, 200, 200, 429]
        limiting = served.proxy.limiting
        assert limiting is not None
        assert limiting.decisions["local"] == 4
        assert limiting.store.stats.failures["oom"] == 4
        assert "decides nothing" in served.proxy.degraded
        await client.config_set("maxmemory", "100mb")
        assert await ask(served, 1) == [429], "what was admitted alone is counted before the store decides again"
        assert limiting.decisions["redis"] == 1


async def test_another_password_is_told_without_it(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis.Redis(port=valkey.port, protocol=2) as client:
        await client.config_set("requirepass", "the-right-one")
    served = await serve(upstream.port, more=valkey.policy(password=":wr0ng-one@"), limits=LIMITS)
    assert await ask(served, 4) == [200, 200, 200, 429]
    assert served.proxy.degraded
    assert "WRONGPASS" in caplog.text
    assert "wr0ng-one" not in caplog.text
    right = await serve(upstream.port, more=valkey.policy("2s", ":the-right-one@"), limits=LIMITS)
    assert not right.proxy.degraded


async def test_flushed_scripts_are_loaded_again_and_counters_begin_anew(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    served = await serve(upstream.port, more=valkey.policy("2s"), limits=LIMITS)
    assert await ask(served, 4) == [200, 200, 200, 429]
    client = redis.Redis(port=valkey.port, protocol=2)
    await client.script_flush()
    await client.flushall()
    await client.aclose()
    async with asyncio.timeout(2):
        while await ask(served, 1) == [429]:
            await asyncio.sleep(0.05)
    assert await ask(served, 3) == [200, 200, 429]
    assert served.proxy.limiting is not None
    assert served.proxy.limiting.decisions["redis"] == 8
    assert served.proxy.limiting.decisions["local"] == 0


async def test_one_far_over_its_limit_costs_the_store_a_question_a_second(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    limits = "{few: {limit: 3/1h, strategy: token-bucket}, other: {limit: 900/1h}}"
    served = await serve(upstream.port, more=valkey.policy(), limits=limits)
    began = time.monotonic()
    assert (await ask(served, 300)).count(200) == 3
    wire = await served.connect()
    wire.send(GET)
    status, headers, _ = await wire.answer()
    wire.close()
    limiting, usage = served.proxy.limiting, served.proxy.compiled.usage
    assert limiting is not None
    asked = limiting.decisions["redis"]
    assert asked <= 3 + 1 + time.monotonic() - began
    assert limiting.decisions["remembered"] == 301 - asked
    assert status == 429
    assert '"everything.few"' in headers["ratelimit"]
    assert 1190 <= int(headers["retry-after"]) <= 1200
    assert usage["everything.few"].denied == 298
    assert usage["everything.other"].admitted == 3


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window", "sliding-window-counter", "token-bucket"])
async def test_three_sidecars_admit_no_more_than_one_limit(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey, strategy: str
) -> None:
    limits = f"{{all: {{limit: 50/1h, strategy: {strategy}, key: [const:everyone]}}}}"
    proxies = [await serve(upstream.port, more=valkey.policy("5s"), limits=limits) for _ in range(3)]
    found = await asyncio.gather(*(ask(served, 10) for served in proxies for _ in range(4)))
    seen = [status for statuses in found for status in statuses]
    assert (seen.count(200), seen.count(429)) == (50, 70)


async def test_sidecars_know_of_each_other(serve: Start, upstream: ScriptedUpstream, valkey: Valkey) -> None:
    proxies = [await serve(upstream.port, more=valkey.policy("5s"), limits="{all: {limit: 9/1h}}") for _ in range(3)]
    last = proxies[-1].proxy.limiting
    assert last is not None
    async with asyncio.timeout(5):
        while last.peers != 3:
            await asyncio.sleep(0.01)
    await valkey.process.stop()
    await until(proxies[-1], available=False)
    assert await ask(proxies[-1], 4) == [200, 200, 200, 429]


async def test_nothing_of_a_person_is_in_the_keys(serve: Start, upstream: ScriptedUpstream, valkey: Valkey) -> None:
    served = await serve(upstream.port, more=valkey.policy("5s"), limits="{all: {limit: 9/1h, key: [ip, header:x-a]}}")
    await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ada@example.com\r\n\r\n")
    client = redis.Redis(port=valkey.port, protocol=2)
    keys = [key.decode() async for key in client.scan_iter()]
    ages = [await client.pttl(key) for key in keys]
    await client.aclose()
    counters = [key for key in keys if not key.endswith(":peers")]
    assert len(counters) == 1
    assert "127.0.0.1" not in counters[0]
    assert "ada" not in counters[0]
    assert counters[0].startswith("simplepro:{")
    assert all(age > 0 for age in ages)


async def test_a_killed_sidecar_keeps_nothing_beyond_its_lease(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path
) -> None:
    held = asyncio.Event()

    async def never(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        held.set()
        await reader.read()

    upstream.script = never
    limits = "{one: {concurrent: 1, lease: 1s}}"
    port, admin = servers.free_port(), servers.free_port()
    settings = {"port": upstream.port, "more": valkey.policy("2s"), "limits": limits}
    here = await serve(**settings)
    policy = (tmp_path / "policy-0.yaml").read_text().replace("127.0.0.1:0", "127.0.0.1:${PROXY_PORT}", 1)
    path = tmp_path / "killed.yaml"
    path.write_text(policy.replace('"127.0.0.1:0"', '"127.0.0.1:${ADMIN_PORT}"'))
    killed = ServerProcess(servers.proxy(path, port, admin, "", ""))
    await killed.start()
    wire = await Wire.connect(port)
    wire.send(GET)
    await asyncio.wait_for(held.wait(), 5)
    assert await ask(here, 1) == [429]
    killed.signal(signal.SIGKILL)
    await killed.stop()
    wire.close()
    upstream.script = echo
    began = time.perf_counter()
    async with asyncio.timeout(3):
        while await ask(here, 1) != [200]:
            await asyncio.sleep(0.02)
    assert time.perf_counter() - began < 1.5


async def test_the_documented_acl_is_enough_and_no_more(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "throttling.md").read_text()
    rules = text.split("ACL SETUSER simplepro ")[1].split("```")[0].replace(">SECRET", ">sesame").split()
    async with redis.Redis(port=valkey.port, protocol=2) as client:
        await client.execute_command("ACL", "SETUSER", "simplepro", *rules)  # type: ignore[no-untyped-call]
        limits = """{a: {limit: 3/1h, strategy: fixed-window}, b: {limit: 9/1h, strategy: moving-window},
                     c: {limit: 9/1h}, d: {limit: 9/1h, strategy: token-bucket}, e: {concurrent: 3},
                     f: {limit: 9/1h, count: failures}}"""
        served = await serve(upstream.port, more=valkey.policy("2s", "simplepro:sesame@"), limits=limits)
        assert await ask(served, 4) == [200, 200, 200, 429]
        assert served.proxy.limiting is not None
        assert served.proxy.limiting.store.stats.failures == {}
        other = valkey.policy("2s", "simplepro:sesame@").replace("timeout", "prefix: other, timeout")
        stranger = await serve(upstream.port, more=other, limits="{a: {limit: 3/1h}}")
        assert await ask(stranger, 1) == [200]
        assert stranger.proxy.limiting is not None
        assert stranger.proxy.limiting.decisions == {"redis": 0, "local": 1, "remembered": 0}


async def test_what_runs_for_longer_than_its_lease_is_still_counted(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    go = asyncio.Event()

    async def when_told(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = when_told
    limits = "{one: {concurrent: 1, lease: 300ms}, bad: {limit: 1/1h, count: errors, lease: 300ms}}"
    served = await serve(upstream.port, more=valkey.policy("2s"), limits=limits)
    wire = await served.connect()
    wire.send(GET)
    loop = asyncio.get_running_loop()
    began, seen = loop.time(), []
    async with redis.Redis(port=valkey.port, protocol=2) as client:
        flushed = False
        while loop.time() < began + 1.5:
            if not flushed and loop.time() > began + 0.7:
                flushed = await client.flushall()
                await asyncio.sleep(0.2)
            seen += await ask(served, 1)
            await asyncio.sleep(0.02)
    assert len(seen) > 20
    assert set(seen) == {429}, "a lease that nobody renews ends after 300 ms; one that was flushed is held again"
    go.set()
    assert (await wire.answer())[0] == 500
    refused = await ask(served, 1)
    assert refused == [429], "the failure came after three leases, and counts"


async def test_together_they_stay_within_the_stated_bound(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey
) -> None:
    limits = "{all: {limit: 30/1h, strategy: fixed-window, key: [const:everyone]}}"
    proxies = [await serve(upstream.port, more=valkey.policy("2s"), limits=limits) for _ in range(3)]
    await all_known(proxies)
    before = await ask(proxies[0], 25)
    await valkey.process.stop()
    for served in proxies:
        await until(served, available=False)
    alone = [await ask(served, 20) for served in proxies]
    assert before.count(200) == 25
    assert [statuses.count(200) for statuses in alone] == [10, 10, 10], "a third each"
    await valkey.start()
    for served in proxies:
        await until(served, available=True)
    after = [await ask(served, 5) for served in proxies]
    admitted = sum(statuses.count(200) for statuses in (before, *alone, *after))
    assert admitted <= 2 * 30 + 3, "twice the amount plus the number of sidecars, as docs/throttling.md states"
    assert sum(statuses.count(200) for statuses in after) == 0


async def test_a_sidecar_whose_clock_is_an_hour_off_changes_nothing(
    serve: Start, upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path
) -> None:
    upstream.script = echo
    limits = "{all: {limit: 40/1h, strategy: STRATEGY, key: [const:everyone]}}"
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() + 3600\n")
    for strategy in ("fixed-window", "moving-window", "sliding-window-counter", "token-bucket"):
        name = strategy.replace("-", "")
        chosen = limits.replace("STRATEGY", strategy).replace("all:", f"{name}:")
        here = await serve(upstream.port, more=valkey.policy("2s"), limits=chosen)
        path = tmp_path / f"{name}.yaml"
        written = sorted(tmp_path.glob("policy-*.yaml"), key=lambda one: one.stat().st_mtime)[-1].read_text()
        port, admin = servers.free_port(), servers.free_port()
        path.write_text(
            written.replace("127.0.0.1:0", f"127.0.0.1:{port}", 1).replace("127.0.0.1:0", f"127.0.0.1:{admin}")
        )
        skewed = ServerProcess(servers.proxy(path, port, admin, "", "", {"PYTHONPATH": str(tmp_path)}))
        await skewed.start()
        try:
            wire = await Wire.connect(port)
            seen = []
            for _ in range(30):
                wire.send(GET)
                seen.append((await wire.answer())[0])
                seen += await ask(here, 1)
            wire.close()
        finally:
            await skewed.stop()
        assert seen == [200] * 40 + [429] * 20, strategy


async def test_sidecars_that_start_without_the_store_share_by_what_the_policy_says(
    serve: Start, upstream: ScriptedUpstream
) -> None:
    store = f'redis: {{url: "redis://127.0.0.1:{servers.free_port()}", peers: 3}}'
    served = [await serve(upstream.port, more=store, limits="{few: {limit: 6/1h}}") for _ in range(3)]
    assert [await ask(one, 4) for one in served] == [[200, 200, 429, 429]] * 3


async def test_readiness_tells_of_the_store(serve: Start, upstream: ScriptedUpstream, valkey: Valkey) -> None:
    served = await serve(upstream.port, more=valkey.policy("2s"), limits=LIMITS)
    await ask(served, 2)
    url = f"http://127.0.0.1:{served.proxy.admin.port}/readyz"
    async with aiohttp.ClientSession() as session:
        told = await (await session.get(url)).json()
        assert (told["status"], told["store"]["available"]) == ("ok", True)
        assert 0 < told["store"]["latency_ms"] < 1000
        await valkey.process.stop()
        await until(served, available=False)
        answer = await session.get(url)
        told = await answer.json()
    assert (answer.status, told["status"], told["store"]["available"]) == (200, "degraded", False)
