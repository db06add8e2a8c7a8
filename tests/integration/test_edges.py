"""What a second reading found: each was wrong once, over real sockets."""

from __future__ import annotations

import asyncio
import socket

import orjson
import pytest

from proxy.listener.server import SWEEP_SECONDS
from tests.conftest import Served, Start
from tests.wire import Reader, ScriptedUpstream, Writer, read_request


class Recorder:
    """Answers every request with 200 and the lines that a test gives it; keeps the heads."""

    def __init__(self, lines: bytes = b"", status: bytes = b"200 OK", body: bytes = b"ok") -> None:
        self.heads: list[bytes] = []
        self.lines, self.status, self.body = lines, status, body

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            self.heads.append(head)
            framing = b"Content-Length: %d\r\n" % len(self.body)
            writer.write(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (self.status, self.lines, framing, self.body))


@pytest.fixture
def recorder(upstream: ScriptedUpstream) -> Recorder:
    upstream.script = made = Recorder()
    return made


async def test_a_refused_bodys_bytes_are_never_a_request(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    served = await serve(upstream.port, match="{prefix: /}", max_body_route="100")
    wire = await served.connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n" + b"x" * 200)
    assert (await wire.answer())[0] == 413
    padding = b"GET /padded HTTP/1.1\r\nHost: a\r\nX-Pad: "
    padding += b"y" * (200 - len(padding))
    wire.send(padding + b"GET /smuggled HTTP/1.1\r\nX-B: b\r\n\r\n")
    assert (await wire.answer())[0] == 200
    assert [head.split(b" ")[1] for head in recorder.heads] == [b"/padded"]


async def test_connect_with_a_path_goes_nowhere(serve: Start, upstream: ScriptedUpstream, recorder: Recorder) -> None:
    served = await serve(upstream.port)
    assert (await served.ask(b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n"))[0] in (400, 501)
    assert recorder.heads == []


async def test_pipelined_requests_are_answered_after_a_half_close(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(5)))
    wire.half_close()
    answers = await wire.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == 5
    assert [head.split(b" ")[1] for head in recorder.heads] == [b"/%d" % number for number in range(5)]


@pytest.mark.parametrize(
    "request_line", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]
)
async def test_a_slow_reader_gets_all_of_an_answer_that_closes(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder, request_line: bytes
) -> None:
    recorder.body = b"z" * 6_000_000
    served = await serve(upstream.port)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", served.proxy.listener.port))
    await loop.sock_sendall(sock, request_line)
    await asyncio.sleep(1.0 + 3 * SWEEP_SECONDS)
    size = 0
    while data := await loop.sock_recv(sock, 65536):
        size += len(data)
    sock.close()
    assert size > 6_000_000


async def test_a_client_that_never_reads_its_answers_end_is_let_go(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    recorder.body = b"z" * 3_000_000
    served = await serve(upstream.port, timeouts="{idle: 200ms, write_stall: 300ms}")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", served.proxy.listener.port))
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(5):
        while not recorder.heads:
            await asyncio.sleep(0.01)
        while served.proxy.listener.open_connections:
            await asyncio.sleep(0.05)
    sock.close()


async def test_an_answer_waits_upstream_where_its_client_does_not_read(
    serve: Start, upstream: ScriptedUpstream
) -> None:
    written = 0

    async def endless(reader: Reader, writer: Writer) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    upstream.script = endless
    served = await serve(upstream.port)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", served.proxy.listener.port))
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    before = -1
    async with asyncio.timeout(10):
        while before != written or not written:
            before = written
            await asyncio.sleep(0.2)
    (connection,) = served.proxy.listener._connections
    assert connection._transport.get_write_buffer_size() < 1_000_000
    sock.close()


async def by_size(reader: Reader, writer: Writer) -> None:
    """Answer with as many bytes as the path says."""
    while True:
        head, _ = await read_request(reader)
        size = int(head.split(b" ", 2)[1][1:])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()


async def a_client_that_does_not_read(served: Served) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.proxy.listener.port))
    async with asyncio.timeout(5):
        while not served.proxy.listener.open_connections:
            await asyncio.sleep(0)
    (connection,) = served.proxy.listener._connections
    connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return sock


