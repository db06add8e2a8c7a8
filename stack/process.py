"""One server process: started, waited for, stopped within a deadline, and its last words kept."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Probe = Callable[[], Awaitable[bool]]
OnLine = Callable[[str, str], None]
ROOT = Path(__file__).parents[1]


class StartFailure(Exception):
    """A server did not come up; the text says which, why, and its last words."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to start. `ready` is asked until it says yes; `deadline` and `grace` are seconds to start and to stop in."""

    name: str
    command: Sequence[str]
    ready: Probe
    environment: Mapping[str, str] = field(default_factory=dict)
    deadline: float = 30.0
    grace: float = 10.0


class ServerProcess:
    """Runs in a session of its own, so that a terminal's Ctrl-C reaches only who started it."""

    LAST_LINES = 40

    def __init__(self, spec: Spec, on_line: OnLine | None = None) -> None:
        self.spec = spec
        self.lines: deque[str] = deque(maxlen=self.LAST_LINES)
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start and wait until it is ready. Raises StartFailure; nothing is left running then."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.command,
                env={**os.environ, **self.spec.environment},
                cwd=ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise StartFailure(f"{self.spec.name}: {self.spec.command[0]}: {error.strerror}. Run: make setup") from None
        self._reader = asyncio.create_task(self._read(), name=f"output of {self.spec.name}")
        try:
            async with asyncio.timeout(self.spec.deadline):
                while not await self.spec.ready():
                    if self.status is not None:
                        await self._reader
                        raise StartFailure(f"{self.spec.name} ended with status {self.status}:\n{self._said()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.stop()
            what = f"{self.spec.name} was not ready within {self.spec.deadline:g} s:\n{self._said()}"
            raise StartFailure(what) from None
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def _read(self) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        while line := await process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self.lines.append(text)
            if self._on_line:
                self._on_line(self.spec.name, text)

    def _said(self) -> str:
        return "\n".join(f"  {line}" for line in self.lines) or "  (it said nothing)"

    async def wait(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.status is None:
            self._process.send_signal(number)

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL past the grace, or at once where this is cancelled; the exit status."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(self.spec.grace):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            except asyncio.CancelledError:
                self.signal(signal.SIGKILL)
                raise
        if self._reader is not None:
            await self._reader
        return process.returncode
