"""The store over TLS: only a server that the policy's authority vouches for is spoken to, to decide and to listen."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.policy.findings import PolicyError
from stack.process import ServerProcess
from tests.certificates import authority, certificate
from tests.conftest import Start
from tests.integration.conftest import until
from tests.wire import ScriptedUpstream

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def secured(tmp_path: Path, valkey: tuple[ServerProcess, int]) -> AsyncIterator[int]:
    """The real server behind TLS that wants the client's certificate, too."""
    ours = authority(tmp_path, "ca")
    certificate(tmp_path, "server", ours)
    certificate(tmp_path, "client", ours)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_REQUIRED
    running: set[asyncio.Task[None]] = set()
    ends: set[asyncio.StreamWriter] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey[1])
        both = {asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(there, writer))}
        running.update(both)
        ends.update((writer, back))

    server = await asyncio.start_server(splice, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for end in ends:
        end.transport.abort()
    await asyncio.gather(*running)


def policy(
    port: int, folder: Path, ca: str = "ca", mine: str = "cert_file: FOLDER/client.pem, key_file: FOLDER/client.key"
) -> str:
    files = f"ca_file: {folder}/{ca}.pem, {mine.replace('FOLDER', str(folder))}"
    return f'redis: {{url: "rediss://127.0.0.1:{port}", timeout: 500ms, {files}}}\n'


async def test_decided_and_told_over_tls(
    serve: Start, upstream: ScriptedUpstream, secured: int, tmp_path: Path
) -> None:
    limits = "{few: {limit: 3/1h}}"
    one, other = [
        await serve(upstream.port, more=policy(secured, tmp_path), limits=limits, policies="{bans: {}}")
        for _ in range(2)
    ]
    assert [(await pod.ask(GET))[0] for pod in (one, other, one, other)] == [200, 200, 200, 429]
    assert one.proxy.limiting is not None
    assert one.proxy.limiting.decisions == {"redis": 2, "local": 0, "remembered": 0}
    await until(lambda: all(pod.proxy.fleet is not None and pod.proxy.fleet.listening for pod in (one, other)))
    one.proxy.compiled.ban_list.ban("ip:127.0.0.1", "test", 60, 60, 0)
    await until(lambda: bool(other.proxy.shared.bans.facts))
    assert (await other.ask(GET))[0] == 403


@pytest.mark.parametrize("wrong", ["another authority", "no certificate of ours"])
async def test_who_cannot_be_trusted_is_not_spoken_to(
    serve: Start, upstream: ScriptedUpstream, secured: int, tmp_path: Path, wrong: str
) -> None:
    authority(tmp_path, "stranger")
    more = (
        policy(secured, tmp_path, ca="stranger") if wrong == "another authority" else policy(secured, tmp_path, mine="")
    )
    served = await serve(upstream.port, more=more, limits="{few: {limit: 2/1h}}")
    assert [(await served.ask(GET))[0] for _ in range(3)] == [200, 200, 429]
    assert served.proxy.degraded
    assert served.proxy.limiting is not None
    assert served.proxy.limiting.decisions == {"redis": 0, "local": 3, "remembered": 0}


async def test_files_that_do_not_do_are_findings(serve: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="certificates can't be used: No such file"):
        await serve(upstream.port, more=policy(1, tmp_path))
    with pytest.raises(PolicyError, match="certificates are for TLS"):
        await serve(upstream.port, more=policy(1, tmp_path).replace("rediss:", "redis:"))
