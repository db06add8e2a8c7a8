"""TLS on both sides: who may speak how, whose certificate is shown, who a client is, and files that change."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.policy.findings import PolicyError
from tests.certificates import Authority, authority, certificate
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.wire import ScriptedUpstream, Wire, echo

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """An authority, and `app`'s certificate of it."""
    made = authority(tmp_path, "ca")
    certificate(tmp_path, "app", made, names=["app.test"])
    return made


def listening(folder: Path, *names: str, more: str = "") -> str:
    pairs = ", ".join(f"{{cert: {folder}/{name}.pem, key: {folder}/{name}.key}}" for name in names)
    return f", tls: {{certificates: [{pairs}]{more}}}"


def trusting(ca: Authority, own: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca.file))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if own is not None:
        context.load_cert_chain(own.with_suffix(".pem"), own.with_suffix(".key"))
    return context


async def connect(served: Served, context: ssl.SSLContext, name: str = "app.test") -> Wire:
    async with asyncio.timeout(5):
        return Wire(
            *await asyncio.open_connection("127.0.0.1", served.proxy.listener.port, ssl=context, server_hostname=name)
        )


async def shown(served: Served, ca: Authority, name: str) -> str:
    """The common name of the certificate that who asks for that server name is shown."""
    context = trusting(ca)
    context.check_hostname = False
    wire = await connect(served, context, name)
    subject = dict(pair for part in wire.writer.get_extra_info("peercert")["subject"] for pair in part)
    wire.close()
    return str(subject["commonName"])


