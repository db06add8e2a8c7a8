"""The parent of a sidecar's workers: owns the sockets, starts and watches the workers, and ends them together.

The sockets outlive a worker: who connects while one is started again waits, and is not refused. SIGTERM drains all,
SIGHUP has all read the policy's file, SIGUSR2 replaces them one by one by what is installed now.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from proxy.listener.door import UNIX, DoorTerms, bound, inherited
from proxy.policy.load import load
from proxy.policy.source import revision_of, stamp_of
from proxy.workers.admin import ParentAdmin
from proxy.workers.counts import SharedCounts, memory
from proxy.workers.hub import Hub
from proxy.workers.link import VARIABLE, Worker
from proxy.workers.merge import parsed
from proxy.workers.process import Process, Slot, tell

if TYPE_CHECKING:
    from proxy.policy.model import Policy

log = structlog.get_logger("workers")

BACKOFF_FROM, BACKOFF_TO = 0.05, 10.0
GOOD_SECONDS = 20.0
"""A worker that lived so long is started again at once when it dies."""
READY_SECONDS = 30.0
COLUMNS = 4
"""Processes at once by worker: the one that serves, its successor, and those that still drain."""
GRACE = 5.0
"""Beyond the drain time: then a worker is killed."""
SWEEP_SECONDS = 5.0
PING_SECONDS = 2.0
HUNG_SECONDS = 15.0
"""A worker whose loop has said nothing for so long is ended, and another takes its place."""
AGREE_SECONDS = 10.0
WATCH_SECONDS = 1.0


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
        self.text = path.read_bytes()
        """The policy in force: what the first worker that took it over read."""
        self._followed = self.text
        """What `policy` was made of."""
        self._hub = Hub(self._on_told)
        self._columns = COLUMNS * count
        self._memory = memory(self._columns)
        self._counts = SharedCounts(self._memory, self._columns)
        self._free = list(range(self._columns))
        """Columns of the shared counts that no process writes."""
        self._moved = asyncio.Event()
        self._processes: dict[int, Process] = {}
        self._numbers = 0
        self._folder = ""
        self._ours: set[Path] = set()
        """Unix sockets that were bound here."""
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
        return bool(self.slots) and all(slot.served for slot in self.slots)

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
            self._write_policy()
            await self._open(given)
            try:
                await self.admin.start(self.policy.admin.address, given.get("admin"))
                keeping = [asyncio.create_task(self._keep(slot), name=f"worker {slot.index}") for slot in self.slots]
                for work in (self._sweep(), self._ping(), self._watch_file(), self._say_serving()):
                    self._own(work)
                statuses = await asyncio.gather(*keeping)
                statuses += await asyncio.gather(*self._ending)
            finally:
                self._close_sockets()
                await self.admin.close()
                self._hub.close()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        self._counts.close()
        os.close(self._memory)
        clean = not any(statuses)
        log.info("stopped", clean=clean)
        return 0 if clean else 1

    def _own(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the parent of the workers failed at something", exc_info=error)

    async def _say_serving(self) -> None:
        while not self.started:
            self._moved.clear()
            await self._moved.wait()
        host, _ = self.policy.listener.address
        address = host if host.startswith(UNIX) else f"{host}:{self.port}"
        log.info("serving", address=address, admin_port=self.admin.port, workers=self.count)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._hub.sweep()

    async def _ping(self) -> None:
        """A worker whose loop stands still answers nobody, though the kernel goes on giving it connections. A parent
        that was late itself has not heard what they said meanwhile, and judges nobody."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(PING_SECONDS)
            now = time.monotonic()
            heard_all = now - before < 2 * PING_SECONDS
            before = now
            for process in list(self._processes.values()):
                if heard_all and process.ready.is_set() and now - process.heard > HUNG_SECONDS:
                    log.error("a worker hangs and is ended", worker=process.slot, pid=process.running.pid)
                    tell(process, signal.SIGABRT)
                    asyncio.get_running_loop().call_later(1.0, tell, process, signal.SIGKILL)
                self._hub.say(process.number, "ping")

    async def _watch_file(self) -> None:
        seen = stamp_of(self._path)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            stamp = stamp_of(self._path)
            if self.policy.reload.watch and stamp and stamp != seen and self.serving:
                seen = stamp
                self._on_hangup()

    def stop(self) -> None:
        """Drain all; told again, end them at once."""
        if self.stopping.is_set():
            for process in self._processes.values():
                tell(process, signal.SIGINT)
        self.stopping.set()
        for slot in self.slots:
            slot.wake.set()

    def _on_hangup(self) -> None:
        """One judges the file; the others take over what it took."""
        for process in self.serving[:1]:
            tell(process, signal.SIGHUP)

    # the policy in force

    def _write_policy(self) -> None:
        """Where workers that start find it."""
        new = Path(self._folder, "policy.new")
        new.write_bytes(self.text)
        new.replace(Path(self._folder, "policy"))

    def _on_told(self, number: int, kind: str, rest: list[Any]) -> None:
        process = self._processes.get(number)
        if process is None:
            return
        process.heard = time.monotonic()
        if kind == "applied":
            process.text = self.text = rest[0]
            self._write_policy()
            self._own(self._follow(self.text))
            for other in self.serving:
                if other is not process:
                    other.text, other.asked = b"", self.text
                    self._hub.say(other.number, "take", *rest)
        elif kind in ("ready", "took"):
            process.text = rest[0]
            if process.text == self.text:
                self._own(self._begin_serving(process))
            elif process.asked != self.text:
                process.asked = self.text
                self._hub.say(number, "take", self.text, False)
            else:
                log.error("a worker refuses the policy in force", worker=process.slot, pid=process.running.pid)
        elif kind == "last":
            self.admin.metrics.see(number, parsed(rest[0]))
        self._moved.set()

    async def _begin_serving(self, process: Process) -> None:
        if not process.ready.is_set():
            await self.admin.repeat(process)
            process.ready.set()
            self.slots[process.slot].served = True
            self._moved.set()

    async def _follow(self, text: bytes) -> None:
        """Its drain and its admin's token are the parent's, too."""
        self.policy = await asyncio.to_thread(load, self._path, None, text)
        self._followed = text
        self._moved.set()

    async def differing(self, revision: str) -> list[int]:
        """Waits until every worker that serves does so by that policy; those that then still don't."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGREE_SECONDS):
                while (
                    revision_of(self.text) != revision
                    or self._followed != self.text
                    or any(one.text != self.text for one in self.serving)
                ):
                    self._moved.clear()
                    await self._moved.wait()
        return [one.slot for one in self.serving if one.text != self.text]

    # sockets

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
            if host.startswith(UNIX) and "listener" not in given:
                self._ours.add(Path(own[0].getsockname()))
            name = own[0].getsockname()
            port = self.port = name[1] if isinstance(name, tuple) else 0
            self.slots.append(Slot(index, {"listener": own, "redirect": redirect}))

    def _close_sockets(self) -> None:
        for slot in self.slots:
            for one in (*slot.sockets["listener"], *slot.sockets["redirect"]):
                one.close()
        for path in self._ours:
            path.unlink(missing_ok=True)
        self._ours.clear()

    # workers

    async def _start(self, slot: Slot) -> Process:
        """Raises OSError where the system gives no process, or too many still drain."""
        if not self._free:
            raise OSError(f"{len(self._processes)} processes of workers run or drain still")
        column = self._free.pop(0)
        try:
            return await self._spawned(slot, column)
        except OSError:
            self._free.append(column)
            raise

    async def _spawned(self, slot: Slot, column: int) -> Process:
        ours, theirs = socket.socketpair()
        self._numbers += 1
        number = self._numbers
        fds = {name: [one.fileno() for one in found] for name, found in slot.sockets.items() if found}
        admin = f"{self._folder}/{number}.sock"
        worker = Worker(
            slot.index, self.count, number, theirs.fileno(), self._memory, column, self._columns, admin,
            f"{self._folder}/policy", fds,
        )  # fmt: skip
        passed = (theirs.fileno(), self._memory, *(fd for found in fds.values() for fd in found))
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("LISTEN_") and name != VARIABLE
        }
        try:
            running = await asyncio.create_subprocess_exec(
                sys.executable, *_SAFE, "-m", "proxy", "run", "--policy", str(self._path), "--log-level",
                self._log_level, env={**kept, **worker.environment}, pass_fds=passed, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        process = Process(slot.index, number, column, admin, running)
        self._processes[number] = process
        process.gone = await self._hub.attach(ours, number)
        return process

    async def _keep(self, slot: Slot) -> int:
        """Until all stop; the status of the last process. A first process that can't serve ends them all."""
        pause = BACKOFF_FROM
        while not self.stopping.is_set():
            lived, pid = 0.0, None
            try:
                process = slot.current = await self._start(slot)
            except OSError as error:
                status: int | str = f"it can't be started: {error}"
            else:
                status = await self._watch(slot, process)
                if self.stopping.is_set():
                    return status
                process = slot.current
                lived, pid = time.time() - process.began, process.running.pid
                slot.current = None
            slot.deaths += 1
            self.restarts["death"] += 1
            if not slot.served:
                log.error("a worker could not start", worker=slot.index, status=status)
                self.stop()
                return status if isinstance(status, int) and status else 1
            pause = BACKOFF_FROM if lived > GOOD_SECONDS else min(2 * pause, BACKOFF_TO)
            log.error("worker died", worker=slot.index, pid=pid, status=status, restarts_in=pause)
            slot.answer(f"worker {slot.index} had died")
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
        self._own(self._see_ready(process))
        while True:
            slot.wake.clear()
            ended = asyncio.create_task(process.wait())
            woken = asyncio.create_task(slot.wake.wait())
            if not self.stopping.is_set() and slot.replace is None:
                await asyncio.wait({ended, woken}, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
            if self.stopping.is_set():
                ended.cancel()
                slot.answer("the sidecar stops")
                self._close_sockets()
                return await self._end(process)
            if ended.done():
                self._forget(process)
                return ended.result()
            ended.cancel()
            if slot.replace is not None:
                process = await self._replace(slot, process)

    async def _see_ready(self, process: Process) -> None:
        """One that does not get ready in time is ended, and counts as dead."""
        waits = [asyncio.create_task(one) for one in (process.ready.wait(), process.wait())]
        done, _ = await asyncio.wait(waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        if not done:
            log.error("a worker did not get ready in time", worker=process.slot, seconds=READY_SECONDS)
            tell(process, signal.SIGKILL)

    async def _replace(self, slot: Slot, old: Process) -> Process:
        """Another process takes the place once it is ready; the old one drains. Which has the place now."""
        try:
            new = await self._start(slot)
        except OSError as error:
            slot.answer(f"worker {slot.index} can't be started: {error}")
            return old
        waits = [asyncio.create_task(one) for one in (new.ready.wait(), new.wait(), self.stopping.wait())]
        await asyncio.wait(waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        if not new.ready.is_set() or new.running.returncode is not None:
            await self._end(new, kill=True)
            slot.answer(f"worker {slot.index}'s successor did not get ready, and the old one goes on")
            return old
        slot.current = new
        task = asyncio.create_task(self._end(old), name=f"drain of worker {slot.index}")
        self._ending.add(task)
        task.add_done_callback(self._drained)
        self.restarts["request"] += 1
        slot.answer("")
        return new

    def _drained(self, task: asyncio.Task[int]) -> None:
        """How one ended that was replaced is of no more interest, unless all end."""
        if not self.stopping.is_set():
            self._ending.discard(task)

    async def roll(self) -> str:
        """Replace every worker, one after the other; what failed, in words, or nothing."""
        async with self._rolling:
            for slot in self.slots:
                if self.stopping.is_set():
                    return "the sidecar stops"
                if slot.current is None or slot.current not in self.serving:
                    return f"worker {slot.index} does not serve now"
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
        tell(process, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            async with asyncio.timeout(self.policy.listener.drain + GRACE):
                status = await process.wait()
        except TimeoutError:
            log.error("a worker did not end in time and is killed", worker=process.slot, pid=process.running.pid)
            tell(process, signal.SIGKILL)
            status = await process.wait()
        self._forget(process)
        starting = status == -signal.SIGTERM and not process.ready.is_set()
        return 0 if starting else status

    def _forget(self, process: Process) -> None:
        if self._processes.pop(process.number, None) is None:
            return
        self._counts.clear(process.column)
        self._free.append(process.column)
        self.admin.metrics.retire(process.number)
        Path(process.admin).unlink(missing_ok=True)


_SAFE = () if sys.path[:1] == [str(Path.cwd())] else ("-P",)
"""A worker finds the code where its parent found it: a folder `proxy` where somebody works is none of ours."""


async def supervise(policy: Policy, path: Path, count: int, log_level: str) -> int:
    return await Parent(policy, path, count, log_level).run()
