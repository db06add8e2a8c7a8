"""The composition root: settings to a running application."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

import structlog
from aiohttp import web

from breaker import Breaker, Consecutive, ErrorRate, OpenTime, State
from breaker import Settings as BreakerSettings
from upstream_app import mongo, openapi, redis
from upstream_app.audit import AuditLog, audit_entries
from upstream_app.auth.api import AuthApi
from upstream_app.auth.passwords import Passwords
from upstream_app.auth.permissions import Actor
from upstream_app.auth.sessions import Sessions
from upstream_app.auth.store import UserStore
from upstream_app.auth.tokens import Tokens
from upstream_app.background import ended
from upstream_app.cache import Cache
from upstream_app.crews.api import CrewApi
from upstream_app.crews.store import TimeOffStore
from upstream_app.customers.api import CustomerApi
from upstream_app.customers.store import CustomerStore
from upstream_app.demo import page as demo
from upstream_app.documents import Collection
from upstream_app.edge import Edge
from upstream_app.estimates.api import EstimateApi, estimates
from upstream_app.events import Events
from upstream_app.fleet_metrics import own_socket
from upstream_app.health import Dependency, Health
from upstream_app.jobs.api import JobApi
from upstream_app.jobs.planning import Planning
from upstream_app.jobs.reminders import Reminders
from upstream_app.jobs.store import JobStore
from upstream_app.messages.api import MessageApi, messages, threads
from upstream_app.metrics import Metrics
from upstream_app.mongo import replication
from upstream_app.notifications.api import Notifier, notifications
from upstream_app.opportunities.api import OpportunityApi, opportunities
from upstream_app.realtime import api as realtime
from upstream_app.realtime.commands import Commands
from upstream_app.realtime.feed import Feed
from upstream_app.realtime.hub import ENDED, Hub
from upstream_app.realtime.presence import Presence
from upstream_app.realtime.statistics import Statistics
from upstream_app.schema import Schema
from upstream_app.settings import Settings
from upstream_app.web.conditional import conditional
from upstream_app.web.endpoint import Endpoint, routes
from upstream_app.web.errors import ApiError, errors
from upstream_app.web.requests import MAX_BODY
from upstream_app.web.timing import timing

log = structlog.get_logger("simplepro")
INSIDERS = ("admin", "super_admin")
"""Roles that see the detailed health and the metrics from anywhere."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The collections of the whole domain, in the order in which they are prepared."""

    users: UserStore
    customers: CustomerStore
    opportunities: Collection
    estimates: Collection
    jobs: JobStore
    audit: Collection
    notifications: Collection
    time_off: TimeOffStore
    threads: Collection
    messages: Collection

    @classmethod
    def of(cls, database: mongo.Database) -> Stores:
        return cls(
            UserStore(database), CustomerStore(database), opportunities(database), estimates(database),
            JobStore(database), audit_entries(database), notifications(database), TimeOffStore(database),
            threads(database), messages(database),
        )  # fmt: skip

    @property
    def all(self) -> tuple[Collection, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def build(settings: Settings) -> web.Application:
    """The application; its clients connect when first used and are closed with it. Needs a running loop."""
    metrics = Metrics()
    client = mongo.connect(settings, metrics.commands, metrics.pools, serving=True)
    database, shared = mongo.database(client), redis.connect(settings)
    patience = BreakerSettings(Consecutive(5), ErrorRate(0.5, 20, 10), open_time=OpenTime(1, 10))
    redis_breaker, mongo_breaker = Breaker("redis", patience), Breaker("mongodb", patience)
    session_breaker = Breaker("sessions", patience)
    mongo_breaker.on_change.append(lambda _, __, new, ___: setattr(metrics, "database_up", new is not State.OPEN))
    stores = Stores.of(database)
    edge = Edge(settings)
    cache = metrics.cache = Cache(shared, redis.listener(settings), redis_breaker, purge=edge.purge)
    events, passwords = Events(shared, redis_breaker), Passwords()
    sessions = Sessions(shared, session_breaker, settings.REDIS_PREFIX)
    tokens = Tokens(settings.JWT_SECRET.get_secret_value(), settings.JWT_REFRESH_SECRET.get_secret_value())
    business, audit = metrics.business, AuditLog(stores.audit)
    notifier = Notifier(database, stores.notifications, stores.users, events)
    auth = AuthApi(stores.users, sessions, tokens, passwords)
    planning = Planning(client, database, stores.jobs, stores.time_off.away_on)
    jobs = JobApi(
        stores.jobs,
        client,
        planning,
        stores.customers,
        stores.estimates,
        stores.opportunities,
        stores.users,
        cache,
        events,
        notifier,
        business,
    )
    crews = CrewApi(stores.time_off, stores.users, stores.jobs, planning, notifier, events, jobs.assigned)
    reminders = Reminders(stores.jobs, stores.estimates, notifier)
    messaging = MessageApi(stores.threads, stores.messages, stores.users, stores.jobs, events, notifier)
    hub = Hub()
    feed, presence = Feed(shared, hub.deliver), Presence(shared, events)
    statistics = Statistics(shared, events, stores.jobs, presence, hub)
    commands = Commands(hub, events, stores.jobs, stores.users, messaging, crews, statistics)
    live = realtime.RealtimeApi(hub, feed, presence, commands, audit, auth.identify)
    sessions.on_ended.append(lambda session: events.publish("sessionEnded", [f"{ENDED}{session}"], {}))
    metrics.events, metrics.hub, metrics.feed = events, hub, feed
    endpoints: list[Endpoint] = [
        *auth.endpoints(),
        *CustomerApi(
            stores.customers, (stores.opportunities, stores.estimates, stores.jobs), cache, events, business
        ).endpoints(),
        *OpportunityApi(stores.opportunities, stores.customers, events, notifier).endpoints(),
        *EstimateApi(
            client, stores.estimates, stores.customers, stores.opportunities, stores.jobs, cache, events, business,
            notifier,
        ).endpoints(),
        *jobs.endpoints(),
        *crews.endpoints(),
        *messaging.endpoints(),
        *notifier.endpoints(),
        *audit.endpoints(),
        Endpoint(
            "GET", "/api/system/slow-queries", metrics.slow_queries, "system_settings:read",
            "The slowest database commands of late, by shape",
        ),
    ]  # fmt: skip
    schema = Schema(database, stores.all)
    inside = _inside(auth.authenticate)
    health = Health(
        [
            Dependency("mongodb", lambda: client.admin.command("ping"), 3.0, required=True),
            Dependency("redis", shared.ping, 3.0, required=False),
        ],
        settings.ENVIRONMENT,
        prepared=lambda: schema.prepared,
        inside=inside,
        more=lambda: {
            "cache": cache.stats.health(),
            "events": {"status": "degraded" if feed.failing or not feed.ready else "up", "dropped": events.dropped},
            "replication": replication(client),
            "pool": {
                "status": "up",
                "open": metrics.pools.open,
                "used": metrics.pools.used,
                "max": settings.MONGODB_MAX_POOL_SIZE,
            },
            "eventLoop": {"status": "degraded" if metrics.lag > 1 else "up", "lagMs": round(metrics.lag * 1000, 1)},
        },
    )

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        preparing = asyncio.create_task(schema.prepare(), name="schema")
        for one in (metrics, events, cache, reminders, feed, presence, statistics):
            one.start()
        yield
        await ended(preparing)
        for closing in (live, statistics, reminders, health, presence, events, feed, cache, edge, metrics):
            await closing.close()
        passwords.close()
        await shared.aclose()
        await client.close()

    async def metrics_page(request: web.Request) -> web.Response:
        if not await inside(request):
            raise ApiError(403, "Metrics are for the machine itself, and for admins")
        return await metrics.page(request)

    around = [metrics.measure, timing, conditional, errors, schema.guard]
    app = web.Application(middlewares=around, client_max_size=MAX_BODY)
    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(lambda _: hub.shut_down())
    app.on_response_prepare.append(edge.mark)
    app[ENDPOINTS], app[DATABASE], app[REDIS] = endpoints, database, shared
    app.add_routes(routes(endpoints, auth.authenticate, audit.write, mongo_breaker))
    app.add_routes([web.get(realtime.PATH, live.serve), *demo.routes()])
    app.add_routes([*health.routes(), *openapi.routes(endpoints), web.get("/metrics", metrics_page)])
    return app


ENDPOINTS: web.AppKey[list[Endpoint]] = web.AppKey("endpoints")
DATABASE: web.AppKey[mongo.Database] = web.AppKey("database")
REDIS: web.AppKey[Any] = web.AppKey("redis")


def _inside(
    authenticate: Callable[[web.Request], Awaitable[Actor | None]],
) -> Callable[[web.Request], Awaitable[bool]]:
    """Whether a request comes from this machine itself, not through the sidecar, or from an admin."""

    async def inside(request: web.Request) -> bool:
        actor = await authenticate(request)
        if actor is not None:
            return actor.role in INSIDERS
        if isinstance(request.transport and request.transport.get_extra_info("sockname"), str):
            return True
        remote = request.remote or ""
        try:
            return ipaddress.ip_address(remote).is_loopback and "X-Forwarded-For" not in request.headers
        except ValueError:
            return False

    return inside


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
        several = settings.WORKER_PROCESSES > 1
        await web.TCPSite(runner, settings.HOST, settings.PORT, backlog=1024, reuse_port=several or None).start()
        if (socket := own_socket()) is not None:
            await web.UnixSite(runner, str(socket)).start()
        log.info("serving", address=str(runner.addresses[0]), environment=settings.ENVIRONMENT, pid=os.getpid())
        await stopping.wait()
        log.info("stopping", within_ms=settings.SHUTDOWN_TIMEOUT)
    finally:
        await runner.cleanup()
        if (socket := own_socket()) is not None:
            socket.unlink(missing_ok=True)
    log.info("stopped")
