"""simplepro-app run · migrate · seed · indexes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import uvloop
from pymongo.errors import PyMongoError

from upstream_app import __version__, logs, mongo, seed, settings, workers
from upstream_app.app import Stores, serve
from upstream_app.auth.passwords import Passwords
from upstream_app.schema import Schema

Result = TypeVar("Result")


@click.group()
@click.version_option(__version__)
def main() -> None:
    """SimplePro, a moving company's CRM. Settings come from the environment."""


def _settings() -> settings.Settings:
    try:
        chosen = settings.read(os.environ)
    except settings.InvalidSettings as error:
        click.echo(f"the environment does not do:\n{error}", err=True)
        sys.exit(1)
    logs.configure(chosen.LOG_LEVEL)
    return chosen


@main.command()
@click.option("--worker", is_flag=True, hidden=True)
def run(worker: bool) -> None:
    """Serve until SIGTERM, with WORKER_PROCESSES processes."""
    chosen = _settings()
    if chosen.WORKER_PROCESSES > 1 and not worker:
        sys.exit(asyncio.run(workers.supervise(chosen.WORKER_PROCESSES, chosen.SHUTDOWN_TIMEOUT / 1000 + 5)))
    try:
        uvloop.run(serve(chosen))
    except OSError as error:
        click.echo(f"can't listen on {chosen.HOST}:{chosen.PORT}: {error.strerror}. Choose another: PORT", err=True)
        sys.exit(1)


@main.command()
def migrate() -> None:
    """Collections, indexes and validators: the steps that were not taken yet."""
    chosen = _settings()

    async def go() -> list[str]:
        client = mongo.connect(chosen)
        try:
            database = mongo.database(client)
            return await Schema(database, Stores.of(database).all).migrate()
        finally:
            await client.close()

    for line in _tried(go()) or ["nothing to do"]:
        click.echo(line)


@main.command("seed")
def seed_() -> None:
    """200 customers with what belongs to them, and one user a role. Refused in production."""
    chosen = _settings()
    if chosen.ENVIRONMENT == "production":
        click.echo("no seed data in production: ENVIRONMENT (or NODE_ENV) says production", err=True)
        sys.exit(1)

    async def go() -> tuple[list[str], int]:
        client, passwords = mongo.connect(chosen), Passwords()
        try:
            database = mongo.database(client)
            stores = Stores.of(database)
            await Schema(database, stores.all).migrate()
            made = await seed.users(stores.users, passwords)
            count = await seed.everything(
                stores.customers, stores.opportunities, stores.estimates, stores.jobs, stores.users
            )
            return made, count
        finally:
            passwords.close()
            await client.close()

    made, count = _tried(go())
    click.echo(f"{len(made)} users ({', '.join(made) or 'all were there'}), {count} customers")


@main.command()
def indexes() -> None:
    """How often each index was used since the database started; the unused ones cost writes and memory."""
    chosen = _settings()

    async def go() -> list[str]:
        client = mongo.connect(chosen)
        lines = []
        try:
            for collection in Stores.of(mongo.database(client)).all:
                rows = await (await collection.raw.aggregate([{"$indexStats": {}}])).to_list(100)
                for row in rows:
                    used = row["accesses"]["ops"]
                    lines.append(f"{collection.raw.name}.{row['name']}: {used}{'' if used else '  unused'}")
        finally:
            await client.close()
        return lines

    for line in _tried(go()):
        click.echo(line)


def _tried(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except PyMongoError as error:
        click.echo(f"the database does not answer as it should: {str(error)[:300]}. Check MONGODB_URI", err=True)
        sys.exit(1)
