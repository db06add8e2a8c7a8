"""A connection that the server closes while a command is written is a lost connection, on uvloop too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from stack import servers
from stack.process import ServerProcess
from upstream_app import redis
from upstream_app.settings import Settings


@pytest.mark.parametrize("cluster", [False, True])
async def test_a_closed_transport_is_a_lost_connection(tmp_path: Path, cluster: bool) -> None:
    port = servers.free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(servers.free_port())) if cluster else ()
    valkey = ServerProcess(servers.valkey(port, tmp_path, *options))
    await valkey.start()
    settings = Settings(REDIS_URL=f"redis://127.0.0.1:{port}", REDIS_CLUSTER_MODE=cluster)
    client = redis.connect(settings)
    try:
        if cluster:
            node: Any = next(iter(client.nodes_manager.startup_nodes.values()))  # type: ignore[union-attr]
            connection: Any = node.connection_class(host="127.0.0.1", port=port, socket_timeout=2)
        else:
            connection = await client.connection_pool.get_connection()  # type: ignore[union-attr]
        assert type(connection).__name__ == "SteadyConnection"
        await connection.connect()
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(RedisConnectionError):
            await connection.send_packed_command([b"PING\r\n"], check_health=False)
        await connection.disconnect(nowait=True)
    finally:
        await client.aclose()
        await valkey.stop()


async def test_the_listener_has_it_too() -> None:
    client = redis.listener(Settings())
    assert client.connection_pool.connection_class is redis.SteadyConnection
    tls = redis.listener(Settings(REDIS_URL="rediss://127.0.0.1"))
    assert tls.connection_pool.connection_class is redis.SteadyTls
    await client.aclose()
    await tls.aclose()
