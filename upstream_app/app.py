"""The composition root: settings to a running application."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from upstream_app import mongo, redis
from upstream_app.customers.api import CustomerApi
from upstream_app.customers.store import CustomerStore
from upstream_app.health import Dependency, Health
from upstream_app.schema import Schema
from upstream_app.settings import Settings
from upstream_app.web.errors import errors
from upstream_app.web.requests import MAX_BODY
from upstream_app.web.timing import timing

log = structlog.get_logger("simplepro")


def build(settings: Settings) -> web.Application:
    """The application; its clients connect when first used and are closed with it. Needs a running loop."""
    client, cache = mongo.connect(settings), redis.connect(settings)
    customers = CustomerStore(mongo.database(client))
    schema = Schema(customers.prepare)
    health = Health(
        [
            Dependency("mongodb", lambda: client.admin.command("ping"), 3.0, required=True),
            Dependency("redis", cache.ping, 3.0, required=False),
        ],
        settings.ENVIRONMENT,
        prepared=lambda: schema.prepared,
    )

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        preparing = asyncio.create_task(schema.prepare(), name="schema")
        yield
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
        await health.close()
        await cache.aclose()
        await client.close()

    app = web.Application(middlewares=[timing, errors, schema.guard], client_max_size=MAX_BODY)
    app.cleanup_ctx.append(lifetime)
    app.add_routes([*CustomerApi(customers).routes(), *health.routes()])
    return app


async def serve(settings: Settings) -> None:
    """Run until SIGTERM, SIGINT or SIGQUIT; requests in flight have SHUTDOWN_TIMEOUT to end.

    Raises OSError where the address can't be had.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(
        build(settings),
        access_log=None,
        shutdown_timeout=settings.SHUTDOWN_TIMEOUT / 1000,
        keepalive_timeout=75.0,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.HOST, settings.PORT, backlog=1024).start()
        log.info("serving", address=str(runner.addresses[0]), environment=settings.ENVIRONMENT)
        await stopping.wait()
        log.info("stopping", within_ms=settings.SHUTDOWN_TIMEOUT)
    finally:
        await runner.cleanup()
    log.info("stopped")
