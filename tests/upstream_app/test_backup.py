"""Backups, their restore, and the drill that proves them: on a real server."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from bson import ObjectId
from click.testing import CliRunner
from pymongo import AsyncMongoClient

from upstream_app import backup
from upstream_app.cli import main
from upstream_app.mongo import Client, Database

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def client(mongo_port: int) -> AsyncIterator[Client]:
    made: Client = AsyncMongoClient(f"mongodb://127.0.0.1:{mongo_port}/?directConnection=true", tz_aware=True)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def database(client: Client) -> AsyncIterator[Database]:
    name = f"backup-{uuid.uuid4().hex[:8]}"
    made = client[name]
    await made["jobs"].insert_many(
        [{"_id": ObjectId(), "number": n, "at": datetime.now(UTC), "ü": None} for n in range(1200)]
    )
    await made["users"].insert_one({"_id": 1, "name": "ann"})
    yield made
    await client.drop_database(name)


async def test_what_is_written_comes_back(client: Client, database: Database, tmp_path: Path) -> None:
    taken = await backup.take(client, database, tmp_path)
    assert taken.counts == {"jobs": 1200, "users": 1}
    assert backup.existing(tmp_path) == [taken.folder]
    other = client[f"{database.name}-other"]
    try:
        assert await backup.restore(other, taken.folder) == {"jobs": 1200, "users": 1}
        before = await database["jobs"].find({}).sort("_id", 1).to_list(2000)
        assert await other["jobs"].find({}).sort("_id", 1).to_list(2000) == before
        with pytest.raises(backup.BackupError, match="is not empty"):
            await backup.restore(other, taken.folder)
    finally:
        await client.drop_database(other.name)


async def test_the_drill_proves_and_leaves_nothing(client: Client, database: Database, tmp_path: Path) -> None:
    with pytest.raises(backup.BackupError, match="there is no backup"):
        await backup.drill(client, tmp_path, "drill")
    taken = await backup.take(client, database, tmp_path)
    scratch = f"{database.name}-drill"
    assert await backup.drill(client, tmp_path, scratch) == (taken.folder, taken.counts)
    assert scratch not in await client.list_database_names()


@pytest.mark.parametrize("harm", ["a byte", "a key", "its end", "other documents"])
async def test_a_damaged_backup_is_told_and_nothing_is_left(
    client: Client, database: Database, tmp_path: Path, harm: str
) -> None:
    taken = await backup.take(client, database, tmp_path)
    path = taken.folder / "jobs.bson.gz"
    data = path.read_bytes()
    if harm == "a key":
        documents = gzip.decompress(data)
        at = len(documents) // 1200
        with gzip.open(path, "wb") as out:
            out.write(documents[:at] + documents[:at] + documents[at * 2 :])
    elif harm == "a byte":
        path.write_bytes(data[:500] + bytes([data[500] ^ 0xFF]) + data[501:])
    elif harm == "its end":
        path.write_bytes(data[:-200])
    else:
        with gzip.open(path, "wb") as out:
            out.write(gzip.decompress((taken.folder / "users.bson.gz").read_bytes()))
    scratch = f"{database.name}-drill"
    with pytest.raises(backup.BackupError, match=r"jobs\.bson\.gz"):
        await backup.drill(client, tmp_path, scratch)
    assert scratch not in await client.list_database_names()


async def test_one_that_was_not_finished_is_none(client: Client, database: Database, tmp_path: Path) -> None:
    taken = await backup.take(client, database, tmp_path)
    (taken.folder / backup.MANIFEST).unlink()
    assert backup.existing(tmp_path) == []
    with pytest.raises(backup.BackupError, match="is no backup"):
        await backup.restore(client["x"], taken.folder)


async def test_old_ones_go_and_the_last_stays(tmp_path: Path) -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    for days in (40, 31, 29, 1):
        made = tmp_path / (now - timedelta(days=days)).strftime("%Y%m%dT%H%M%SZ")
        made.mkdir()
        (made / backup.MANIFEST).write_text("{}")
    left = backup.existing(tmp_path)[2:]
    assert len(backup.expire(tmp_path, timedelta(days=30), now)) == 2
    assert backup.existing(tmp_path) == left
    assert len(backup.expire(tmp_path, timedelta(seconds=1), now)) == 1
    assert backup.existing(tmp_path) == left[1:], "the newest stays however old it is"


async def test_a_folder_that_can_t_be_written_to(client: Client, database: Database) -> None:
    with pytest.raises(backup.BackupError, match="can't be written to"):
        await backup.take(client, database, Path("/proc/backups"))


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("1s", 1)])
async def test_spans(text: str, seconds: int) -> None:
    assert backup.span(text).total_seconds() == seconds
    with pytest.raises(ValueError, match="is no time"):
        backup.span(text.upper())


async def test_the_commands(client: Client, database: Database, tmp_path: Path, mongo_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{mongo_port}/{database.name}?directConnection=true"
    environment = {"MONGODB_URI": uri, "MONGODB_MIN_POOL_SIZE": "0"}

    def ran(*arguments: str) -> tuple[int, str]:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the commands have an event loop of their own
            done = pool.submit(CliRunner().invoke, main, list(arguments), env=environment).result()
        return done.exit_code, done.output

    code, said = ran("backup", str(tmp_path))
    assert code == 0, said
    assert "1201 documents, " in said
    code, said = ran("restore-drill", str(tmp_path))
    assert (code, "1201 documents came back as they were written" in said) == (0, True), said
    [made] = backup.existing(tmp_path)
    code, said = ran("restore", str(made))
    assert (code, "is not empty" in said) == (1, True), said
    other = f"{database.name}-other"
    code, said = ran("restore", "--into", other, str(made))
    assert (code, said) == (0, "1201 documents in 2 collections\n")
    await client.drop_database(other)
    code, said = ran("backup", "--keep", "soon", str(tmp_path))
    assert (code, "soon is no time" in said) == (2, True), said
    assert json.loads((made / backup.MANIFEST).read_text())["collections"]["jobs"]["documents"] == 1200
