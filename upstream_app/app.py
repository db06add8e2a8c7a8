"""The composition root: settings to a running application."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from pymongo.errors import PyMongoError

from upstream_app import mongo, redis
from upstream_app.customers.api import CustomerApi
from upstream_app.customers.store import CustomerStore
from upstream_app.health import Dependency, Health
from upstream_app.settings import Settings
from upstream_app.web.errors import errors
from upstream_app.web.requests import MAX_BODY
from upstream_app.web.timing import timing

log = structlog.get_logger("simplepro")
INDEX_RETRY_SECONDS = 2.0


def build(settings: Settings) -> web.Application:
    """The application; its clients connect when first used and are closed with it. Needs a running loop."""
    client, cache = mongo.connect(settings), redis.connect(settings)
    customers = CustomerStore(mongo.database(client))
    health = Health(
        [
            Dependency("mongodb", lambda: client.admin.command("ping"), 3.0, required=True),
            Dependency("redis", cache.ping, 3.0, required=False),
        ],
        settings.ENVIRONMENT,
    )

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        indexing = asyncio.create_task(_create_indexes(customers), name="indexes")
        yield
        indexing.cancel()
        await asyncio.gather(indexing, return_exceptions=True)
        await health.close()
        await cache.aclose()
        await client.close()

    app = web.Application(middlewares=[timing, errors], client_max_size=MAX_BODY)
    app.cleanup_ctx.append(lifetime)
    app.add_routes([*CustomerApi(customers).routes(), *health.routes()])
    return app


async def _create_indexes(store: CustomerStore) -> None:
    """Until it succeeds: the database may come up after the application does."""
    while True:
        try:
            await store.create_indexes()
        except PyMongoError as error:
            log.warning("no indexes yet", error=type(error).__name__, retry_in=INDEX_RETRY_SECONDS)
            await asyncio.sleep(INDEX_RETRY_SECONDS)
        else:
            log.info("indexes are there")
            return


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
