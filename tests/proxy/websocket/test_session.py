"""A WebSocket through the proxy: strict on both sides, ended in good order, and asked again while it is open."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from proxy.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame
from tests.conftest import Start
from tests.integration.conftest import until
from tests.proxy.filters.conftest import HANDSHAKE
from tests.proxy.filters.test_identity import JWT, bearer
from tests.proxy.upstream.test_resilience import app
from tests.proxy.websocket.conftest import Application, connect, handshake, part
from tests.wire import ScriptedUpstream


async def test_messages_and_control_frames_pass_as_they_came(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.say("hello")
    socket.say(b"\0\xff" * 40_000, BINARY)
    socket.raw(part(TEXT, b"fr") + frame(PING, b"in between", masked=True) + part(0, b"ag", end=True))
    heard = [await application.heard() for _ in range(5)]
    assert heard == [
        (0x81, b"hello"), (0x82, b"\0\xff" * 40_000), (0x01, b"fr"), (0x89, b"in between"), (0x80, b"ag"),
    ]  # fmt: skip
    application.say(frame(PONG, b"in between", masked=False) + frame(TEXT, "é".encode(), masked=False))
    assert [await socket.heard() for _ in range(2)] == [(0x8A, b"in between"), (0x81, "é".encode())]
    stats = served.proxy.listener.routes.routes[0].stats.sockets
    assert (stats.open, stats.messages_in, stats.messages_out) == (1, 3, 1)


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (4001, "mine"), (1005, "")])
async def test_a_close_is_carried_through(
    serve: Start, upstream: ScriptedUpstream, application: Application, code: int, reason: str
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    payload = b"" if code == 1005 else code.to_bytes(2) + reason.encode()
    socket.say(payload, CLOSE)
    assert await application.heard() == (0x88, payload)
    assert await socket.heard() == (0x88, payload)
    assert await socket.wire.rest() == b""
    await served.settled()
    assert served.proxy.listener.routes.routes[0].stats.sockets.closed == {(4000 if code > 4000 else code, "client"): 1}


async def test_the_applications_close_is_carried_through_too(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    application.say(close_frame(4400, "go away", masked=False))
    assert await socket.closed() == (4400, "go away")
    assert (await application.heard())[0] == 0x88
    assert await socket.wire.rest() == b""
    await served.settled()
    assert served.proxy.listener.routes.routes[0].stats.sockets.closed == {(4000, "upstream"): 1}


BAD_TEXT = [
    [frame(TEXT, b"\xff", masked=True)],
    [frame(TEXT, "é".encode()[:1], masked=True)],
    [part(TEXT, "é".encode()[:1]), part(0, b"x", end=True)],
    [part(TEXT, b"\xed\xa0\x80", end=True)],
    [part(TEXT, b"good"), part(0, b"\xf4\x90"), part(0, b"\x80\x80", end=True)],
    [frame(TEXT, b"a" * 70_000 + b"\xc0", masked=True)],
]


@pytest.mark.parametrize("frames", BAD_TEXT, ids=range(len(BAD_TEXT)))
async def test_text_that_is_no_utf8_ends_it(
    serve: Start, upstream: ScriptedUpstream, application: Application, frames: list[bytes]
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    for one in frames:
        socket.raw(one)
    assert (await socket.closed())[0] == 1007
    await served.settled()


async def test_good_text_in_any_pieces_passes(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    text = "κόσμε 🚚 " * 9_000
    data = frame(TEXT, text.encode(), masked=True)
    for at in range(0, len(data), 7_001):
        socket.raw(data[at : at + 7_001])
        await asyncio.sleep(0)
    assert await application.heard() == (0x81, text.encode())
    for at, char in enumerate("é🚚".encode()):
        socket.raw(part(TEXT if not at else 0, bytes((char,)), end=at == 5))
    assert b"".join([(await application.heard())[1] for _ in range(6)]) == "é🚚".encode()


BROKEN = [
    b"\x81\x05hello", frame(3, b"", masked=True), part(0, b"x", end=True), part(TEXT, b"x", rsv=0x40, end=True),
    part(PING, b"x"), part(CLOSE, (1006).to_bytes(2), end=True), part(CLOSE, b"\x03", end=True),
]  # fmt: skip


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
async def test_a_client_that_breaks_the_protocol_is_closed_and_none_of_it_passes(
    serve: Start, upstream: ScriptedUpstream, application: Application, data: bytes
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.raw(data)
    assert (await socket.closed())[0] == 1002
    first, payload = await application.heard()
    assert (first, payload[:2]) == (0x88, (1001).to_bytes(2)), "a close of ours is all that the application sees"
    await served.settled()


@pytest.mark.parametrize(
    "data",
    [frame(TEXT, b"x", masked=True), b"\x83\x00", b"\x80\x00", b"\x81\x02\xff\xff", b"\x88\x02\x03\xee"],
    ids=range(5),
)
async def test_an_application_that_breaks_the_protocol_is_treated_as_strictly(
    serve: Start, upstream: ScriptedUpstream, application: Application, data: bytes
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    application.say(data)
    assert (await socket.closed())[0] == 1014
    first, payload = await application.heard()
    assert (first, int.from_bytes(payload[:2]) in (1002, 1007)) == (0x88, True)
    await served.settled()


async def test_an_application_that_goes_without_a_word_is_a_bad_gateway(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    more = "breaker: {consecutive: 2, open_for: {from: 60s, to: 60s}}}"
    served = await serve(upstream.port, cluster=f'"127.0.0.1:{upstream.port}"], {more}')
    for _ in range(2):
        socket = await connect(served)
        application.writers[-1].transport.abort()
        assert (await socket.closed())[0] == 1014
        await served.settled()
    wire = await served.connect()
    wire.send(f"GET / HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n".encode())
    assert (await wire.head())[0] == 503, "connects that end so are failures to the breaker"
    assert app(served).breaker.state.value == "open"


async def test_a_client_that_goes_without_a_word_is_told_to_the_application(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.wire.reset()
    first, payload = await application.heard()
    assert (first, payload[:2]) == (0x88, (1001).to_bytes(2))
    await served.settled()


async def test_a_failing_upstream_refuses_the_handshake(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(1)
    wire = await served.connect()
    wire.send(f"GET / HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n".encode())
    assert (await wire.head())[0] == 503


@pytest.mark.parametrize(
    ("asked", "answered", "status"),
    [
        ("Sec-WebSocket-Protocol: chat, other\r\n", "Sec-WebSocket-Protocol: chat\r\n", 101),
        ("Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Protocol: stolen\r\n", 502),
        ("", "Sec-WebSocket-Protocol: chat\r\n", 502),
        ("", "Sec-WebSocket-Extensions: permessage-deflate\r\n", 502),
        ("Sec-WebSocket-Extensions: x-mine\r\n", "Sec-WebSocket-Extensions: x-mine\r\n", 502),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", "Sec-WebSocket-Extensions: permessage-deflate\r\n", 101),
    ],
)
async def test_an_upstream_takes_only_what_it_was_offered(
    serve: Start, upstream: ScriptedUpstream, application: Application, asked: str, answered: str, status: int
) -> None:
    application.lines = answered
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(f"GET / HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}{asked}\r\n".encode())
    assert (await wire.head())[0] == status


async def test_origins_and_subprotocols(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    policies = '{websocket: {origins: [self, "https://*.example.com"], subprotocols: [chat.v2]}}'
    served = await serve(upstream.port, policies=policies)
    for lines, status in (
        (["Origin: https://a.example.com"], 101),
        (["Origin: https://example.org"], 403),
        (["Origin: http://a"], 101),
        (["Origin: http://a:8080"], 403),
        (["Origin: null"], 403),
        ([], 101),
        (["Sec-WebSocket-Protocol: chat.v1, chat.v2"], 101),
        (["Sec-WebSocket-Protocol: chat.v1"], 400),
    ):
        wire = await served.connect()
        wire.send(handshake(*lines))
        assert (await wire.head())[0] == status, lines
    assert "sec-websocket-protocol: chat.v2\r\n" in application.heads[-1]


async def test_an_expired_token_closes_and_so_does_a_revocation_and_a_ban(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    more = f"identity: {{{JWT.replace('required', 'handshake_query: token, skew: 0s, required')}}}"
    served = await serve(upstream.port, more=more, policies="{bans: {}}")
    short = bearer(exp=int(time.time()) + 2, sub="short").removeprefix("Authorization: Bearer ")
    expires = await connect(served, target=f"/?token={short}")
    revoked = await connect(served, bearer(sub="ada"))
    assert (await revoked.wire.reader.read(0)) == b""
    served.proxy.shared.revoked.put("user:ada", str(int(time.time())), 60)
    assert await revoked.closed() == (4401, "the session that this token belongs to was ended")
    assert await expires.closed() == (4401, "the token has expired")
    banned = await connect(served, bearer(sub="eve"))
    served.proxy.compiled.ban_list.ban("ip:127.0.0.1", "test", 60, 60, 0)
    assert (await banned.closed())[0] == 4403
    stats = served.proxy.listener.routes.routes[0].stats.sockets
    assert stats.closed == {(4401, "proxy"): 2, (4403, "proxy"): 1}


async def test_a_silent_client_is_pinged_and_one_that_answers_stays(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies="{websocket: {heartbeat: 300ms}}")
    answers, silent = await connect(served), await connect(served)
    began = time.perf_counter()

    async def answering() -> None:
        while time.perf_counter() < began + 4:
            first, payload = await answers.heard()
            assert first == 0x89
            answers.say(payload, PONG)

    task = asyncio.create_task(answering())
    assert (await silent.closed()) == (1001, "no answer to pings")
    assert time.perf_counter() - began < 3.5
    await task
    answers.say("still here")
    assert await application.heard() == (0x88, (1001).to_bytes(2) + b"no answer to pings")
    assert await application.heard() == (0x81, b"still here"), "our pings' answers do not reach it"


async def test_an_old_one_is_asked_to_come_again(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies="{websocket: {max_age: 700ms}}")
    socket = await connect(served)
    began = time.perf_counter()
    assert (await socket.closed())[0] == 1012
    assert 0.5 < time.perf_counter() - began < 2.5


async def test_nothing_for_too_long(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, route_timeouts="{websocket_idle: 400ms}")
    assert await (await connect(served)).closed() == (1001, "nothing came for too long")


async def test_a_drain_closes_them_one_after_the_other(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    sockets = [await connect(served) for _ in range(60)]
    loop = asyncio.get_running_loop()
    began, closed = loop.time(), []

    async def wait(socket: object) -> None:
        code, reason = await socket.closed()  # type: ignore[attr-defined]  # a Socket
        assert (code, "connect again in" in reason) == (1012, True)
        closed.append(loop.time() - began)

    waiting = [asyncio.create_task(wait(socket)) for socket in sockets]
    assert await served.proxy.listener.drain(5)
    await asyncio.gather(*waiting)
    spread = Counter(int(at / 0.6) for at in closed)
    assert max(closed) < 3.5
    assert all(spread[part] >= 4 for part in range(4)), f"flat over the time: {sorted(spread.items())}"


@pytest.mark.parametrize("slow", ["wait", "drop", "close"])
async def test_a_client_that_does_not_read(
    serve: Start, upstream: ScriptedUpstream, application: Application, slow: str
) -> None:
    served = await serve(upstream.port, policies=f"{{websocket: {{slow: {slow}, buffer: 64KiB}}}}")
    client = await connect(served)
    stats = served.proxy.listener.routes.routes[0].stats.sockets
    writer, sent = application.writers[0], 0
    async with asyncio.timeout(20):
        while sent < 40_000_000 and not stats.closed:
            writer.write(frame(BINARY, b"x" * 65_000, masked=False))
            sent += 65_000
            try:
                async with asyncio.timeout(0.3):
                    await writer.drain()
            except (TimeoutError, ConnectionError):
                break
    session = next(iter(served.proxy.listener.sessions), None)
    if slow == "wait":
        assert sent < 30_000_000, "the application waits, as it would without a proxy"
        assert session is not None
        assert session._client.unsent < 1_000_000
    elif slow == "drop":
        assert stats.dropped > 100
        assert session is not None
        assert session._client.unsent < 300_000
        writer.write(frame(TEXT, b"the end", masked=False))
        for _ in range(200):
            first, payload = await client.heard()
            if payload == b"the end":
                break
            assert (first, payload) == (0x82, b"x" * 65_000), "what is not dropped is whole"
            if not session._client.unsent:
                writer.write(frame(TEXT, b"the end", masked=False))
        assert payload == b"the end"
    else:
        assert stats.closed == {(1013, "proxy"): 1}


async def test_the_admin_shows_who_is_there(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    application.echo = True
    served = await serve(upstream.port)
    socket = await connect(served, "X-Request-ID: one-of-mine")
    socket.say("secret words")
    await socket.heard()
    base = f"http://127.0.0.1:{served.proxy.admin.port}"
    async with aiohttp.ClientSession() as session:
        told = await (await session.get(f"{base}/websockets")).json()
        text = await (await session.get(f"{base}/metrics")).text()
    (row,) = told["websockets"]
    assert (row["route"], row["request_id"], told["open"]) == ("everything", "one-of-mine", 1)
    assert "secret" not in str(told)
    for line in (
        'proxy_websockets_open{route="everything"} 1.0',
        'proxy_websocket_messages_total{direction="client",route="everything"} 1.0',
        'proxy_websocket_messages_total{direction="upstream",route="everything"} 1.0',
        'proxy_websocket_handshake_seconds_count{route="everything"} 1.0',
    ):
        assert line in text
    socket.wire.close()
    await until(lambda: not served.proxy.listener.sessions)


async def test_a_close_waits_for_the_end_of_a_frame_that_is_on_its_way(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies="{websocket: {close_timeout: 5s}}")
    socket = await connect(served)
    data = frame(BINARY, b"y" * 300_000, masked=False)
    application.say(data[:200_000])
    session = served.proxy.listener.sessions[0]
    await until(lambda: session.from_upstream.amid)
    session.close(1012, "later")
    application.say(data[200_000:])
    assert await socket.heard() == (0x82, b"y" * 300_000)
    assert await socket.closed() == (1012, "later")


async def test_what_comes_after_a_close_frame_goes_nowhere(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.raw(frame(CLOSE, (1000).to_bytes(2), masked=True) + frame(TEXT, b"too late", masked=True))
    assert (await application.heard())[0] == 0x88
    assert (await socket.heard())[0] == 0x88
    await served.settled()
    assert b"too late" not in application.bytes
    assert application.frames.empty()
