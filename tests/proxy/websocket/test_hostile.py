"""Sides that mean harm, or are clumsy: nothing of a refused message passes, nothing is kept, nobody else suffers."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress

import orjson
import pytest

from proxy.listener.extensions import Malformed, NotOffered, answered, listed, offers, proposal
from proxy.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.integration.conftest import valkey as valkey  # a fixture
from tests.proxy.filters.conftest import ACCEPT
from tests.proxy.upstream.test_resilience import app, cluster
from tests.proxy.websocket.conftest import Application, Socket, connect, handshake, part
from tests.proxy.websocket.test_messages import INSPECTED, policy, said, squeezed
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


async def gone(served: Served) -> None:
    await until(lambda: not served.proxy.listener.sessions)


def answers_late(upstream: ScriptedUpstream, application: Application) -> tuple[asyncio.Event, asyncio.Event]:
    """Its 101 comes once the second is set; the first is set when it was asked."""
    asked, going = asyncio.Event(), asyncio.Event()

    async def late(reader: Reader, writer: Writer) -> None:
        asked.set()
        await going.wait()
        await application(reader, writer)

    upstream.script = late
    return asked, going


# the handshake


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"permessage-deflate", [(b"permessage-deflate", [])]),
        (b"a, , b ; X=1;y", [(b"a", []), (b"b", [(b"x", b"1"), (b"y", b"")])]),
        (b'a; b="c"', [(b"a", [(b"b", b"c")])]),
    ],
)
def test_lists_of_extensions(value: bytes, found: object) -> None:
    assert listed([value]) == found


@pytest.mark.parametrize("value", [b"a b", b"a; b=", b'a; b="c', b"a;", b'a; b="c,d"', b"=", b"a; b c", b"\x80"])
def test_what_is_no_list_of_extensions(value: bytes) -> None:
    with pytest.raises(Malformed):
        listed([value])


@pytest.mark.parametrize(
    ("offered", "deflate", "goes_on"),
    [
        (b"permessage-deflate; client_max_window_bits", "pass", b"permessage-deflate; client_max_window_bits"),
        (b"x-mine, permessage-deflate", "pass", b"permessage-deflate"),
        (b"permessage-deflate; foo, permessage-deflate", "pass", b"permessage-deflate"),
        (b"permessage-deflate; server_max_window_bits=16", "pass", b""),
        (b"permessage-deflate; server_max_window_bits", "pass", b""),
        (b"permessage-deflate; server_no_context_takeover=1", "pass", b""),
        (b"permessage-deflate; client_max_window_bits; client_max_window_bits", "pass", b""),
        (b"x-permessage-deflate-mine", "pass", b""),
        (b"permessage-deflate", "off", b""),
        (b"permessage-deflate; client_max_window_bits", "inspect",
         b"permessage-deflate; client_no_context_takeover; server_no_context_takeover"),
        (b"permessage-deflate; server_max_window_bits=10", "inspect",
         b"permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=10"),
    ],
)  # fmt: skip
def test_offers_that_go_on(offered: bytes, deflate: str, goes_on: bytes) -> None:
    assert proposal(offers([offered]), deflate) == goes_on


@pytest.mark.parametrize(
    ("offered", "answer", "good"),
    [
        (b"permessage-deflate", b"", True),
        (b"permessage-deflate", b"permessage-deflate", True),
        (b"permessage-deflate", b"permessage-deflate; server_max_window_bits=10", True),
        (b"permessage-deflate", b"permessage-deflate; client_max_window_bits=10", False),
        (b"permessage-deflate; client_max_window_bits", b"permessage-deflate; client_max_window_bits=10", True),
        (b"permessage-deflate; client_max_window_bits", b"permessage-deflate; client_max_window_bits", False),
        (b"permessage-deflate; client_max_window_bits=10", b"permessage-deflate; client_max_window_bits=15", False),
        (b"permessage-deflate; server_max_window_bits=10", b"permessage-deflate", False),
        (b"permessage-deflate; server_max_window_bits=10", b"permessage-deflate; server_max_window_bits=11", False),
        (b"permessage-deflate; server_max_window_bits=10", b"permessage-deflate; server_max_window_bits=9", True),
        (b"permessage-deflate; server_no_context_takeover", b"permessage-deflate", False),
        (b"permessage-deflate", b"permessage-deflate; foo=1", False),
        (b"permessage-deflate", b"permessage-deflate, permessage-deflate", False),
        (b"permessage-deflate", b"permessage-deflate; server_max_window_bits=99", False),
        (b"", b"permessage-deflate", False),
        (b"x-mine", b"x-mine", False),
    ],
)
def test_answers_that_fit_an_offer(offered: bytes, answer: bytes, good: bool) -> None:
    if good:
        taken = answered([answer], offers([offered]))
        assert (taken is None) == (not answer)
    else:
        with pytest.raises(NotOffered):
            answered([answer], offers([offered]))


@pytest.mark.parametrize(
    "lines",
    [
        "Connection: upgrade\r\n",
        "Upgrade: h2c\r\nConnection: upgrade\r\n",
        "Upgrade: websocket\r\nConnection: close\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n",
        f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Protocol: unasked\r\n",
    ],
)
async def test_a_connection_of_a_refused_101_is_used_by_nobody_again(
    serve: Start, upstream: ScriptedUpstream, lines: str
) -> None:
    heard: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        head, _ = await read_request(reader)
        if b"upgrade: websocket" not in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        writer.write(f"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: {ACCEPT}\r\n{lines}\r\n".encode())
        with suppress(ConnectionError):
            heard.append(await reader.read(65536))

    upstream.script = script
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(handshake())
    assert (await wire.head())[0] == 502
    status, _, body = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n")
    assert (status, body) == (200, b"ok")
    await until(lambda: bool(heard))
    assert heard == [b""], "nothing of another's request went into the application's WebSocket"


async def test_a_malformed_offer_is_a_bad_handshake(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(handshake("Sec-WebSocket-Extensions: permessage-deflate; a b"))
    assert (await wire.head())[0] == 400


@pytest.mark.parametrize("mode", ["shadow", "off"])
async def test_what_is_compressed_is_agreed_on_whatever_the_rules_mode(
    serve: Start, upstream: ScriptedUpstream, application: Application, mode: str
) -> None:
    application.lines = INSPECTED + "\r\n"
    served = await serve(upstream.port, policies=policy("{json: {}}", f"mode: {mode}, deflate: inspect,"))
    await connect(served, DEFLATE)
    assert f"{INSPECTED.lower()}\r\n" in application.heads[0].lower()


async def test_origins_by_scheme_host_and_port(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies="{websocket: {origins: [self]}}", trusted="[127.0.0.1/32]")
    for origin, proto, status in (
        ("http://a", "http", 101), ("https://a:443", "http", 101), ("https://A", "https", 101),
        ("http://a", "https", 403), ("ftp://a", "http", 403), ("chrome-extension://a", "http", 403),
        ("http://a:81", "http", 403), ("http://b", "http", 403), ("null", "http", 403),
    ):  # fmt: skip
        wire = await served.connect()
        wire.send(handshake(f"Origin: {origin}", f"X-Forwarded-Proto: {proto}"))
        assert (await wire.head())[0] == status, (origin, proto)


async def test_frames_that_came_before_the_101(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    wire = await served.connect()
    early = frame(BINARY, b"x" * 300, masked=True) * 1000
    wire.send(handshake() + early)
    assert (await wire.head())[0] == 101
    socket = Socket(wire)
    socket.say("later")
    for _ in range(1000):
        assert (await application.heard())[0] == 0x82
    assert await application.heard() == (0x81, b"later")


# messages


@pytest.mark.parametrize("refused", [b'"no json', b""], ids=["rule", "protocol"])
async def test_nothing_passes_after_a_refusal_that_has_to_wait_for_the_applications_frame(
    serve: Start, upstream: ScriptedUpstream, application: Application, refused: bytes
) -> None:
    served = await serve(upstream.port, policies=policy("{json: {}}", "close_timeout: 5s,"))
    socket = await connect(served)
    large = frame(BINARY, b"y" * 300_000, masked=False)
    application.say(large[:200_000])
    session = served.proxy.listener.sessions[0]
    await until(lambda: session.from_upstream.amid)
    socket.raw(frame(TEXT, refused, masked=True) if refused else b"\xc1\x80\0\0\0\0")
    socket.raw(frame(TEXT, b'{"after": 1}', masked=True) + frame(PING, b"after", masked=True))
    await until(lambda: session.ending)
    application.say(large[200_000:])
    assert (await socket.heard())[0] == 0x82
    assert (await socket.closed())[0] in (1002, 1007)
    first, _ = await application.heard()
    assert first == 0x88
    assert b"after" not in application.bytes


async def test_the_rest_of_a_refused_message_goes_nowhere(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{max_size: 1KiB, on_violation: drop}"))
    socket = await connect(served)
    socket.raw(part(TEXT, b"r") + part(0, b"refused" * 20_000) + part(0, b"tail", end=True))
    socket.say("good")
    assert await application.heard() == (0x81, b"good")
    assert b"tail" not in application.bytes
    assert said(served) == {("all.websocket.one", "message-too-large", "enforce"): 1}


@pytest.mark.parametrize("mode", ["shadow", "enforce"])
async def test_what_nests_deeper_than_anybody_writes_is_no_failure(
    serve: Start, upstream: ScriptedUpstream, application: Application, mode: str
) -> None:
    rule = f"{{json: {{depth: 20}}, mode: {mode}, on_violation: drop}}"
    served = await serve(upstream.port, policies=policy(rule))
    socket = await connect(served)
    deep = b"[" * 300 + b"]" * 300
    socket.say(deep)
    socket.say(b"[1]")
    expected = [deep, b"[1]"] if mode == "shadow" else [b"[1]"]
    assert [(await application.heard())[1] for _ in expected] == expected
    assert list(said(served)) == [("all.websocket.one", "invalid-payload", mode)]


async def test_a_frame_that_breaks_off_is_not_completed_by_the_proxys_own(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.raw(frame(BINARY, b"x" * 300_000, masked=True)[:-20])
    await until(lambda: len(application.bytes) == 300_014 - 20)
    socket.wire.reset()
    await application.gone.wait()
    assert len(application.bytes) == 300_014 - 20


async def test_bad_text_in_the_last_piece_of_a_frame_is_followed_by_nothing(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    data = frame(TEXT, b"x" * 300_000 + b"\xff\xff", masked=True)
    socket.raw(data[:-2])
    await until(lambda: len(application.bytes) == len(data) - 2)
    socket.raw(data[-2:])
    assert (await socket.closed())[0] == 1007
    await application.gone.wait()
    assert len(application.bytes) == len(data) - 2


async def test_an_oversized_frame_is_refused_by_its_head(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{max_frame: 1KiB}"))
    socket = await connect(served)
    socket.raw(frame(TEXT, b"x" * 900_000, masked=True)[:100_000])
    assert (await socket.closed())[0] == 1009
    await gone(served)


async def test_an_error_waits_for_the_end_of_the_applications_message(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{json: {}, on_violation: error}"))
    socket = await connect(served)
    application.say(bytes((TEXT, 3)) + b"abc")
    assert await socket.heard() == (TEXT, b"abc")
    socket.say("no json")
    socket.say("", PING)
    assert (await application.heard())[0] == 0x89
    application.say(bytes((0x80, 3)) + b"def")
    assert await socket.heard() == (0x80, b"def")
    assert orjson.loads((await socket.heard())[1])["reason"] == "invalid-payload"
    application.say(close_frame(1000, "", masked=False))
    assert (await socket.heard())[0] == 0x88
    socket.say("no json")
    socket.say((1000).to_bytes(2), CLOSE)
    assert await socket.wire.rest() == b"", "after the application's close frame nothing is said"


def ended(text: bytes, after: bytes = b"") -> bytes:
    """Compressed with a last block, and what comes after it."""
    made = zlib.compressobj(wbits=-15)
    return part(TEXT, made.compress(text) + made.flush() + after, end=True, rsv=0x40)


COMPRESSED = [
    (squeezed(b"\xff\xfe"), 1007), (part(TEXT, b"no deflate", end=True, rsv=0x40), 1007),
    (squeezed(b"0" * 60_000), 1009), (squeezed(b"x" * 2_000_000), 1009),
    (ended(b'{"a": 1}', b"'; DROP TABLE a; <script>"), 1007),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), COMPRESSED, ids=range(len(COMPRESSED)))
async def test_what_is_compressed_is_read_though_no_rule_asks(
    serve: Start, upstream: ScriptedUpstream, application: Application, data: bytes, code: int
) -> None:
    application.lines = INSPECTED + "\r\n"
    served = await serve(upstream.port, policies="{websocket: {deflate: inspect, ratio: 50}}")
    socket = await connect(served, DEFLATE)
    socket.raw(ended(b"honest", b"\x00") + data)
    assert (await application.heard())[0] == 0xC1
    assert (await socket.closed())[0] == code
    assert (await application.heard())[0] == 0x88
    assert application.frames.empty()


async def test_fragments_alone_are_a_rule(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies=policy("{fragments: 2}"))
    socket = await connect(served)
    socket.raw(part(TEXT, b"a") + part(0, b"b") + part(0, b"c", end=True))
    assert (await socket.closed())[0] == 1009


@pytest.mark.parametrize(
    "text",
    [
        b'{"type": "alert", "type": "ping"}',
        b'{"type": "alert", "\\u0074ype": "ping"}',
        b'{"type": "alert", "type": "ping", "x": "\\u003a"}',
    ],
)
async def test_a_type_that_is_told_twice_passes_no_allow_list(
    serve: Start, upstream: ScriptedUpstream, application: Application, text: bytes
) -> None:
    served = await serve(upstream.port, policies=policy("{types: {allow: {'*': [ping]}}}"))
    socket = await connect(served)
    socket.say(b'{"type": "ping", "x": "a: \\u003a \\u0074"}')
    assert (await application.heard())[0] == 0x81
    socket.say(text)
    assert (await socket.closed())[0] == 1007


@pytest.mark.parametrize("action", ["drop", "error"])
async def test_text_that_is_none_ends_the_socket_whatever_a_rule_does(
    serve: Start, upstream: ScriptedUpstream, application: Application, action: str
) -> None:
    served = await serve(upstream.port, policies=policy(f"{{json: {{}}, on_violation: {action}}}"))
    socket = await connect(served)
    socket.say(b'"\xff"')
    assert (await socket.closed())[0] == 1007


async def test_a_shadow_is_told_to_who_asks(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies=policy("{json: {depth: 1}, mode: shadow}"))
    socket = await connect(served)
    for _ in range(3):
        socket.say(b"[[1]]")
        await application.heard()
    (told,) = served.proxy.shadows.told()
    assert (told["rule"], told["detail"], told["count"]) == ("all.websocket.one", "a message nests deeper than 1", 3)
    assert said(served) == {("all.websocket.one", "invalid-payload", "shadow"): 3}


async def test_large_messages_are_inspected_by_a_thread(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{inspect: {}, on_violation: drop}"))
    socket = await connect(served)
    honest = orjson.dumps({"notes": ["words of a mover's diary"] * 1000})
    attack = orjson.dumps({"notes": ["words"] * 2000 + ["<script>alert(1)</script>"]})
    for message in (honest, attack, b'"small"', attack, honest):
        socket.say(message)
    assert [(await application.heard())[1] for _ in range(3)] == [honest, b'"small"', honest]
    assert said(served) == {("all.websocket.one", "attack-suspected", "enforce"): 2}
    socket.say(attack)
    socket.wire.reset()
    await gone(served)


async def test_pongs_that_nobody_asked_for_count_as_pings(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies="{websocket: {pings: 3/1h}}")
    socket = await connect(served)
    for number in range(10):
        application.say(frame(PING, b"%d" % number, masked=False))
        first, payload = await socket.heard()
        assert first == 0x89
        socket.say(payload, PONG)
        assert await application.heard() == (0x8A, b"%d" % number)
    socket.say(b"simplepro", PONG)
    assert await application.heard() == (0x8A, b"simplepro"), "the proxy has pinged nobody"
    for _ in range(3):
        socket.say("", PONG)
    assert (await socket.closed())[0] == 4429


# flow


@pytest.mark.parametrize("slow", ["drop", "close"])
async def test_control_frames_do_not_fill_memory_for_a_slow_client(
    serve: Start, upstream: ScriptedUpstream, application: Application, slow: str
) -> None:
    served = await serve(upstream.port, policies=f"{{websocket: {{slow: {slow}, buffer: 64KiB}}}}")
    socket = await connect(served)
    socket.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
    session = served.proxy.listener.sessions[0]
    most = 0
    for _ in range(200):
        if application.gone.is_set() or session.over:
            break
        with suppress(RuntimeError):
            application.say(frame(PING, b"x" * 125, masked=False) * 1000)
        await asyncio.sleep(0)
        most = max(most, int(str(session.shown(0)["unsent"])))
    assert most < 1_000_000
    socket.wire.reset()
    await gone(served)


async def test_a_limit_on_messages_leaves_back_pressure_as_it_is(
    serve: Start, upstream: ScriptedUpstream, valkey: tuple[ServerProcess, int]
) -> None:
    reading = asyncio.Event()

    async def deaf(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        writer.write(f"HTTP/1.1 101 Yes\r\n{lines}".encode())
        await reading.wait()
        while await reader.read(65536):
            pass

    upstream.script = deaf
    more = f'redis: {{url: "redis://127.0.0.1:{valkey[1]}", timeout: 2s}}'
    served = await serve(upstream.port, more=more, policies=policy("{limit: {limit: 1000000/1m, key: ip}}"))
    await until(lambda: served.proxy.redis is not None and served.proxy.redis.store.available)
    socket = await connect(served)
    data = frame(BINARY, b"x" * 50_000, masked=True)
    connection = next(iter(app(served).endpoints[0].pool.open))
    sent = most = 0
    with suppress(TimeoutError):
        while sent < 60_000_000:
            socket.raw(data)
            sent += len(data)
            async with asyncio.timeout(1):
                await socket.wire.writer.drain()
            most = max(most, connection.transport.get_write_buffer_size())
    assert most < 2_000_000
    assert sent < 60_000_000, "the client has to wait"
    socket.wire.reset()
    reading.set()


# ends


async def test_a_handshake_under_way_when_the_drain_begins_is_part_of_it(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    asked, going = answers_late(upstream, application)
    served = await serve(upstream.port)
    idle = await served.connect()
    idle.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n")
    wire = await served.connect()
    wire.send(handshake())
    await asked.wait()
    served.proxy.listener.begin_drain(1)
    going.set()
    assert (await wire.head())[0] == 101
    assert (await Socket(wire).closed())[0] == 1012
    idle.send(b"\r\n")
    idle.close()
    fresh = await served.connect()
    fresh.send(handshake())
    assert (await fresh.head())[0] == 503


async def test_a_talking_client_hears_the_applications_last_words(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        writer.write(f"HTTP/1.1 101 Yes\r\n{lines}".encode())
        for _ in range(60):
            writer.write(frame(BINARY, b"x" * 30_000, masked=False))
        writer.write(close_frame(1000, "done", masked=False))
        writer.write_eof()
        while await reader.read(65536):
            pass

    upstream.script = script
    served = await serve(upstream.port)
    socket = await connect(served)
    heard = 0
    while True:
        socket.say("hello")
        first, payload = await socket.heard()
        if first & 0x0F == CLOSE:
            break
        heard += len(payload)
        await asyncio.sleep(0.002)
    assert (heard, payload[2:]) == (1_800_000, b"done")


BREAKER = "breaker: {consecutive: 2, open_for: {from: 60s, to: 60s}}"


@pytest.mark.parametrize(
    ("said_by_it", "state"),
    [(b"\x83\x00", "open"), (close_frame(1011, "", masked=False), "open"),
     (close_frame(4000, "", masked=False), "closed"), (b"", "closed")],
)  # fmt: skip
async def test_what_counts_as_a_failure_of_the_application(
    serve: Start, upstream: ScriptedUpstream, application: Application, said_by_it: bytes, state: str
) -> None:
    """An application that ends TCP after a client's close has done nothing wrong, and the client hears its own code."""

    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        writer.write(f"HTTP/1.1 101 Yes\r\n{lines}".encode() + said_by_it)
        if said_by_it:
            with suppress(ConnectionError):
                await reader.read()
        else:
            await reader.readexactly(8)

    upstream.script = script
    served = await serve(upstream.port, cluster=cluster(upstream.port, more=BREAKER))
    for _ in range(2):
        socket = await connect(served)
        if said_by_it:
            await socket.closed()
        else:
            socket.raw(close_frame(1000, "", masked=True))
            assert await socket.closed() == (1000, "")
        await gone(served)
    breaker = app(served).breaker
    assert breaker is not None
    assert breaker.state.name.lower() == state


