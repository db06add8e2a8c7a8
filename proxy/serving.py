"""One process that serves a policy: signals, the way in and the way out, and its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

import structlog

from proxy.app import Proxy
from proxy.policy.model import Policy
from proxy.workers.link import Link, Worker

log = structlog.get_logger("proxy")


async def serve(policy: Policy, path: Path | None = None) -> int:
    """Run until told to stop: a first SIGTERM or SIGINT drains, a second ends at once. 0 where the drain was clean.

    SIGHUP reads the policy's file again.
    """
    worker = Worker.of(os.environ)
    link = Link(worker, lambda: proxy.end()) if worker else None
    proxy = Proxy(policy, path, link)
    loop = asyncio.get_running_loop()
    at_once = asyncio.Event()

    def on_signal() -> None:
        if proxy.stopping.is_set():
            at_once.set()
        proxy.end()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, on_signal)
    if proxy.reloader is not None:
        loop.add_signal_handler(signal.SIGHUP, proxy.reloader.ask)
    if link is None:
        loop.add_signal_handler(signal.SIGUSR2, log.warning, "SIGUSR2 replaces workers; this sidecar is one process")
    await proxy.start()
    host, _ = policy.listener.address
    log.log(
        logging.DEBUG if link else logging.INFO,
        "serving",
        address=host if host.startswith("unix:") else f"{host}:{proxy.listener.port}",
        admin_port=proxy.admin.port,
        routes=len(policy.routes),
    )
    await proxy.stopping.wait()
    seconds = proxy.policy.listener.drain
    log.info("draining", seconds=seconds, connections=proxy.listener.open_connections)
    stopping = asyncio.create_task(proxy.stop(seconds))
    hurry = asyncio.create_task(at_once.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        await proxy.stop(0)
        log.warning("stopped at once", reason="second signal")
        return 1
    ended = stopping.result()
    log.info("stopped", clean=ended)
    return 0
