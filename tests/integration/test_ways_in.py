"""Ways in and out besides a plain port: PROXY heads, Unix sockets, systemd's sockets, names that lead elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.policy.findings import PolicyError
from proxy.proxy_protocol import LOCAL, Source, parse, written
from tests.certificates import authority, certificate
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, echo, read_request

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PROXIED = ", proxy_protocol: true"


def forwarded_for(said: bytes) -> bytes:
    [line] = [one for one in said.lower().split(b"\r\n") if one.startswith(b"x-forwarded-for: ")]
    return line.removeprefix(b"x-forwarded-for: ")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("client", ["203.0.113.9", "2001:db8::9"])
async def test_who_a_trusted_balancer_names_is_the_client(
    serve: Start, upstream: ScriptedUpstream, version: str, client: str
) -> None:
    served = await serve(
        upstream.port,
        listener_more=PROXIED,
        trusted='["127.0.0.0/8"]',
        limits="{each: {limit: 2/1h, key: [ip]}}",
    )
    for cut in (1, 13, 0):
        wire = await served.connect()
        data = written(version, client, "127.0.0.1") + GET
        wire.send(data[:cut])
        await asyncio.sleep(0)
        wire.send(data[cut:])
        status, _, said = await wire.answer()
        assert (status, forwarded_for(said) if status == 200 else b"") == (
            (200, client.encode()) if cut else (429, b"")
        ), "and its limit is counted under that name"


async def test_a_balancer_that_speaks_for_itself_is_who_it_is(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, listener_more=PROXIED, trusted='["127.0.0.0/8"]')
    for version in ("v1", "v2"):
        status, _, said = await served.ask(LOCAL[version] + GET)
        assert (status, forwarded_for(said)) == (200, b"127.0.0.1")


async def test_others_can_say_no_such_thing(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, listener_more=PROXIED, trusted='["10.0.0.0/8"]')
    assert (await served.ask(GET))[0] == 200
    assert (await served.ask(written("v1", "203.0.113.9", "127.0.0.1") + GET))[0] == 400


@pytest.mark.parametrize("first", [GET, b"PROXY TCP4 1.2.3.4\r\n", b"\x16\x03\x01\x02\x00", b""])
async def test_without_its_head_a_trusted_connection_is_closed_and_counted(
    serve: Start, upstream: ScriptedUpstream, first: bytes
) -> None:
    served = await serve(upstream.port, listener_more=PROXIED, trusted='["127.0.0.0/8"]')
    wire = await served.connect()
    wire.send(first)
    if not first:
        wire.half_close()
    with contextlib.suppress(ConnectionError):
        assert await wire.rest() == b""
    stats = served.proxy.listener.stats
    await until(lambda: stats.rejections["listener.proxy_protocol", "malformed-request", "enforce"] == 1)
    assert upstream.connections == 0


async def test_a_head_that_does_not_come_holds_nobody_up(
    serve: Start, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.listener.door.PROXY_HEAD_SECONDS", 0.2)
    served = await serve(upstream.port, listener_more=PROXIED, trusted='["127.0.0.0/8"]')
    slow = [await served.connect() for _ in range(50)]
    for wire in slow:
        wire.send(b"PRO")
    assert (await served.ask(written("v1", "203.0.113.9", "127.0.0.1") + GET))[0] == 200
    for wire in slow:
        try:
            assert await wire.rest() == b""
        except ConnectionError:
            continue


async def test_a_head_before_tls(serve: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    ours = authority(tmp_path, "ca")
    certificate(tmp_path, "app", ours, names=["app.test"])
    tls = f", tls: {{certificates: [{{cert: {tmp_path}/app.pem, key: {tmp_path}/app.key}}]}}"
    served = await serve(upstream.port, listener_more=PROXIED + tls, trusted='["127.0.0.0/8"]')
    with socket.create_connection(("127.0.0.1", served.proxy.listener.port)) as sock:
        sock.sendall(written("v2", "203.0.113.9", "127.0.0.1"))
        sock.setblocking(False)
        context = ssl.create_default_context(cafile=str(ours.file))
        wire = Wire(*await asyncio.open_connection(sock=sock.dup(), ssl=context, server_hostname="app.test"))
    wire.send(GET)
    status, _, said = await wire.answer()
    assert (status, forwarded_for(said)) == (200, b"203.0.113.9")
    assert b"x-forwarded-proto: https" in said.lower()
    wire.close()


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_an_upstream_is_told_of_the_client_before_each_request(serve: Start, version: str) -> None:
    heads: list[Source | None] = []

    async def script(reader: Reader, writer: Writer) -> None:
        data = b""
        while (head := parse(data) if data else None) is None:
            data += await reader.readexactly(1)
        heads.append(head.source)
        _, body = await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await reader.read() == b"", "one request a connection"

    async with ScriptedUpstream() as upstream:
        upstream.script = script
        cluster = f'"127.0.0.1:{upstream.port}"], proxy_protocol: {version}}}'
        served = await serve(upstream.port, cluster=cluster, trusted='["127.0.0.0/8"]')
        wire = await served.connect()
        for client, body in (("203.0.113.9", b""), ("203.0.113.10", b"x" * 100_000)):
            wire.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nContent-Length: %d\r\n\r\n"
                % (client.encode(), len(body)) + body
            )  # fmt: skip
            status, _, said = await wire.answer()
            assert (status, said) == (200, body)
        assert heads == [Source("203.0.113.9", 0), Source("203.0.113.10", 0)]


@pytest.fixture
async def unix_upstream(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "app.sock"
    running: set[asyncio.Task[None]] = set()

    async def script(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await echo(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(script, path)
    yield path
    server.close()
    await asyncio.gather(*running, return_exceptions=True)


async def test_unix_sockets_on_both_sides(serve: Start, unix_upstream: Path, tmp_path: Path) -> None:
    door, admin = tmp_path / "door.sock", tmp_path / "admin.sock"
    served = await serve(
        0,
        address=f"unix:{door}",
        cluster=f'"unix:{unix_upstream}"], health: {{path: /health, interval: 50ms}}}}',
        admin_address=f"unix:{admin}",
    )
    assert door.stat().st_mode & 0o777 == 0o660, "who may come in is the folder's and the group's to say"
    wire = Wire(*await asyncio.open_unix_connection(door))
    for _ in range(2):
        wire.send(GET)
        status, fields, said = await wire.answer()
        assert (status, fields["x-content-type-options"]) == (200, "nosniff")
        assert said.startswith(b"GET / HTTP/1.1")
    wire.close()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as session,
        session.get("http://127.0.0.1/readyz") as answer,
    ):
        assert answer.status == 200
    await served.proxy.stop(0)
    assert not door.exists(), "the address is given back"


async def test_a_socket_file_that_nobody_serves_is_taken_over_and_another_is_not(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    door = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(door))
    await serve(upstream.port, address=f"unix:{door}")
    with pytest.raises(OSError, match="in use"):
        await serve(upstream.port, address=f"unix:{door}")
    wire = Wire(*await asyncio.open_unix_connection(door))
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    wire.close()
    other = tmp_path / "data"
    other.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await serve(upstream.port, address=f"unix:{other}")
    assert other.read_text() == "precious"
    with pytest.raises(PolicyError, match="is not a Unix socket"):
        await serve(upstream.port, address=f"unix:/{'x' * 120}")


async def test_an_upstream_socket_that_is_not_there_is_told(serve: Start, tmp_path: Path) -> None:
    served = await serve(0, cluster=f'"unix:{tmp_path}/none.sock"]}}')
    status, _, said = await served.ask(GET)
    assert status == 503
    assert json.loads(said)["detail"] == "the upstream accepts no connection"


async def test_ipv6_both_ways(serve: Start) -> None:
    server = await asyncio.start_server(_one_echo, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    served = await serve(port, address="[::1]:0", cluster=f'"[::1]:{port}"]}}')
    wire = Wire(*await asyncio.open_connection("::1", served.proxy.listener.port))
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    status, _, said = await wire.answer()
    assert (status, forwarded_for(said)) == (200, b"::1")
    wire.close()
    server.close()


async def _one_echo(reader: Reader, writer: Writer) -> None:
    head, _ = await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(head) + head)
    writer.close()


ACTIVATED = """
import os, socket, sys
for number, name in enumerate(("http", "admin")):
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen(16)
    print(one.getsockname()[1], flush=True)
    os.dup2(one.fileno(), 100 + number)
