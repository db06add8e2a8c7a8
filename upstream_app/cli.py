"""simplepro-app run · migrate · seed · indexes · backup · restore · restore-drill · preflight."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop
from pymongo.errors import PyMongoError

from upstream_app import __version__, backup, logs, mongo, seed, settings, workers
from upstream_app import preflight as checks
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
    faulthandler.enable()
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

    async def go() -> list[tuple[str, int]]:
        client = mongo.connect(chosen)
        lines: list[tuple[str, int]] = []
        try:
            for collection in Stores.of(mongo.database(client)).all:
                rows = await (await collection.raw.aggregate([{"$indexStats": {}}])).to_list(100)
                for row in rows:
                    used = row["accesses"]["ops"]
                    lines.append((f"{collection.raw.name}.{row['name']}", int(used)))
        finally:
            await client.close()
        return lines

    found = _tried(go())
    if found and not any(used for _, used in found):
        click.echo("this server counts no use of indexes: ask one that does (MongoDB does) before any is dropped")
    for name, used in found:
        click.echo(f"{name}: {used}{'  unused' if not used and any(count for _, count in found) else ''}")


@main.command("backup")
@click.option("--keep", default="30d", show_default=True, help="How long backups are kept; the newest always is.")
@click.option("--every", "pause", default="", help="Again each so often (1d), until SIGTERM.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def backup_(keep: str, pause: str, folder: Path) -> None:
    """Write the database to FOLDER, one folder a backup, and delete what is older than --keep."""
    chosen = _settings()
    try:
        kept, seconds = backup.span(keep), backup.span(pause).total_seconds() if pause else 0.0
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    async def once() -> None:
        client = mongo.connect(chosen)
        try:
            taken = await backup.take(client, mongo.database(client), folder)
        finally:
            await client.close()
        gone = backup.expire(folder, kept)
        moment = "of one moment" if taken.snapshot else "collection by collection: this server has no snapshots"
        more = f"; {len(gone)} older ones deleted" if gone else ""
        click.echo(f"{taken.folder}: {sum(taken.counts.values())} documents, {moment}{more}")

    async def patient() -> None:
        try:
            await once()
        except (PyMongoError, backup.BackupError) as error:
            click.echo(f"no backup this time: {str(error)[:200]}", err=True)

    _backed_up(backup.every(seconds, patient) if seconds else once())


@main.command()
@click.option("--into", default="", help="Another database than MONGODB_URI's; it has to be empty.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def restore(into: str, folder: Path) -> None:
    """Read one backup (the FOLDER that `backup` named) into an empty database."""
    chosen = _settings()

    async def go() -> dict[str, int]:
        client = mongo.connect(chosen)
        try:
            database = client[into] if into else mongo.database(client)
            counts = await backup.restore(database, folder)
            await Schema(database, Stores.of(database).all).migrate()
            return counts
        finally:
            await client.close()

    counts = _backed_up(go())
    click.echo(f"{sum(counts.values())} documents in {len(counts)} collections")


@main.command("restore-drill")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def restore_drill(folder: Path) -> None:
    """Prove that the newest backup in FOLDER can be read: restore it into a database of its own, compare each document,
    drop it."""
    chosen = _settings()

    async def go() -> tuple[Path, dict[str, int]]:
        client = mongo.connect(chosen)
        try:
            return await backup.drill(client, folder, f"{mongo.database(client).name}_drill_{os.getpid()}")
        finally:
            await client.close()

    used, counts = _backed_up(go())
    click.echo(f"{used}: {sum(counts.values())} documents came back as they were written")


def _backed_up(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return _tried(work)
    except backup.BackupError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


@main.command()
def preflight() -> None:
    """Before a release: environment, database, migrations, indexes, Redis, clock; exit status 0 all good, 1 not."""
    told = asyncio.run(checks.preflight(_settings()))
    for name, words, good in told:
        click.echo(f"{'ok   ' if good else 'WRONG'}  {name:13} {words}")
    sys.exit(0 if all(good for _, _, good in told) else 1)


def _tried(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except PyMongoError as error:
        click.echo(f"the database does not answer as it should: {str(error)[:300]}. Check MONGODB_URI", err=True)
        sys.exit(1)
