"""Several processes on one port (WORKER_PROCESSES): a parent starts them, restarts who dies, passes signals on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile

import structlog

from upstream_app.fleet_metrics import FOLDER, forget_socket

log = structlog.get_logger("simplepro.workers")
BACKOFF_FROM, BACKOFF_TO = 0.2, 10.0
GOOD_SECONDS = 30.0
"""A worker that lived for so long is restarted at once when it dies."""


async def supervise(count: int, grace: float) -> int:
    """Until told to stop; 0 where every worker ended well within `grace` seconds."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, stopping.set)
    with tempfile.TemporaryDirectory(prefix="simplepro-") as folder:
        os.environ[FOLDER] = folder
        workers = [asyncio.create_task(_keep_running(number, stopping, grace)) for number in range(count)]
        statuses = await asyncio.gather(*workers)
    return 0 if not any(statuses) else 1


async def _keep_running(number: int, stopping: asyncio.Event, grace: float) -> int:
    pause = BACKOFF_FROM
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "upstream_app", "run", "--worker", env=os.environ, start_new_session=True
        )
        ended, told = asyncio.create_task(process.wait()), asyncio.create_task(stopping.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            return await _stop(process, ended, grace)
        told.cancel()
        forget_socket(process.pid)
        pause = BACKOFF_FROM if loop.time() - began > GOOD_SECONDS else min(2 * pause, BACKOFF_TO)
        log.error("worker died", worker=number, status=process.returncode, restarts_in=pause)
        try:
            async with asyncio.timeout(pause):
                await stopping.wait()
            return process.returncode or 0
        except TimeoutError:
            continue


async def _stop(process: asyncio.subprocess.Process, ended: asyncio.Task[int], grace: float) -> int:
    """A worker that was still starting dies of the signal itself, and has nothing to finish."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(grace):
            status = await ended
        return 0 if status == -signal.SIGTERM else status
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1
