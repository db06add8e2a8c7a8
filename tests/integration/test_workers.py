"""A sidecar of several processes as an operator runs it: one port, one admin, one set of limits; workers that die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.test_process import free_port
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POLICY = """
version: 1
workers: {workers}
listener: {{address: "127.0.0.1:{port}", drain: 5s, bounds: {bounds}}}
admin: {{address: "127.0.0.1:{admin}"{token}}}
access_log: {{enabled: false}}
{more}
clusters: {{app: {{endpoints: ["127.0.0.1:{upstream}"], breaker: {breaker}, timeouts: {{connect: 500ms}}}}}}
policies: {{all: {{limits: {limits}, bans: {{strikes: 1000/1m}}}}}}
defaults: {{use: [all]}}
routes: {{everything: {{match: {{prefix: /}}, to: app}}}}
"""


class Sidecar:
    def __init__(self, path: Path, upstream: int) -> None:
        self.path = path
        self.port, self.admin = free_port(), free_port()
        self._settings: dict[str, Any] = {
            "workers": 2, "port": self.port, "admin": self.admin, "upstream": upstream, "limits": "{}", "more": "",
            "bounds": "{}", "breaker": "{consecutive: 1000}", "token": "",
        }  # fmt: skip
        self.command = [sys.executable, "-m", "proxy"]
        self.environment: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None

    def write(self, **changes: Any) -> None:
        self._settings |= changes
        self.path.write_text(POLICY.format(**self._settings))

    async def start(self, **changes: Any) -> None:
        self.write(**changes)
        self.process = await asyncio.create_subprocess_exec(
            *self.command, "run", "--policy", str(self.path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **self.environment},
        )  # fmt: skip
        async with asyncio.timeout(30):
            while (await self.status("/startupz")) != 200:
                assert self.process.returncode is None, await self.process.communicate()
                await asyncio.sleep(0.02)

    async def status(self, path: str, method: str = "GET") -> int:
        try:
            return (await self.ask(path, method))[0]
        except aiohttp.ClientConnectionError:
            return 0

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.admin}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
            return answer.status, await (answer.json() if "json" in answer.content_type else answer.text())

    async def pids(self) -> list[int]:
        _, told = await self.ask("/workers")
        return [one["pid"] for one in told["workers"] if one["ready"]]

    async def metrics(self, name: str) -> float:
        _, text = await self.ask("/metrics")
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    async def get(self, request: bytes = GET) -> int:
        wire = await Wire.connect(self.port)
        wire.send(request)
        status, _, _ = await wire.answer()
        wire.close()
        return status

    async def until(self, true: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not await true():
                await asyncio.sleep(0.02)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        _, errors = await asyncio.wait_for(self.process.communicate(), 30)
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@pytest.fixture
async def sidecar(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[Sidecar]:
    made = Sidecar(tmp_path / "policy.yaml", upstream.port)
    yield made
    if made.process is not None and made.process.returncode is None:
        await made.end(signal.SIGKILL)


async def test_limits_bans_and_decisions_are_one(sidecar: Sidecar) -> None:
    await sidecar.start(limits="{few: {limit: 10/1h}}")
    statuses = Counter([await sidecar.get() for _ in range(20)])
    assert statuses == {200: 10, 429: 10}, "the parent decides for all"
    _, told = await sidecar.ask("/limits")
    assert told["rules"]["all.few"] == {"admitted": 10, "denied": 10, "shadowed": 0}
    _, decisions = await sidecar.ask("/decisions?top=100")
    assert len(decisions["decisions"]) == 10
    status, one = await sidecar.ask(f"/decisions/{decisions['decisions'][0]['decision']}")
    assert (status, one["rule"]) == (200, "all.few")
    assert (await sidecar.ask("/bans?subject=ip:127.0.0.1&seconds=60", "POST"))[0] == 200
    await sidecar.until(lambda: _only(sidecar, 403))
    assert (await sidecar.ask("/bans/lift?subject=ip:127.0.0.1", "POST"))[0] == 200
    await sidecar.until(lambda: _only(sidecar, 429))
    status, errors = await sidecar.end()
    assert (status, "Traceback" in errors) == (0, False)


async def test_connections_are_counted_over_all(sidecar: Sidecar) -> None:
    await sidecar.start(bounds="{connections_per_client: 6}")
    wires: list[Wire] = []
    statuses: Counter[int] = Counter()
    for _ in range(12):
        wire = await Wire.connect(sidecar.port)
        wires.append(wire)
        wire.send(GET)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            statuses[(await wire.answer())[0]] += 1
    assert statuses[200] == 6
    for wire in wires:
        wire.close()
    await sidecar.until(lambda: _is(sidecar.metrics("proxy_connections "), 0))
    assert await sidecar.get() == 200


async def _is(value: Awaitable[float], wanted: float) -> bool:
    return await value == wanted


async def test_what_runs_at_once_is_one_and_a_dead_worker_holds_nothing(
    sidecar: Sidecar, upstream: ScriptedUpstream
) -> None:
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    await sidecar.start(limits="{slots: {concurrent: 5, lease: 10m}}")
    wires = [await Wire.connect(sidecar.port) for _ in range(12)]
    for wire in wires:
        wire.send(GET)
    await sidecar.until(lambda: _is(sidecar.metrics("proxy_limit_decisions_total"), 12))
    assert await sidecar.metrics('proxy_limit_decisions_total{rule="all.slots",verdict="admitted"}') == 5
    before = await sidecar.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await sidecar.until(lambda: _others(sidecar, before))
    go.set()
    assert [await sidecar.get() for _ in range(8)] == [200] * 8, "a lease of ten minutes is given back at once"
    for wire in wires:
        wire.close()


async def _others(sidecar: Sidecar, before: list[int]) -> bool:
    now = await sidecar.pids()
    return len(now) == len(before) and not set(now) & set(before)


class Load:
    """Clients on connections that are kept; what failed, and why."""

    def __init__(self, port: int, clients: int = 12) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = port
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        wire: Wire | None = None
        while not self._stop.is_set():
            fresh = wire is None
            try:
                wire = wire or await Wire.connect(self._port)
            except OSError as error:
                self.failures.append(f"connect: {type(error).__name__}")
                await asyncio.sleep(0.01)
                continue
            try:
                wire.send(GET)
                status, fields, _ = await wire.answer()
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"{'new' if fresh else 'kept'}: {type(error).__name__}")
                wire.close()
                wire = None
                continue
            self.answered += 1
            if status != 200:
                self.failures.append(str(status))
            if fields.get("connection") == "close":
                wire.close()
                wire = None
        if wire is not None:
            wire.close()

    async def more(self, answers: int) -> None:
        wanted = self.answered + answers
        async with asyncio.timeout(20):
            while self.answered < wanted:
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


async def test_a_worker_that_is_killed_takes_only_its_own_connections_along(sidecar: Sidecar) -> None:
    await sidecar.start()
    load = Load(sidecar.port)
    await load.more(300)
    before = await sidecar.pids()
    counted = await sidecar.metrics("proxy_requests_total")
    loop = asyncio.get_running_loop()
    killed = loop.time()
    os.kill(before[0], signal.SIGKILL)
    await sidecar.until(lambda: _replaced(sidecar, before[0]))
    took = loop.time() - killed
    await load.more(300)
    await load.end()
    assert all(one.startswith(("kept", "new")) for one in load.failures), load.failures
    assert len(load.failures) <= 12, "no more than were its own"
    assert not [one for one in load.failures if "connect" in one], "nobody was refused"
    assert before[1] in await sidecar.pids()
    assert await sidecar.metrics("proxy_requests_total") > counted, "counters do not go back"
    assert await sidecar.metrics('proxy_worker_restarts_total{after="death"}') == 1
    assert took < 5, "a second where the machine is not shared with other tests"
    assert (await sidecar.end())[0] == 0


async def _replaced(sidecar: Sidecar, pid: int) -> bool:
    now = await sidecar.pids()
    return len(now) == 2 and pid not in now


async def test_workers_are_replaced_in_turn_and_nobody_notices(sidecar: Sidecar) -> None:
    await sidecar.start()
    assert sidecar.process is not None
    load = Load(sidecar.port)
    await load.more(200)
    before = await sidecar.pids()
    status, told = await sidecar.ask("/workers/restart", "POST")
    assert status == 200, told
    await load.more(200)
    between = await sidecar.pids()
    assert not set(before) & set(between)
    sidecar.process.send_signal(signal.SIGUSR2)
    await sidecar.until(lambda: _others(sidecar, between))
    await load.more(200)
    await load.end()
    assert load.failures == []
    assert await sidecar.metrics("proxy_requests_total") >= load.answered
    assert (await sidecar.end())[0] == 0


async def test_a_policy_is_taken_over_by_all_or_none(sidecar: Sidecar) -> None:
    await sidecar.start(token=', token: "sesame sesame"')
    key = {"Authorization": "Bearer sesame sesame"}
    assert await sidecar.status("/reload", "POST") == 401
    assert await sidecar.status("/workers/restart", "POST") == 401
    assert await sidecar.status("/quitquitquit", "POST") == 401
    assert await sidecar.status("/metrics") == 401
    sidecar.write(limits="{none: {limit: 1/1h}}")
    status, told = await sidecar.ask("/reload", "POST", **key)
    assert (status, told["result"]) == (200, "applied")
    assert Counter([await sidecar.get() for _ in range(10)]) == {200: 1, 429: 9}
    sidecar.write(limits="{none: {limit: 1/never}}")
    status, told = await sidecar.ask("/reload", "POST", **key)
    assert (status, told["result"]) == (409, "refused")
    sidecar.write(limits="{}", port=free_port())
    status, told = await sidecar.ask("/reload", "POST", **key)
    assert status == 409
    assert "listener.address" in told["findings"][0]
    sidecar.write(limits="{}", port=sidecar.port)
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGHUP)
    await sidecar.until(lambda: _all_pass(sidecar))


async def _all_pass(sidecar: Sidecar) -> bool:
    return [await sidecar.get() for _ in range(10)] == [200] * 10


async def test_a_breaker_that_one_worker_opens_is_open_for_all(sidecar: Sidecar, upstream: ScriptedUpstream) -> None:
    bad = True

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % (500 if bad else 200))

    upstream.script = script
    await sidecar.start(breaker="{consecutive: 3, count: [5xx], open_for: {from: 600ms, to: 1s}, probes: 1}")
    wire = await Wire.connect(sidecar.port)
    for _ in range(3):
        wire.send(GET)
        await wire.answer()
    await sidecar.until(lambda: _only(sidecar, 503))
    bad = False
    await sidecar.until(lambda: _all_pass(sidecar))
    wire.close()


async def _only(sidecar: Sidecar, status: int) -> bool:
    """Whichever worker is met."""
    return {await sidecar.get() for _ in range(16)} == {status}


async def test_sigterm_lets_what_runs_end_in_every_worker(sidecar: Sidecar, upstream: ScriptedUpstream) -> None:
    begun, go = 0, asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal begun
        await read_request(reader)
        begun += 1
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    await sidecar.start()
    wires = [await Wire.connect(sidecar.port) for _ in range(10)]
    for wire in wires:
        wire.send(GET)
    async with asyncio.timeout(10):
        while begun < 10:
            await asyncio.sleep(0.01)
    assert sidecar.process is not None
    sidecar.process.terminate()
    await sidecar.until(lambda: _is_status(sidecar, "/readyz", 503))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(_connect_again_and_again(sidecar.port), 5)
    go.set()
    assert [(await wire.answer())[0] for wire in wires] == [200] * 10
    for wire in wires:
        wire.close()
    assert await asyncio.wait_for(sidecar.process.wait(), 20) == 0


async def _connect_again_and_again(port: int) -> None:
    while True:
        (await Wire.connect(port)).close()
        await asyncio.sleep(0.02)


async def _is_status(sidecar: Sidecar, path: str, wanted: int) -> bool:
    return await sidecar.status(path) == wanted


async def test_a_second_signal_ends_all_at_once(sidecar: Sidecar, upstream: ScriptedUpstream) -> None:
    begun = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        begun.set()
        await reader.read()

    upstream.script = script
    await sidecar.start()
    wire = await Wire.connect(sidecar.port)
    wire.send(GET)
    await asyncio.wait_for(begun.wait(), 10)
    assert sidecar.process is not None
    sidecar.process.terminate()
    await sidecar.until(lambda: _is_status(sidecar, "/readyz", 503))
    status, _ = await sidecar.end()
    assert status == 1
    wire.close()


async def test_workers_end_when_their_parent_is_killed(sidecar: Sidecar) -> None:
    await sidecar.start()
    pids = await sidecar.pids()
    assert sidecar.process is not None
    sidecar.process.kill()
    await sidecar.process.communicate()
    async with asyncio.timeout(15):
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            await asyncio.sleep(0.02)


async def test_what_cannot_start_is_told_and_ends(tmp_path: Path, sidecar: Sidecar) -> None:
    taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", sidecar.port)
    with pytest.raises(AssertionError):
        await sidecar.start()
    assert sidecar.process is not None
    assert sidecar.process.returncode == 1
    taken.close()


async def test_one_worker_is_one_process(sidecar: Sidecar) -> None:
    await sidecar.start(workers=1)
    assert await sidecar.status("/workers") == 404
    assert await sidecar.get() == 200


async def test_the_admin_ends_all_for_jobs(sidecar: Sidecar) -> None:
    await sidecar.start()
    assert await sidecar.status("/quitquitquit", "POST") == 200
    assert sidecar.process is not None
    assert await asyncio.wait_for(sidecar.process.wait(), 20) == 0


async def test_who_has_no_token_is_refused_whatever_the_workers_do(sidecar: Sidecar) -> None:
    await sidecar.start(token=', token: "sesame sesame"')
    key = {"Authorization": "Bearer sesame sesame"}
    _, told = await sidecar.ask("/workers", **key)
    for one in told["workers"]:
        os.kill(one["pid"], signal.SIGSTOP)
    for path in ("/quitquitquit", "/workers/restart"):
        assert await sidecar.status(path, "POST") == 401
    assert await sidecar.status("/workers") == 401
    for one in told["workers"]:
        os.kill(one["pid"], signal.SIGCONT)


async def test_a_worker_that_starts_takes_what_rules_not_what_the_file_says_by_then(sidecar: Sidecar) -> None:
    await sidecar.start(limits="{none: {limit: 1/1h}}")
    sidecar.write(limits="{none: {limit: 1/never}}")
    assert await sidecar.status("/reload", "POST") == 409
    first = await sidecar.pids()
    os.kill(first[0], signal.SIGKILL)
    await sidecar.until(lambda: _replaced(sidecar, first[0]))
    assert Counter([await sidecar.get() for _ in range(6)]) == {200: 1, 429: 5}
    sidecar.write(limits="{}")
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"http://127.0.0.1:{sidecar.admin}/reload", data=b"{}")
        assert (answer.status, (await answer.json())["result"]) == (200, "applied")
    assert await _all_pass(sidecar)
    assert await sidecar.status("/workers/restart", "POST") == 200
    assert await _all_pass(sidecar)


async def test_one_changed_file_is_read_by_one_and_rules_in_all(sidecar: Sidecar) -> None:
    await sidecar.start(more="reload: {watch: true}", limits="{none: {limit: 1/1h}}")
    sidecar.write(limits="{}")
    await sidecar.until(lambda: _all_pass(sidecar))
    assert await sidecar.metrics('proxy_policy_reloads_total{result="applied"}') == 1


async def test_a_drain_told_by_hand_outlives_a_worker(sidecar: Sidecar) -> None:
    await sidecar.start()
    assert await sidecar.status("/drain", "POST") == 200
    assert await sidecar.status("/readyz") == 503
    first = await sidecar.pids()
    os.kill(first[1], signal.SIGKILL)
    await sidecar.until(lambda: _replaced(sidecar, first[1]))
    assert await sidecar.status("/readyz") == 503


async def test_a_worker_that_hangs_is_told_and_replaced(sidecar: Sidecar) -> None:
    await sidecar.start()
    first = await sidecar.pids()
    os.kill(first[0], signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    status, told = await sidecar.ask("/readyz")
    assert (status, told["workers"]) == (200, {"ready": 1, "wanted": 2})
    assert asyncio.get_running_loop().time() - began < 3
    await sidecar.until(lambda: _replaced(sidecar, first[0]), 40)
    assert await _all_pass(sidecar)
    status, errors = await sidecar.end()
    assert (status, "a worker hangs" in errors) == (0, True)


async def test_a_folder_of_the_same_name_is_not_run(
    tmp_path: Path, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "proxy"
    foreign.mkdir()
    (foreign / "__init__.py").touch()
    (foreign / "__main__.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    sidecar.command = [str(Path(sys.executable).parent / "simplepro-proxy")]
    await sidecar.start()
    assert await _all_pass(sidecar)


async def test_a_worker_that_can_not_be_started_costs_the_others_nothing(tmp_path: Path, sidecar: Sidecar) -> None:
    """The interpreter is away for a while, as it is while it is upgraded in place."""
    python = tmp_path / "python3"
    python.symlink_to(Path(sys.executable).resolve())
    packages = [one for one in sys.path if one.endswith("site-packages")]
    sidecar.command = [str(python), "-m", "proxy"]
    sidecar.environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *packages])}
    await sidecar.start()
    first = await sidecar.pids()
    python.unlink()
    os.kill(first[0], signal.SIGKILL)

    async def tried() -> bool:
        _, told = await sidecar.ask("/workers")
        return bool(told["workers"][0]["deaths"] > 1)

    await sidecar.until(tried)
    assert await sidecar.pids() == first[1:]
    status, told = await sidecar.ask("/workers/restart", "POST")
    assert (status, "does not serve now" in told["error"]) == (500, True)
    python.symlink_to(Path(sys.executable).resolve())
    await sidecar.until(lambda: _replaced(sidecar, first[0]))
    assert await _all_pass(sidecar)
    assert (await sidecar.end())[0] == 0


async def _successor(sidecar: Sidecar, known: list[int]) -> int:
    """The process that is being started, by its parent's list of children."""
    assert sidecar.process is not None
    children = Path(f"/proc/{sidecar.process.pid}/task/{sidecar.process.pid}/children")
    found: list[int] = []

    async def there() -> bool:
        found[:] = [int(one) for one in children.read_text().split() if int(one) not in known]
        return bool(found)

    await sidecar.until(there)
    return found[0]


