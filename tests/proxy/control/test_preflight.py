"""What preflight says of what is so and of what is not: over real connections."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from proxy.control.preflight import can_listen, preflight
from proxy.policy.load import load
from stack.process import ServerProcess
from tests.certificates import authority, certificate
from tests.integration.conftest import valkey
from tests.wire import ScriptedUpstream

__all__ = ["valkey"]

POLICY = """
version: 1
listener: {{address: "{address}"{listener}}}
admin: {{address: "127.0.0.1:0"}}
access_log: {{enabled: false}}
{more}
clusters: {{app: {{endpoints: ["{endpoint}"]{cluster}}}}}
policies: {{all: {{}}}}
defaults: {{use: [all]}}
routes: {{everything: {{match: {{prefix: /}}, to: app}}}}
"""


async def lines(
    folder: Path,
    endpoint: str,
    *,
    address: str = "127.0.0.1:0",
    listener: str = "",
    more: str = "",
    cluster: str = "",
) -> dict[str, tuple[str, bool]]:
    path = folder / "policy.yaml"
    path.write_text(POLICY.format(address=address, listener=listener, more=more, endpoint=endpoint, cluster=cluster))
    policy = load(path, {})
    told = [*await preflight(policy), can_listen(policy)]
    return {name: (words, good) for name, words, good in told}


async def test_what_is_there_is_good(
    tmp_path: Path, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    told = await lines(tmp_path, f"127.0.0.1:{upstream.port}", more=f'redis: {{url: "redis://127.0.0.1:{valkey[1]}"}}')
    assert {name: good for name, (_, good) in told.items()} == {
        "files": True, "cluster app": True, "redis": True, "clock": True, "listener": True,
    }  # fmt: skip
    assert "took a connection" in told["cluster app"][0]


async def test_what_is_not_there_is_told_each(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    told = await lines(tmp_path, "127.0.0.1:1", address=f"127.0.0.1:{port}", more='redis: {url: "redis://127.0.0.1:1"}')
    assert {name for name, (_, good) in told.items() if not good} == {"cluster app", "redis", "clock", "listener"}
    assert "is it up, and is the address right?" in told["redis"][0]
    assert "in use" in told["listener"][0]
    taken.close()


async def test_an_upstream_by_tls_is_checked_as_requests_would_be(tmp_path: Path) -> None:
    ours = authority(tmp_path, "ca")
    certificate(tmp_path, "app", ours, names=["app.test"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "app.pem", tmp_path / "app.key")
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    good = await lines(tmp_path, endpoint, cluster=f", tls: {{ca: {ours.file}, server_name: app.test}}")
    assert good["cluster app"][1]
    wrong = await lines(tmp_path, endpoint, cluster=f", tls: {{ca: {ours.file}, server_name: other.test}}")
    assert "TLS fails" in wrong["cluster app"][0]
    assert "tls.server_name" in wrong["cluster app"][0]
    server.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    none = await lines(tmp_path, f"unix:{path}", address=f"unix:{tmp_path}/door.sock")
    assert not none["cluster app"][1]
    assert none["listener"][1]
    server = await asyncio.start_unix_server(lambda _r, w: w.close(), path)
    there = await lines(tmp_path, f"unix:{path}", address=f"unix:{path}")
    assert there["cluster app"][1]
    assert not there["listener"][1]
    server.close()


@pytest.mark.parametrize(("days", "good"), [(13, False), (15, True)])
async def test_certificates_that_end_soon(tmp_path: Path, days: int, good: bool) -> None:
    certificate(tmp_path, "app", authority(tmp_path, "ca"), hours=days * 24 + 1)
    tls = f", tls: {{certificates: [{{cert: {tmp_path}/app.pem, key: {tmp_path}/app.key}}]}}"
    words, fine = (await lines(tmp_path, "127.0.0.1:1", listener=tls))["certificates"]
    assert fine is good
    assert ("renew it" in words) is not good
