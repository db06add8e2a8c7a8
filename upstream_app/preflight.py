"""What has to be so before a release: each line ok, or what is wrong and how to mend it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo.errors import PyMongoError
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from upstream_app import mongo, redis
from upstream_app.app import Stores
from upstream_app.schema import Schema
from upstream_app.settings import DEVELOPMENT_REFRESH_SECRET, DEVELOPMENT_SECRET, Settings

DEADLINE = 10.0
SKEW_SECONDS = 2.0
Check = Callable[[], Awaitable[str]]


class Wrong(Exception):
    """What is wrong, and how to mend it."""


async def preflight(settings: Settings) -> list[tuple[str, str, bool]]:
    """Name, words, and whether it is good; every check runs, whatever the others say."""
    client, store = mongo.connect(settings), redis.connect(settings)
    checks: list[tuple[str, Check]] = [
        ("secrets", lambda: _secrets(settings)),
        ("database", lambda: _database(client)),
        ("migrations", lambda: _migrations(client)),
        ("indexes", lambda: _indexes(client)),
        ("redis", lambda: _redis(store)),
        ("redis memory", lambda: _memory(store)),
        ("clock", lambda: _clock(store)),
    ]
    told = []
    try:
        for name, check in checks:
            try:
                async with asyncio.timeout(DEADLINE):
                    told.append((name, await check(), True))
            except Wrong as wrong:
                told.append((name, str(wrong), False))
            except TimeoutError:
                told.append(
                    (name, f"no answer within {DEADLINE:g} s: is the server up, and may this machine reach it?", False)
                )
            except PyMongoError as error:
                told.append((name, f"MongoDB: {str(error)[:160]}. Check MONGODB_URI", False))
            except (RedisError, OSError) as error:
                told.append((name, f"Redis: {str(error)[:160]}. Check REDIS_URL or REDIS_CLUSTER_NODES", False))
    finally:
        await client.close()
        await store.aclose()
    return told


async def _secrets(settings: Settings) -> str:
    used = {settings.JWT_SECRET.get_secret_value(), settings.JWT_REFRESH_SECRET.get_secret_value()}
    if used & {DEVELOPMENT_SECRET.get_secret_value(), DEVELOPMENT_REFRESH_SECRET.get_secret_value()}:
        raise Wrong("a laptop's secret: set JWT_SECRET and JWT_REFRESH_SECRET (make secrets makes them)")
    return "of your own"


async def _database(client: mongo.Client) -> str:
    hello = await client.admin.command("hello")
    if not hello.get("setName") and not hello.get("msg") == "isdbgrid":
        raise Wrong("a single server: transactions and majority writes need a replica set (rs.initiate())")
    members = len(hello.get("hosts", []))
    if hello.get("setName") and members < 3:
        raise Wrong(f"the replica set {hello['setName']} has {members} members: three survive the loss of one")
    return f"replica set {hello.get('setName', 'sharded')}, {members} members, primary {hello.get('primary', '-')}"


async def _migrations(client: mongo.Client) -> str:
    database = mongo.database(client)
    wanted = Schema(database, ()).steps
    done = {row["_id"] async for row in database["migrations"].find({}, {"_id": 1})}
    missing = [f"{version} {name}" for version, (name, _) in wanted.items() if version not in done]
    if missing:
        raise Wrong(f"not taken: {', '.join(missing)}. Run: simplepro-app migrate")
    return f"all {len(wanted)} taken"


async def _indexes(client: mongo.Client) -> str:
    missing, count = [], 0
    for collection in Stores.of(mongo.database(client)).all:
        there = await collection.raw.index_information()
        for model in collection.indexes:
            count += 1
            name = model.document["name"]
            if name not in there:
                missing.append(f"{collection.raw.name}.{name}")
    if missing:
        raise Wrong(f"missing: {', '.join(missing)}. Run: simplepro-app migrate")
    return f"all {count} there"


async def _redis(store: redis.Client) -> str:
    if isinstance(store, RedisCluster):
        await store.initialize()
        told: Any = await store.execute_command("CLUSTER INFO", target_nodes=store.get_random_node())
        info = next(iter(told.values())) if isinstance(told, dict) and "cluster_state" not in told else told
        if info.get("cluster_state") != "ok":
            raise Wrong(f"the cluster's state is {info.get('cluster_state')}: see redis-cli --cluster check")
        masters = len(store.get_primaries())
        if len(store.get_replicas()) < masters:
            raise Wrong(f"{masters} masters have {len(store.get_replicas())} replicas: each needs one")
        return f"cluster of {len(store.get_nodes())}, {masters} masters"
    await store.ping()
    return "one server answers"


async def _memory(store: redis.Client) -> str:
    nodes: Any = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(store, RedisCluster) else {}
    told: Any = await store.execute_command("CONFIG GET", "maxmemory-policy", **nodes)
    found = next(iter(told.values())) if isinstance(told, dict) and "maxmemory-policy" not in told else told
    policy = found.get("maxmemory-policy") if isinstance(found, dict) else found[1]
    if policy != "noeviction":
        raise Wrong(f"maxmemory-policy is {policy}: sessions and limits would be thrown away; set noeviction")
    return "noeviction: nothing is thrown away"


async def _clock(store: redis.Client) -> str:
    began = time.time()
    nodes: Any = {"target_nodes": store.get_random_node()} if isinstance(store, RedisCluster) else {}
    told: Any = await store.execute_command("TIME", **nodes)
    pair = next(iter(told.values())) if isinstance(told, dict) else told
    there = int(pair[0]) + int(pair[1]) / 1e6
    skew = there - (began + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        raise Wrong(f"{skew:+.1f} s beside Redis's: run NTP on both, tokens end by this clock")
    return f"{skew * 1000:+.0f} ms beside Redis's"