async def test_a_reload_may_ask_sockets_to_connect_again(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    socket = await connect(served)
    await served.proxy.apply(served.proxy.policy)
    socket.say("still here")
    assert await application.heard() == (0x81, b"still here")
    reload = served.proxy.policy.reload.model_copy(update={"sockets": "reconnect"})
    await served.proxy.apply(served.proxy.policy.model_copy(update={"reload": reload}))
    assert (await socket.closed())[0] == 1012


async def test_a_handshake_under_way_at_a_reload_connects_again_too(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    asked, going = answers_late(upstream, application)
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(handshake())
    await asked.wait()
    reload = served.proxy.policy.reload.model_copy(update={"sockets": "reconnect"})
    await served.proxy.apply(served.proxy.policy.model_copy(update={"reload": reload}))
    going.set()
    assert (await wire.head())[0] == 101
    assert (await Socket(wire).closed())[0] == 1012


async def test_who_ends_the_stream_after_the_close_frame_hears_the_last_words(
    serve: Start, upstream: ScriptedUpstream
) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        lines = f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        writer.write(f"HTTP/1.1 101 Yes\r\n{lines}".encode())
        await reader.readexactly(8)
        writer.write(frame(TEXT, b"last words", masked=False) + close_frame(1000, "", masked=False))
        await reader.read()

    upstream.script = script
    served = await serve(upstream.port)
    socket = await connect(served)
    socket.raw(close_frame(1000, "", masked=True))
    socket.wire.writer.write_eof()
    assert await socket.heard() == (0x81, b"last words")
    assert (await socket.heard())[0] == 0x88


async def test_errors_do_not_fill_memory_for_a_client_that_does_not_read(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{json: {}, on_violation: error}"))
    socket = await connect(served)
    socket.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport, too
    session = served.proxy.listener.sessions[0]
    for _ in range(40):
        socket.raw(frame(TEXT, b"x", masked=True) * 5_000)
        await asyncio.sleep(0)
    await until(
        lambda: served.proxy.listener.stats.rejections["all.websocket.one", "invalid-payload", "enforce"] > 50_000
    )
    assert int(str(session.shown(0)["unsent"])) < 2_000_000
    socket.wire.reset()
    await gone(served)


async def test_codes_of_strangers_do_not_fill_the_metrics(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port)
    for code in range(4000, 4010):
        socket = await connect(served)
        socket.say(code.to_bytes(2), CLOSE)
        assert await socket.closed() == (code, "")
    await served.settled()
    assert served.proxy.listener.routes.routes[0].stats.sockets.closed == {(4000, "client"): 10}