os.dup2(100, 3)
os.dup2(101, 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="http:admin")
os.execv(sys.executable, [sys.executable, "-m", "proxy", "run", "--policy", sys.argv[1]])
"""


async def test_sockets_that_systemd_opened_are_served(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text((Path(__file__).parents[2] / "config" / "minimal.yaml").read_text())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ACTIVATED, str(policy), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PROXY_PORT": "1", "ADMIN_PORT": "1", "UPSTREAM": f"127.0.0.1:{upstream.port}"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port, admin = [int(await asyncio.wait_for(process.stdout.readline(), 10)) for _ in range(2)]
        wire = await Wire.connect(port)
        wire.send(GET)
        assert (await wire.answer())[0] == 200, "who came before it was there was kept waiting, not refused"
        wire.close()
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{admin}/readyz") as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


class Names:
    """Stands for DNS: what getaddrinfo answers of `app.test`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []

        async def look_up(host: str, port: int, family: int) -> set[str]:
            assert (host, port > 0) == ("app.test", True)
            kinds = {one: socket.AF_INET6 if ":" in one else socket.AF_INET for one in self.addresses}
            found = {one for one, kind in kinds.items() if family in (socket.AF_UNSPEC, kind)}
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return found

        monkeypatch.setattr("proxy.upstream.resolver.look_up", look_up)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