async def test_requests_go_through_and_are_known_as_https(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"))
    wire = await connect(served, trusting(ours))
    assert wire.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert wire.writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    for body in (b"", b"x" * 300_000):
        wire.send(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status, fields, said = await wire.answer()
        assert status == 200
        assert b"x-forwarded-proto: https\r\n" in said.lower()
        assert said.endswith(body)
        assert "strict-transport-security" in fields
    wire.send(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
    assert (await wire.answer())[0] == 200
    assert await wire.rest() == b""
    wire.close()


async def test_a_client_that_says_no_more_still_gets_its_answer_or_an_end(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    """TLS has no half-close here: an early refusal of a body ends the connection after the answer."""
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"), max_body_route="10B")
    wire = await connect(served, trusting(ours))
    wire.send(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 500)
    assert (await wire.answer())[0] == 413
    assert await wire.rest() == b""
    wire.close()


async def test_only_good_versions_and_ciphers_are_spoken(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"))

    def old(ciphers: str, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = trusting(ours)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = version
            context.maximum_version = version
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        return context

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(served, old("ALL", version))
    spoken, refused = set(), set()
    names = {one["name"] for one in old("ALL:COMPLEMENTOFALL", ssl.TLSVersion.TLSv1_2).get_ciphers()}
    for name in sorted(one for one in names if not one.startswith("TLS_")):
        try:
            wire = await connect(served, old(name, ssl.TLSVersion.TLSv1_2))
        except (ssl.SSLError, ConnectionError):
            refused.add(name)
        else:
            spoken.add(name)
            wire.close()
    assert spoken == {
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
    }  # fmt: skip
    assert {"ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256", "NULL-SHA256"} <= refused


async def test_a_policy_may_ask_for_the_newest_version(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app", more=', min_version: "1.3"'))
    context = trusting(ours)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(served, context)
    wire = await connect(served, trusting(ours))
    wire.close()


async def test_who_does_not_speak_tls_is_left_and_others_are_served(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"))
    plain = await served.connect()
    plain.send(GET)
    assert not (await plain.rest()).startswith(b"HTTP")
    wire = await connect(served, trusting(ours))
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    wire.close()
    await served.settled()


async def test_the_certificate_is_chosen_by_the_name_that_is_asked_for(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    certificate(tmp_path, "other", ours, names=["other.test"])
    certificate(tmp_path, "wild", ours, names=["*.wild.test"])
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app", "other", "wild"))
    asked = ["app.test", "other.test", "OTHER.test", "a.wild.test", "a.b.wild.test", "wild.test", "unknown.test"]
    assert [await shown(served, ours, name) for name in asked] == [
        "app", "other", "other", "wild", "app", "app", "app",
    ]  # fmt: skip


CLIENTS = ", client: {{ca: {}, require: {}}}"
KNOWN = 'identity: {certificates: {allowed: ["spiffe://test/billing"], claims: {"spiffe://test/billing": {role: x}}}}'


async def test_clients_are_known_by_their_certificates(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    certificate(tmp_path, "billing", ours, names=["billing.test"], uri="spiffe://test/billing")
    certificate(tmp_path, "guest", ours)
    served = await serve(
        upstream.port,
        listener_more=listening(tmp_path, "app", more=CLIENTS.format(ours.file, "true")),
        more=KNOWN,
        limits="{each: {limit: 2/1h, key: [certificate]}}",
    )
    wire = await connect(served, trusting(ours, tmp_path / "billing"))
    forged = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://test/admin\r\n\r\n"
    wire.send(forged)
    status, _, said = await wire.answer()
    assert status == 200
    [told] = [line for line in said.lower().split(b"\r\n") if line.startswith(b"x-forwarded-client-cert")]
    assert b'subject="cn=billing";uri=spiffe://test/billing;dns=billing.test' in told
    assert b"spiffe://test/admin" not in told
    wire.send(GET + GET)
    assert [(await wire.answer())[0] for _ in range(2)] == [200, 429]
    wire.close()
    guest = await connect(served, trusting(ours, tmp_path / "guest"))
    guest.send(GET)
    assert (await guest.answer())[0] == 200, "another certificate has a bucket of its own"
    guest.close()


@pytest.mark.parametrize("kind", ["none", "a stranger's"])
async def test_without_a_good_certificate_nobody_comes_in(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority, kind: str
) -> None:
    certificate(tmp_path, "stranger", authority(tmp_path, "strange"))
    served = await serve(
        upstream.port, listener_more=listening(tmp_path, "app", more=CLIENTS.format(ours.file, "true"))
    )
    own = None if kind == "none" else tmp_path / "stranger"

    async def come_in() -> None:
        wire = await connect(served, trusting(ours, own))
        wire.send(GET)
        await wire.answer()

    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await come_in()
    assert upstream.connections == 0
    await served.settled()


async def test_a_certificate_may_be_optional_and_identity_still_ask_for_one(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    certificate(tmp_path, "billing", ours, uri="spiffe://test/billing")
    certificate(tmp_path, "guest", ours)
    served = await serve(
        upstream.port,
        listener_more=listening(tmp_path, "app", more=CLIENTS.format(ours.file, "false")),
        more=KNOWN.replace("allowed", "required: true, allowed"),
    )
    for own, expected in ((None, 401), (tmp_path / "guest", 401), (tmp_path / "billing", 200)):
        wire = await connect(served, trusting(ours, own))
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: URI=spiffe://test/billing\r\n\r\n")
        status, _, said = await wire.answer()
        assert status == expected
        assert status == 200 or b"a client certificate is needed" in said
        wire.close()


async def test_a_renewed_certificate_is_served_and_nobody_is_refused(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"))
    old = await connect(served, trusting(ours))
    number = old.writer.get_extra_info("peercert")["serialNumber"]
    certificate(tmp_path, "new", ours, names=["app.test"], hours=50)
    for suffix in ("key", "pem"):
        shutil.move(tmp_path / f"new.{suffix}", tmp_path / f"app.{suffix}")
    async with asyncio.timeout(10):
        while True:
            wire = await connect(served, trusting(ours))
            now = wire.writer.get_extra_info("peercert")["serialNumber"]
            wire.send(GET)
            assert (await wire.answer())[0] == 200
            wire.close()
            if now != number:
                break
    old.send(GET)
    assert (await old.answer())[0] == 200, "who is connected stays so"
    old.close()
    url = f"http://127.0.0.1:{served.proxy.admin.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    ends = float(text.split(f'not_after_timestamp_seconds{{file="{tmp_path}/app.pem"}} ')[1].split("\n")[0])
    assert ends == served.proxy.listener.certificates[0].not_after.timestamp()


async def test_a_renewal_that_cannot_be_used_is_told_once_and_the_old_one_served(
    serve: Start,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    ours: Authority,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.listener.server.CERTIFICATE_SECONDS", 0.02)
    served = await serve(upstream.port, listener_more=listening(tmp_path, "app"))
    (tmp_path / "app.pem").write_text("-----BEGIN CERTIFICATE-----\nnot quite\n")
    await until(lambda: served.proxy.listener.certificates_refused > 0)
    wire = await connect(served, trusting(ours))
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    wire.close()
    certificate(tmp_path, "app", ours, names=["app.test"])
    await until(lambda: "are served now" in caplog.text or not served.proxy.listener._door.stale)
    assert [record.message for record in caplog.records].count(
        next(record.message for record in caplog.records if "are not served" in record.message)
    ) == 1
    assert served.proxy.listener.certificates_refused == 1


async def test_files_that_do_not_do_are_findings(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    certificate(tmp_path, "other", ours)
    pair = f", tls: {{certificates: [{{cert: {tmp_path}/app.pem, key: {tmp_path}/other.key}}]}}"
    with pytest.raises(PolicyError, match="the key belongs to another certificate"):
        await serve(upstream.port, listener_more=pair)
    with pytest.raises(PolicyError, match=r"gone\.pem can't be read: No such file"):
        await serve(upstream.port, listener_more=listening(tmp_path, "gone"))
    with pytest.raises(PolicyError, match="a redirect leads to TLS"):
        await serve(upstream.port, listener_more=', redirect: {address: "127.0.0.1:0"}')
    (tmp_path / "ca-broken.pem").write_text("nothing")
    with pytest.raises(PolicyError, match="holds no certificates"):
        await serve(
            upstream.port,
            listener_more=listening(tmp_path, "app", more=CLIENTS.format(tmp_path / "ca-broken.pem", "true")),
        )


async def test_plain_http_is_sent_to_tls(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, ours: Authority
) -> None:
    served = await serve(
        upstream.port,
        listener_more=listening(tmp_path, "app") + ', redirect: {address: "127.0.0.1:0", port: 8443}',
    )
    wire = await Wire.connect(served.proxy.listener.redirect_port)
    for host, target, location in (
        (b"app.test:80", b"/a?b=c%20d", "https://app.test:8443/a?b=c%20d"),
        (b"[::1]:80", b"/", "https://[::1]:8443/"),
    ):
        wire.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
        status, fields, _ = await wire.answer()
        assert (status, fields["location"]) == (308, location)
    wire.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await wire.answer())[0] == 400
    wire.close()
    assert upstream.connections == 0


@pytest.fixture
async def sockets_app() -> AsyncIterator[int]:
    async def talk(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(f"{request.headers['X-Forwarded-Proto']} {message.data}")
        return answer

    app = web.Application()
    app.router.add_get("/", talk)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


async def test_websockets_over_tls(serve: Start, sockets_app: int, tmp_path: Path, ours: Authority) -> None:
    served = await serve(
        sockets_app,
        listener_more=listening(tmp_path, "app"),
        policies="{}",
        route_more="websocket: true",
    )
    url = f"wss://127.0.0.1:{served.proxy.listener.port}/"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, ssl=trusting(ours)) as ws:
        for size in (1, 70_000):
            await ws.send_str("x" * size)
            assert await ws.receive_str(timeout=5) == "https " + "x" * size
        await ws.close()
        assert ws.close_code == 1000
    await served.settled()


@pytest.fixture
def secured(tmp_path: Path, ours: Authority) -> ssl.SSLContext:
    """A server's context, which wants clients' certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "app.pem", tmp_path / "app.key")
    context.load_verify_locations(ours.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def behind(serve: Start, context: ssl.SSLContext, tls: str, health: str = "") -> tuple[Served, asyncio.Server]:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await echo(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    cluster = f'"127.0.0.1:{port}"], tls: {{{tls}}}{health}, timeouts: {{connect: 2s, wait: 2s}}}}'
    return await serve(port, cluster=cluster), server


async def test_upstreams_are_asked_by_tls_and_checked(
    serve: Start, secured: ssl.SSLContext, tmp_path: Path, ours: Authority
) -> None:
    asked: list[str] = []
    seen: list[object] = []

    def hear(wrapped: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked.append(name or "")
        seen.append(wrapped)

    secured.sni_callback = hear
    certificate(tmp_path, "us", ours)
    pair = f"certificate: {{cert: {tmp_path}/us.pem, key: {tmp_path}/us.key}}"
    served, server = await behind(serve, secured, f"ca: {ours.file}, server_name: app.test, {pair}")
    assert (await served.ask(GET))[0] == 200
    assert asked == ["app.test"]
    told = seen[0].getpeercert()  # type: ignore[attr-defined]
    assert told["subject"] == ((("commonName", "us"),),)
    server.close()


@pytest.mark.parametrize(
    ("tls", "status"),
    [
        ("ca: FOLDER/ca.pem", 200),
        ("verify: false", 200),
        ("verify: true", 503),
        ("ca: FOLDER/stranger.pem", 503),
        ("ca: FOLDER/ca.pem, server_name: another.test", 503),
    ],
)
async def test_an_upstream_that_is_not_who_it_says_gets_nothing(
    serve: Start,
    secured: ssl.SSLContext,
    tmp_path: Path,
    ours: Authority,
    tls: str,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority(tmp_path, "stranger")
    served, server = await behind(serve, secured, tls.replace("FOLDER", str(tmp_path)))
    answer, _, said = await served.ask(GET)
    assert answer == status
    assert status == 200 or b"TLS with the upstream fails" in said
    assert status == 200 or "TLS fails" in caplog.text
    server.close()


async def test_health_is_asked_by_tls_too(
    serve: Start, secured: ssl.SSLContext, tmp_path: Path, ours: Authority
) -> None:
    health = ", health: {path: /health, interval: 50ms}"
    served, server = await behind(serve, secured, f"ca: {ours.file}", health)
    [endpoint] = served.proxy.compiled.clusters["app"].endpoints
    await until(lambda: endpoint.healthy)
    assert (await served.ask(GET))[0] == 200
    server.close()
