"""The parent of a sidecar's workers: owns the sockets, starts and watches the workers, and ends them together.

The sockets outlive a worker: who connects while one is started again waits, and is not refused. SIGTERM drains all,
SIGHUP has all read the policy's file, SIGUSR2 replaces them one by one by what is installed now.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from proxy.listener.door import UNIX, DoorTerms, bound, inherited
from proxy.workers.admin import ParentAdmin
from proxy.workers.counts import SharedCounts, memory
from proxy.workers.hub import Hub
from proxy.workers.link import VARIABLE, Worker
from proxy.workers.merge import parsed

if TYPE_CHECKING:
    from proxy.policy.model import Policy

log = structlog.get_logger("workers")

BACKOFF_FROM, BACKOFF_TO = 0.05, 10.0
GOOD_SECONDS = 20.0
"""A worker that lived so long is started again at once when it dies."""
READY_SECONDS = 30.0
GRACE = 5.0
"""Beyond the drain time: then a worker is killed."""
SWEEP_SECONDS = 5.0


@dataclass(slots=True)
class Process:
    """One run of a worker. `number` is its own, `slot` the place that it has."""

    slot: int
    number: int
    column: int
    admin: str
    running: asyncio.subprocess.Process
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = field(default_factory=time.time)
    ended: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        """Its status, once it has ended and all that it said was heard."""
        if self.ended is None:
            self.ended = asyncio.create_task(self._end())
        return await asyncio.shield(self.ended)

    async def _end(self) -> int:
        status = await self.running.wait()
        await self.gone.wait()
        return status


@dataclass(slots=True)
class Slot:
    """A worker's place: its sockets stay, its process changes."""

    index: int
    sockets: dict[str, list[socket.socket]]
    current: Process | None = None
    generation: int = 0
    deaths: int = 0
    replace: asyncio.Future[str] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Parent:
    def __init__(self, policy: Policy, path: Path, count: int, log_level: str) -> None:
        self.policy = policy
        self.count = count
        self.slots: list[Slot] = []
        self.stopping = asyncio.Event()
        self.restarts: Counter[str] = Counter({"death": 0, "request": 0})
        self.admin = ParentAdmin(self)
        self._path = path
        self._log_level = log_level
        self._hub = Hub(self._is_ready, self._is_last)
        self._memory = memory(2 * count)
        self._counts = SharedCounts(self._memory, 2 * count)
        self._processes: dict[int, Process] = {}
        self._numbers = 0
        self._folder = ""
        self._rolling = asyncio.Lock()
        self._ending: set[asyncio.Task[int]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def serving(self) -> list[Process]:
        found = [slot.current for slot in self.slots if slot.current is not None]
        return [one for one in found if one.ready.is_set() and one.running.returncode is None]

    def runs(self, number: int) -> bool:
        return number in self._processes

    @property
    def started(self) -> bool:
        """Whether every place was served once."""
        return bool(self.slots) and all(
            (slot.current and slot.current.ready.is_set()) or slot.deaths for slot in self.slots
        )

    def told(self) -> dict[str, Any]:
        now = time.time()
        return {
            "parent": os.getpid(),
            "restarts": dict(self.restarts),
            "workers": [
                {
                    "worker": slot.index, "pid": slot.current.running.pid, "deaths": slot.deaths,
                    "ready": slot.current.ready.is_set(), "seconds": round(now - slot.current.began, 1),
                }
                if slot.current
                else {"worker": slot.index, "pid": None, "deaths": slot.deaths, "ready": False}
                for slot in self.slots
            ],
        }  # fmt: skip

    # running

    async def run(self) -> int:
        """Until told to stop. 0 where every worker drained, else 1. Raises OSError where an address can't be had."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._own(self.roll()))
        given = inherited(os.environ)
        with tempfile.TemporaryDirectory(prefix="simplepro-proxy-") as self._folder:
            await self._open(given)
            try:
                await self.admin.start(self.policy.admin.address, given.get("admin"))
                keeping = [asyncio.create_task(self._keep(slot), name=f"worker {slot.index}") for slot in self.slots]
                sweeping = asyncio.create_task(self._sweep(), name="hub")
                self._own(self._say_serving())
                statuses = await asyncio.gather(*keeping)
                statuses += await asyncio.gather(*self._ending)
            finally:
                self._close_sockets()
                await self.admin.close()
                self._hub.close()
            sweeping.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(sweeping, *self._tasks, return_exceptions=True)
        self._counts.close()
        os.close(self._memory)
        clean = not any(statuses)
        log.info("stopped", clean=clean)
        return 0 if clean else 1

    def _own(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _say_serving(self) -> None:
        for slot in self.slots:
            while slot.current is None:
                slot.wake.clear()
                await slot.wake.wait()
            await slot.current.ready.wait()
        host, _ = self.policy.listener.address
        address = host if host.startswith(UNIX) else f"{host}:{self.port}"
        log.info("serving", address=address, admin_port=self.admin.port, workers=self.count)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._hub.sweep()

    def stop(self) -> None:
        """Drain all; told again, end them at once."""
        if self.stopping.is_set():
            for process in self._processes.values():
                _tell(process, signal.SIGINT)
        self.stopping.set()
        for slot in self.slots:
            slot.wake.set()

    def _on_hangup(self) -> None:
        for process in self.serving:
            _tell(process, signal.SIGHUP)

    async def _open(self, given: dict[str, list[socket.socket]]) -> None:
        listener = self.policy.listener
        host, port = listener.address
        shared = given.get("listener") or (
            await bound(DoorTerms(host, 0, listener.bounds.backlog)) if host.startswith(UNIX) else []
        )
        redirect = given.get("redirect") or (
            await bound(DoorTerms(*listener.redirect.address, listener.bounds.backlog)) if listener.redirect else []
        )
        for index in range(self.count):
            own = shared or await bound(DoorTerms(host, port, listener.bounds.backlog, reuse_port=True))
            name = own[0].getsockname()
            port = self.port = name[1] if isinstance(name, tuple) else 0
            self.slots.append(Slot(index, {"listener": own, "redirect": redirect}))

    def _close_sockets(self) -> None:
        for slot in self.slots:
            for one in (*slot.sockets["listener"], *slot.sockets["redirect"]):
                if one.fileno() >= 0 and one.family == socket.AF_UNIX:
                    Path(one.getsockname()).unlink(missing_ok=True)
                one.close()

    # workers

    async def _start(self, slot: Slot) -> Process:
        ours, theirs = socket.socketpair()
        slot.generation += 1
        column = slot.index + self.count * (slot.generation % 2)
        self._numbers += 1
        number = self._numbers
        fds = {name: [one.fileno() for one in found] for name, found in slot.sockets.items() if found}
        admin = f"{self._folder}/{number}.sock"
        worker = Worker(slot.index, self.count, number, theirs.fileno(), self._memory, column, admin, fds)
        passed = (theirs.fileno(), self._memory, *(fd for found in fds.values() for fd in found))
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("LISTEN_") and name != VARIABLE
        }
        try:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy", "run", "--policy", str(self._path), "--log-level", self._log_level,
                env={**kept, **worker.environment}, pass_fds=passed, start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        process = Process(slot.index, number, column, admin, running)
        self._processes[number] = process
        process.gone = await self._hub.attach(ours, number)
        return process

    def _is_ready(self, number: int) -> None:
        if number in self._processes:
            self._processes[number].ready.set()

    def _is_last(self, number: int, metrics: str) -> None:
        self.admin.metrics.see(number, parsed(metrics))

    async def _keep(self, slot: Slot) -> int:
        """Until all stop; the status of the last process. A first process that can't serve ends them all."""
        pause = BACKOFF_FROM
        while not self.stopping.is_set():
            process = slot.current = await self._start(slot)
            slot.wake.set()
            status = await self._watch(slot, process)
            if self.stopping.is_set():
                return status
            process = slot.current
            slot.deaths += 1
            self.restarts["death"] += 1
            lived = time.time() - process.began
            if not process.ready.is_set() and not self.started:
                log.error("a worker could not start", worker=slot.index, status=status)
                self.stop()
                return status or 1
            pause = BACKOFF_FROM if lived > GOOD_SECONDS else min(2 * pause, BACKOFF_TO)
            log.error("worker died", worker=slot.index, pid=process.running.pid, status=status, restarts_in=pause)
            slot.wake.clear()
            if not self.stopping.is_set():
                try:
                    async with asyncio.timeout(pause):
                        await slot.wake.wait()
                except TimeoutError:
                    continue
        return 0

    async def _watch(self, slot: Slot, process: Process) -> int:
        """Until the place's process has ended: by itself, or since all stop. It may be replaced meanwhile."""
        while True:
            slot.wake.clear()
            ended = asyncio.create_task(process.wait())
            woken = asyncio.create_task(slot.wake.wait())
            if not self.stopping.is_set() and slot.replace is None:
                await asyncio.wait({ended, woken}, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
            if self.stopping.is_set():
                self._close_sockets()
                return await self._end(process)
            if ended.done():
                self._forget(process)
                return ended.result()
            if slot.replace is not None:
                process = await self._replace(slot, process, slot.replace)
                slot.replace = None

    async def _replace(self, slot: Slot, old: Process, told: asyncio.Future[str]) -> Process:
        """Another process takes the place once it is ready; the old one drains. Which has the place now."""
        new = await self._start(slot)
        ready, ended = asyncio.create_task(new.ready.wait()), asyncio.create_task(new.wait())
        await asyncio.wait({ready, ended}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not new.ready.is_set() or new.running.returncode is not None:
            await self._end(new, kill=True)
            told.set_result(f"worker {slot.index}'s successor did not get ready, and the old one goes on")
            return old
        slot.current = new
        task = asyncio.create_task(self._end(old), name=f"drain of worker {slot.index}")
        self._ending.add(task)
        self.restarts["request"] += 1
        told.set_result("")
        return new

    async def roll(self) -> str:
        """Replace every worker, one after the other; what failed, in words, or nothing."""
        async with self._rolling:
            for slot in self.slots:
                if self.stopping.is_set():
                    return "the sidecar stops"
                slot.replace = asyncio.get_running_loop().create_future()
                told = slot.replace
                slot.wake.set()
                failed = await told
                if failed:
                    log.error("workers not replaced", reason=failed)
                    return failed
            log.info("workers replaced", workers=self.count)
            return ""

    async def _end(self, process: Process, *, kill: bool = False) -> int:
        _tell(process, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            async with asyncio.timeout(self.policy.listener.drain + GRACE):
                status = await process.wait()
        except TimeoutError:
            log.error("a worker did not end in time and is killed", worker=process.slot, pid=process.running.pid)
            _tell(process, signal.SIGKILL)
            status = await process.wait()
        self._forget(process)
        starting = status == -signal.SIGTERM and not process.ready.is_set()
        return 0 if starting else status

    def _forget(self, process: Process) -> None:
        self._processes.pop(process.number, None)
        self._counts.clear(process.column)
        self.admin.metrics.retire(process.number)
        Path(process.admin).unlink(missing_ok=True)


def _tell(process: Process, number: signal.Signals) -> None:
    if process.running.returncode is None:
        process.running.send_signal(number)


def processors() -> int:
    """What `workers: auto` comes to: the processors that this process may use, by its affinity and its control group
    (cgroup v2 cpu.max, a quota over a period), at least one."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        return allowed


async def supervise(policy: Policy, path: Path, count: int, log_level: str) -> int:
    return await Parent(policy, path, count, log_level).run()