class Behind:
    """One port that servers at several loopback addresses answer with their own address."""

    def __init__(self) -> None:
        self.port = 0
        self.servers: dict[str, asyncio.Server] = {}

    async def add(self, address: str) -> None:
        async def script(reader: Reader, writer: Writer) -> None:
            try:
                while True:
                    await read_request(reader)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(address), address.encode()))
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(script, address, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self.servers[address] = server


async def ask(served: Served) -> str:
    status, _, said = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    return said.decode() if status == 200 else str(status)


async def test_a_name_is_looked_up_again_and_every_address_used(serve: Start, names: Names) -> None:
    behind = Behind()
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        await behind.add(address)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    served = await serve(
        0, cluster=f'"app.test:{behind.port}"], dns: {{refresh: 50ms}}, timeouts: {{idle: 1s, connect: 2s}}}}'
    )
    wires = [await served.connect() for _ in range(8)]
    for wire in wires:
        wire.send(GET)
    assert {(await wire.answer())[2] for wire in wires} == {b"127.0.0.2", b"127.0.0.3"}
    names.addresses = ["127.0.0.4"]
    [endpoint] = served.proxy.compiled.clusters["app"].endpoints
    assert endpoint.pool.resolver is not None
    resolver = endpoint.pool.resolver
    await until(lambda: resolver.addresses == ("127.0.0.4",))
    await until(lambda: endpoint.pool.idle == 0)
    assert await ask(served) == "127.0.0.4", "connections to where the name led before are left"
    names.addresses = []
    await until(lambda: resolver.failures > 0)
    assert await ask(served) == "127.0.0.4", "while nobody answers, the last answer holds"
    for server in behind.servers.values():
        server.close()


async def test_an_address_that_takes_no_connection_is_passed_over(serve: Start, names: Names) -> None:
    behind = Behind()
    await behind.add("127.0.0.2")
    names.addresses = ["::1", "127.0.0.9", "127.0.0.2"]
    served = await serve(0, cluster=f'"app.test:{behind.port}"], dns: {{refresh: 1h}}}}')
    wires = [await served.connect() for _ in range(6)]
    for wire in wires:
        wire.send(GET)
    assert [(await wire.answer())[0] for wire in wires] == [200] * 6
    for server in behind.servers.values():
        server.close()


async def test_a_name_that_leads_nowhere_is_told_and_found_once_it_does(serve: Start, names: Names) -> None:
    behind = Behind()
    await behind.add("127.0.0.2")
    served = await serve(0, cluster=f'"app.test:{behind.port}"], dns: {{refresh: 50ms, family: v4}}}}')
    assert await ask(served) == "503"
    names.addresses = ["::1"]
    assert await ask(served) == "503", "of another family than the policy asks for"
    names.addresses = ["127.0.0.2"]
    assert await ask(served) == "127.0.0.2"
    for server in behind.servers.values():
        server.close()
