"""Whether the database answered, which its breaker is told."""

from __future__ import annotations

import asyncio

import pytest
from pymongo.errors import OperationFailure

from upstream_app import mongo, settings

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_only_an_answer_is_an_answer(mongo_port: int) -> None:
    uri = f"mongodb://127.0.0.1:{mongo_port}/asked"
    client = mongo.connect(settings.read({"MONGODB_URI": uri, "MONGODB_MIN_POOL_SIZE": "0"}))
    try:
        asked = mongo.asking()
        assert not asked.answered
        with pytest.raises(OperationFailure):
            await client.admin.command("noSuchCommand")
        assert not asked.answered
        await asyncio.create_task(client.admin.command("ping"))
        assert asked.answered
        assert not mongo.asking().answered
    finally:
        await client.close()
