"""Backups of the database as files: written whole or not at all, kept for so long, and read back by a drill.

A backup is a folder of gzipped BSON, one file a collection, and a manifest with counts and digests, written last. On a
replica set all collections are read from one snapshot.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import bson
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConfigurationError, OperationFailure

from upstream_app.mongo import Client, Database, Document

FORMAT = 1
MANIFEST = "manifest.json"
NAMED = re.compile(r"\d{8}T\d{6}Z")
BATCH = 500
SPAN = re.compile(r"(\d+)([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class BackupError(Exception):
    """What is wrong with a backup, or with where it should go; the text says how to mend it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One backup; `counts` are documents by collection, `snapshot` whether all are of one moment."""

    folder: Path
    counts: dict[str, int]
    snapshot: bool


def span(text: str) -> timedelta:
    """`30d`, `12h`. Raises ValueError."""
    found = SPAN.fullmatch(text)
    if not found or not int(found[1]):
        raise ValueError(f"{text} is no time: write 30d, 12h, 90m or 60s")
    return timedelta(seconds=int(found[1]) * SECONDS[found[2]])


def existing(folder: Path) -> list[Path]:
    """Whole backups there, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if NAMED.fullmatch(one.name) and (one / MANIFEST).exists())


@asynccontextmanager
async def _snapshot(client: Client) -> AsyncIterator[AsyncClientSession | None]:
    """One moment of all collections, where the server can."""
    session = client.start_session(snapshot=True)
    try:
        try:
            await client.get_default_database("simplepro")["migrations"].find_one({}, session=session)
        except (ConfigurationError, OperationFailure):
            yield None
        else:
            yield session
    finally:
        await session.end_session()


async def take(client: Client, database: Database, folder: Path, at: datetime | None = None) -> Taken:
    """Raises BackupError where the folder can't be written to, or has a backup of this second."""
    moment = at or datetime.now(UTC)
    target = folder / moment.strftime("%Y%m%dT%H%M%SZ")
    if target.exists():
        raise BackupError(f"{target} is there already: wait a second")
    partial = folder / f".{target.name}.partial"
    _make(partial)
    try:
        session_kind, files = await _write_all(client, database, partial)
        manifest = {
            "format": FORMAT, "database": database.name, "at": moment.isoformat(), "snapshot": session_kind,
            "collections": files,
        }  # fmt: skip
        _durable(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
        os.replace(partial, target)
    except OSError as error:
        raise BackupError(f"the backup could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Taken(target, {name: one["documents"] for name, one in files.items()}, session_kind)


def _make(partial: Path) -> None:
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as error:
        what = f"{partial.parent} can't be written to: {error.strerror}. Give a folder of this user's"
        raise BackupError(what) from None


async def _write_all(client: Client, database: Database, folder: Path) -> tuple[bool, dict[str, dict[str, Any]]]:
    files: dict[str, dict[str, Any]] = {}
    async with _snapshot(client) as session:
        for name in sorted(await database.list_collection_names()):
            if not name.startswith("system."):
                files[name] = await _write(database, name, folder / f"{name}.bson.gz", session)
        return session is not None, files


async def _write(database: Database, name: str, path: Path, session: AsyncClientSession | None) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    with gzip.open(path, "wb", compresslevel=6) as out:
        async for document in database[name].find({}, session=session).sort("_id", 1).batch_size(BATCH):
            data = bson.encode(document)
            digest.update(data)
            out.write(data)
            count += 1
    _sync(path)
    return {"documents": count, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def _durable(path: Path, data: bytes) -> None:
    with open(path, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def expire(folder: Path, keep: timedelta, at: datetime | None = None) -> list[Path]:
    """Delete what is older, but never the last one; which were."""
    oldest = (at or datetime.now(UTC)) - keep
    gone = []
    for one in existing(folder)[:-1]:
        if datetime.strptime(one.name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) < oldest:
            shutil.rmtree(one)
            gone.append(one)
    return gone


def manifest_of(folder: Path) -> dict[str, Any]:
    """Raises BackupError where there is none that this version reads."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise BackupError(f"{folder} is no backup: it has no readable {MANIFEST}") from None
    if manifest.get("format") != FORMAT:
        raise BackupError(f"{folder} has format {manifest.get('format')}; this version reads {FORMAT}")
    return dict(manifest)


def _documents(path: Path, wanted: str) -> Iterator[Document]:
    """Each document of a file. Raises BackupError at its end where the digest is another, or where it can't be read."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as source:
            for document in bson.decode_file_iter(cast(BinaryIO, source)):
                digest.update(bson.encode(document))
                yield document
    except (OSError, EOFError, zlib.error, bson.errors.BSONError) as error:
        raise BackupError(f"{path} can't be read: {type(error).__name__}. Use an older backup") from None
    if digest.hexdigest() != wanted:
        raise BackupError(f"{path} is not what was written: its digest differs. Use an older backup")


async def restore(database: Database, folder: Path) -> dict[str, int]:
    """Into an empty database; documents by collection. Every file is read to its digest before the first is written.
    Raises BackupError, and leaves it empty then."""
    manifest = manifest_of(folder)
    there = [name for name in await database.list_collection_names() if not name.startswith("system.")]
    if there:
        raise BackupError(f"the database {database.name} is not empty: name another one (--into), or drop it first")
    for name, about in manifest["collections"].items():
        for _ in _documents(folder / f"{name}.bson.gz", about["sha256"]):
            pass
    counts: dict[str, int] = {}
    try:
        for name, about in manifest["collections"].items():
            counts[name] = await _fill(database, name, folder / f"{name}.bson.gz", about["sha256"])
            if counts[name] != about["documents"]:
                raise BackupError(f"{name} has {counts[name]} documents, and {about['documents']} were written")
    except BaseException:
        for name in await database.list_collection_names():
            await database.drop_collection(name)
        raise
    return counts


async def _fill(database: Database, name: str, path: Path, wanted: str) -> int:
    batch: list[Document] = []
    count = 0
    for document in _documents(path, wanted):
        batch.append(document)
        if len(batch) == BATCH:
            await database[name].insert_many(batch)
            count += len(batch)
            batch = []
    if batch:
        await database[name].insert_many(batch)
        count += len(batch)
    return count


async def drill(client: Client, folder: Path, scratch: str) -> tuple[Path, dict[str, int]]:
    """Restore the newest backup into a database of its own, compare every document's digest, and drop it again. Raises
    BackupError."""
    backups = existing(folder)
    if not backups:
        raise BackupError(f"there is no backup in {folder}. Run: simplepro-app backup {folder}")
    database = client[scratch]
    try:
        counts = await restore(database, backups[-1])
        manifest = manifest_of(backups[-1])
        for name, about in manifest["collections"].items():
            digest = hashlib.sha256()
            async for document in database[name].find({}).sort("_id", 1).batch_size(BATCH):
                digest.update(bson.encode(document))
            if digest.hexdigest() != about["sha256"]:
                raise BackupError(f"{name} reads otherwise after the restore than when it was written")
        return backups[-1], counts
    finally:
        await client.drop_database(scratch)


async def every(seconds: float, once: Any) -> None:
    """`once()` now, and again each so many seconds; an error of one is its own affair."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await once()
        due = max(due + seconds, loop.time())
        await asyncio.sleep(due - loop.time())