@pytest.mark.parametrize("size", [80_000, 110_000, 140_000, 180_000, 220_000])
async def test_a_client_that_does_not_read_leaves_a_connection_that_the_next_can_use(
    serve: Start, upstream: ScriptedUpstream, size: int
) -> None:
    upstream.script = by_size
    served = await serve(upstream.port)
    sock = await a_client_that_does_not_read(served)
    await asyncio.get_running_loop().sock_sendall(sock, b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
    async with asyncio.timeout(5):
        while not upstream.connections:
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert (await served.ask(b"GET /5 HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200
            await asyncio.sleep(0.005)
    sock.close()


async def test_no_pipelined_request_begins_before_its_client_reads(serve: Start, upstream: ScriptedUpstream) -> None:
    begun = 0

    async def counted(reader: Reader, writer: Writer) -> None:
        nonlocal begun
        while True:
            await read_request(reader)
            begun += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 80000\r\n\r\n" + b"x" * 80_000)
            await writer.drain()

    upstream.script = counted
    served = await serve(upstream.port)
    sock = await a_client_that_does_not_read(served)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
    before = -1
    async with asyncio.timeout(10):
        while before != begun or not begun:
            before = begun
            await asyncio.sleep(0.2)
    assert begun <= 3
    size = 0
    async with asyncio.timeout(20):
        while size < 20 * 80_000:
            size += len(await loop.sock_recv(sock, 65536))
    sock.close()
    assert begun == 20


@pytest.mark.parametrize("before", [2, 3])
async def test_an_answer_that_begins_while_its_client_does_not_read_waits_upstream(
    serve: Start, upstream: ScriptedUpstream, before: int
) -> None:
    """Each needs a connection of its own: so it is not there yet when the client turns out not to read."""

    async def closing(reader: Reader, writer: Writer) -> None:
        head, _ = await read_request(reader)
        size = int(head.split(b" ", 2)[1][1:])
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await writer.drain()

    upstream.script = closing
    served = await serve(upstream.port)
    sock = await a_client_that_does_not_read(served)
    (connection,) = served.proxy.listener._connections
    small = b"GET /60000 HTTP/1.1\r\nHost: a\r\n\r\n"
    large = b"GET /30000000 HTTP/1.1\r\nHost: a\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(sock, small * before + large)
    seen = -1
    async with asyncio.timeout(10):
        while seen != (size := connection._transport.get_write_buffer_size()) or not size:
            seen = size
            await asyncio.sleep(0.2)
    assert size < 1_000_000
    sock.close()


async def test_draining_ends_a_connection_once_its_client_has_read(serve: Start, upstream: ScriptedUpstream) -> None:
    upstream.script = by_size
    served = await serve(upstream.port)
    sock = await a_client_that_does_not_read(served)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"GET /80000 HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(5):
        while not upstream.connections:
            await asyncio.sleep(0.01)
    await served.settled_upstream()
    draining = asyncio.create_task(served.proxy.listener.drain(5.0))
    size = 0
    while data := await loop.sock_recv(sock, 65536):
        size += len(data)
    sock.close()
    assert size > 80_000
    assert await draining


async def test_http_10_is_told_by_a_reset_that_an_answer_broke_off(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await wire.rest()


@pytest.mark.parametrize(("lines", "client", "scheme", "host"), [
    (b"Forwarded: for=1.1.1.1, for=unknown\r\n", "127.0.0.1", "http", "app.test"),
    (b'Forwarded: for=6.6.6.6, for="_hidden"\r\n', "127.0.0.1", "http", "app.test"),
    (b'Forwarded: for="[2001:db8::7]:4711";proto=https;host=pub.example\r\n', "2001:db8::7", "https", "pub.example"),
    (b"Forwarded: for=1.1.1.1;proto=https, for=10.0.0.1;proto=http\r\n", "1.1.1.1", "https", "app.test"),
    (b"Forwarded: for=1.1.1.1;;rubbish=\"\r\n", "127.0.0.1", "http", "app.test"),
    (b"X-Forwarded-For: 1.1.1.1, unknown\r\n", "127.0.0.1", "http", "app.test"),
    (b"X-Forwarded-For: 1.1.1.1, 10.0.0.1\r\nX-Forwarded-Proto: https,http\r\n", "1.1.1.1", "https", "app.test"),
    (b"X-Forwarded-For: 9.9.9.9, 1.1.1.1\r\nX-Forwarded-Proto: https\r\n", "1.1.1.1", "https", "app.test"),
    (b"X-Forwarded-For: 9.9.9.9, 1.1.1.1\r\nX-Forwarded-Proto: https, http\r\n", "1.1.1.1", "http", "app.test"),
    (b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: pub.example\r\n", "127.0.0.1", "https", "pub.example"),
])  # fmt: skip
async def test_what_trusted_proxies_say(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder, lines: bytes, client: str, scheme: str, host: str
) -> None:
    served = await serve(upstream.port, trusted="[127.0.0.0/8, 10.0.0.0/8]")
    await served.ask(b"GET / HTTP/1.1\r\nHost: app.test\r\n" + lines + b"\r\n")
    head = recorder.heads[0].decode()
    first = head.split("x-forwarded-for: ")[1].split("\r\n")[0].split(", ")[0]
    assert (first, f"x-forwarded-proto: {scheme}\r\n" in head, f"x-forwarded-host: {host}\r\n" in head) == (
        client, True, True,
    )  # fmt: skip


async def test_a_handshake_may_have_two_connection_fields(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    served = await serve(upstream.port)
    await served.ask(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nConnection: keep-alive\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in recorder.heads[0]


async def test_no_length_where_there_is_no_body(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
        )

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [(status, "content-length" in fields) for status, fields in (await wire.head(), await wire.head())] == [
        (103, False), (204, False),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [b"X-Real-IP", b"X-CSP-Nonce", b"True-Client-Ip", b"X-Request-Timeout"])
async def test_what_the_proxy_asserts_comes_in_no_trailer(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder, name: bytes
) -> None:
    served = await serve(upstream.port)
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%b: 1\r\n\r\n" % name
    assert (await served.ask(request))[0] == 400


@pytest.mark.parametrize(("accept", "media"), [
    (b"text/html;q=0.1, application/json;q=0, text/plain", "text/plain; charset=utf-8"),
    (b"text/html, application/xhtml+xml, */*;q=0.8", "text/html; charset=utf-8"),
    (b"application/json, text/html;q=0.9", "application/problem+json"),
    (b"*/*", "application/problem+json"),
    (b"image/png", "application/problem+json"),
])  # fmt: skip
async def test_a_refusal_comes_as_the_client_likes_it_best(
    serve: Start, upstream: ScriptedUpstream, accept: bytes, media: str
) -> None:
    served = await serve(upstream.port)
    _, fields, _ = await served.ask(b"GET /a//b HTTP/1.1\r\nHost: a\r\nAccept: " + accept + b"\r\n\r\n")
    assert fields["content-type"] == media


async def test_an_upstream_grants_no_credentials_that_the_policy_denies(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    recorder.lines = b"Access-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Private-Network: true\r\n"
    served = await serve(upstream.port, policies='{cors: {origins: ["*"]}}')
    _, fields, _ = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n\r\n")
    assert [name for name in fields if name.startswith("access-control")] == [
        "access-control-allow-origin", "access-control-expose-headers",
    ]  # fmt: skip


async def test_answers_without_an_origin_vary_by_it_too(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    served = await serve(upstream.port, policies='{cors: {origins: ["https://a.example"]}}')
    _, fields, _ = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert fields["vary"] == "Origin"


NONCE = '{{security_headers: {{{mode}csp: {{script-src: ["\'self\'", "{{nonce}}"]}}}}}}'


async def test_refusals_before_any_chain_have_a_nonce_of_their_own(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies=NONCE.format(mode=""))
    policies = [
        (await served.ask(b"GET /a//b HTTP/1.1\r\nHost: a\r\n\r\n"))[1]["content-security-policy"] for _ in "ab"
    ]
    nonces = [policy.split("'nonce-")[1].split("'")[0] for policy in policies]
    assert len(set(nonces)) == 2
    assert all(len(nonce) > 16 for nonce in nonces)


async def test_a_shadowing_rule_offers_no_nonce(serve: Start, upstream: ScriptedUpstream, recorder: Recorder) -> None:
    served = await serve(upstream.port, policies=NONCE.format(mode="mode: shadow, "))
    await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"nonce" not in recorder.heads[0]


async def test_hsts_goes_out_over_tls_alone_and_can_be_left_out(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    recorder.lines = b"Strict-Transport-Security: max-age=1\r\n"
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: %b\r\n\r\n"

    async def told(served: Served, scheme: bytes) -> str | None:
        return (await served.ask(request % scheme))[1].get("strict-transport-security")

    keeping = await serve(upstream.port, trusted="[127.0.0.0/8]", policies="{security_headers: {upstream: keep}}")
    assert (await told(keeping, b"http"), await told(keeping, b"https")) == (None, "max-age=1")
    without = "{security_headers: {headers: {strict-transport-security: null}, csp: {upgrade-insecure-requests: null}}}"
    recorder.lines = b""
    none = await serve(upstream.port, trusted="[127.0.0.0/8]", policies=without)
    _, fields, _ = await none.ask(request % b"https")
    assert "strict-transport-security" not in fields
    assert "upgrade-insecure-requests" not in fields["content-security-policy"]


async def test_tracestate_goes_with_its_traceparent_alone(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder
) -> None:
    served = await serve(upstream.port)
    good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    later = b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"
    for parent in (good, later, b"00-bad"):
        await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nTraceparent: %b\r\nTracestate: a=1\r\n\r\n" % parent)
    wanted = (b"traceparent: " + good, b"traceparent: " + later, b"tracestate: a=1")
    assert [tuple(line in head for line in wanted) for head in recorder.heads] == [
        (True, False, True), (False, True, True), (False, False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("request_bytes", "status"), [
    (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: [:::::]\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
    (b"GET http://a/ HTTP/1.0\r\n\r\n", 200),
    (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", 204),
])  # fmt: skip
async def test_request_lines_and_hosts(
    serve: Start, upstream: ScriptedUpstream, recorder: Recorder, request_bytes: bytes, status: int
) -> None:
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(request_bytes)
    assert (await wire.head())[0] == status


async def test_a_token_that_is_no_utf8_is_refused_like_any_other(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, token="the-token-of-this-test")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.proxy.admin.port)
    writer.write(b"GET /routes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401")


async def test_requests_without_a_route_are_counted(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, match="{prefix: /there}")
    status, _, body = await served.ask(b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, orjson.loads(body)["rule"]) == (404, "routes")
    text = served.proxy.metrics.expose().decode()
    assert 'proxy_requests_total{route="-",status="404"} 1.0' in text
    assert 'proxy_upstream_pool_total{cluster="app",' in text