async def test_a_restart_that_fails_leaves_the_counts_to_who_goes_on(sidecar: Sidecar) -> None:
    await sidecar.start(bounds="{connections_per_client: 6}")
    wires = [await Wire.connect(sidecar.port) for _ in range(6)]
    for wire in wires:
        wire.send(GET)
        assert (await wire.answer())[0] == 200
    for _ in range(3):
        known = await sidecar.pids()
        restarting = asyncio.create_task(sidecar.ask("/workers/restart", "POST"))
        os.kill(await _successor(sidecar, known), signal.SIGKILL)
        status, told = await restarting
        assert (status, "did not get ready" in told["error"]) == (500, True)
    one_more = await Wire.connect(sidecar.port)
    one_more.send(GET)
    assert (await one_more.answer())[0] == 503
    for wire in (*wires, one_more):
        wire.close()
    await sidecar.until(lambda: _is(sidecar.metrics("proxy_connections "), 0))
    assert await sidecar.get() == 200


async def test_sigterm_does_not_wait_for_a_successor(sidecar: Sidecar) -> None:
    await sidecar.start()
    known = await sidecar.pids()
    restarting = asyncio.create_task(sidecar.status("/workers/restart", "POST"))
    os.kill(await _successor(sidecar, known), signal.SIGSTOP)
    began = asyncio.get_running_loop().time()
    status, _ = await sidecar.end()
    assert status == 0
    assert asyncio.get_running_loop().time() - began < 15, "READY_SECONDS is 30"
    await restarting
