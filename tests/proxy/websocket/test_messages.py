"""Rules on messages: what they refuse, what becomes of it, and that not one byte of it reaches the application."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path

import orjson
import pytest

from proxy.websocket.frames import BINARY, CLOSE, PING, TEXT, frame
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.integration.conftest import until
from tests.integration.conftest import valkey as valkey  # a fixture
from tests.proxy.filters.test_identity import JWT, bearer
from tests.proxy.websocket.conftest import Application, Socket, connect, part
from tests.wire import ScriptedUpstream

INSPECTED = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"


def policy(rule: str, more: str = "") -> str:
    return f"{{websocket: {{{more} messages: {{one: {rule}}}}}}}"


def said(served: Served) -> dict[tuple[str, str, str], int]:
    return dict(served.proxy.listener.stats.rejections)


async def nothing_of(application: Application, *words: bytes, socket: Socket | None = None) -> None:
    """What the application heard up to its close frame (or a ping of this socket's) is no message, and has none of
    these words."""
    if socket is not None:
        socket.say("the end", PING)
    while True:
        first, payload = await application.heard()
        if first & 0x0F == CLOSE or payload == b"the end":
            break
        assert first & 0x0F >= CLOSE, payload
    assert not any(word in application.bytes for word in words)


REFUSED = [
    ("{max_size: 10}", [frame(TEXT, b"refused words", masked=True)], 1009, "message-too-large"),
    ("{max_size: 10}", [part(TEXT, b"refused"), frame(PING, b"p", masked=True), part(0, b" words", end=True)], 1009,
     "message-too-large"),
    ("{max_frame: 10}", [part(TEXT, b"short"), part(0, b"refused words", end=True)], 1009, "message-too-large"),
    ("{max_size: 1KiB, fragments: 2}", [part(TEXT, b"refused"), part(0, b"wo"), part(0, b"rds", end=True)], 1009,
     "message-too-large"),
    ("{json: {depth: 2}}", [frame(TEXT, b'{"refused": {"words": [1]}}', masked=True)], 1007, "invalid-payload"),
    ("{json: {keys: 3}}", [frame(TEXT, b'{"refused": [1, 2, 3]}', masked=True)], 1007, "invalid-payload"),
    ("{json: {}}", [frame(TEXT, b"refused words", masked=True)], 1007, "invalid-payload"),
    ("{types: {allow: {'*': [ping]}}}", [frame(TEXT, b'{"type": "refused"}', masked=True)], 1008, "message-refused"),
    ("{types: {allow: {'*': [ping]}}}", [frame(TEXT, b'["refused"]', masked=True)], 1007, "invalid-payload"),
    ("{schemas: {a: {required: [b]}}}", [frame(TEXT, b'{"type": "a", "refused": 1}', masked=True)], 1007,
     "invalid-payload"),
    ("{schemas: {a: {}}}", [frame(TEXT, b'{"type": "refused"}', masked=True)], 1008, "message-refused"),
    ("{json: {depth: 2}}", [frame(BINARY, b'{"refused": {"words": [1]}}', masked=True)], 1007, "invalid-payload"),
    ("{types: {allow: {'*': [ping]}}}", [frame(BINARY, b'{"type": "refused"}', masked=True)], 1008, "message-refused"),
    ("{volume: 10B/1h}", [frame(TEXT, b"refused words", masked=True)], 4429, "rate-limited"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "frames", "code", "reason"), REFUSED, ids=range(len(REFUSED)))
async def test_what_is_refused_never_reaches_the_application(
    serve: Start, upstream: ScriptedUpstream, application: Application, rule: str, frames: list[bytes], code: int,
    reason: str,
) -> None:  # fmt: skip
    served = await serve(upstream.port, policies=policy(rule))
    socket = await connect(served)
    data = b"".join(frames)
    for at in range(0, len(data), 3):
        socket.raw(data[at : at + 3])
        await asyncio.sleep(0)
    closed, told = await socket.closed()
    assert (closed, told.startswith("all.websocket.one: ")) == (code, True)
    assert said(served) == {("all.websocket.one", reason, "enforce"): 1}
    if any(one[0] & 0x0F == PING for one in frames):
        assert await application.heard() == (0x89, b"p"), "what comes between fragments passes"
    await nothing_of(application, b"refused", b"words")


async def test_a_shadow_counts_and_lets_pass(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{max_size: 3, mode: shadow}"))
    socket = await connect(served)
    for _ in range(3):
        socket.say("longer")
        assert await application.heard() == (0x81, b"longer")
    assert said(served) == {("all.websocket.one", "message-too-large", "shadow"): 3}


@pytest.mark.parametrize("action", ["drop", "error"])
async def test_a_message_may_be_dropped_and_the_socket_go_on(
    serve: Start, upstream: ScriptedUpstream, application: Application, action: str
) -> None:
    served = await serve(upstream.port, policies=policy(f"{{rate: 2/1h, on_violation: {action}}}"))
    socket = await connect(served)
    for number in range(5):
        socket.say(f"{number}")
    assert [(await application.heard())[1] for _ in range(2)] == [b"0", b"1"]
    await nothing_of(application, socket=socket)
    if action == "error":
        told = orjson.loads((await socket.heard())[1])
        assert (told["type"], told["rule"], told["reason"]) == ("error", "all.websocket.one", "rate-limited")
        assert 0 < float(told["retryAfter"]) <= 3600
    application.say(frame(TEXT, b"still", masked=False))
    while (heard := await socket.heard())[1] != b"still":
        assert orjson.loads(heard[1])["type"] == "error"
    assert said(served) == {("all.websocket.one", "rate-limited", "enforce"): 3}


async def test_a_message_too_large_to_hold_is_refused_by_its_head(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    more = "most: 4KiB,"
    served = await serve(upstream.port, policies=policy("{json: {}, on_violation: drop}", more))
    socket = await connect(served)
    socket.raw(frame(TEXT, b"x" * 200_000, masked=True)[:5_000])
    assert (await socket.closed())[0] == 1009
    session = next(iter(served.proxy.listener.sessions), None)
    assert session is None or session.from_client.reader.held < 70_000


async def test_roles_may_send_what_is_theirs(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    types = "{types: {allow: {'*': [ping], dispatcher: ['*'], sales: [note]}}, on_violation: drop}"
    served = await serve(upstream.port, more=f"identity: {{{JWT}}}", policies=policy(types))
    for role, passing in (("dispatcher", {"ping", "note", "alert"}), ("sales", {"ping", "note"}), ("crew", {"ping"})):
        socket = await connect(served, bearer(role=role))
        for kind in ("ping", "note", "alert", "end"):
            socket.say(orjson.dumps({"type": kind}) if kind != "end" else b'{"type": "ping", "last": true}')
        heard = set()
        while (one := orjson.loads((await application.heard())[1])).get("last") is None:
            heard.add(one["type"])
        assert heard == passing, role
        socket.wire.reset()
        assert (await application.heard())[0] == 0x88


async def test_costs_by_type(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    rule = "{rate: 10/1h, costs: {heavy: 5, free: 0}, on_violation: drop}"
    served = await serve(upstream.port, policies=policy(rule))
    socket = await connect(served)
    for kind in ("heavy", "free", "light", "heavy", "light", "light", "light", "light", "free"):
        socket.say(orjson.dumps({"type": kind}))
    heard = [orjson.loads((await application.heard())[1])["type"] for _ in range(8)]
    assert heard == ["heavy", "free", "light", "light", "light", "light", "light", "free"]


async def test_a_user_has_one_limit_over_all_sidecars(
    serve: Start, upstream: ScriptedUpstream, application: Application, valkey: tuple[ServerProcess, int]
) -> None:
    more = f'redis: {{url: "redis://127.0.0.1:{valkey[1]}", timeout: 2s}}\nidentity: {{{JWT}}}'
    rule = "{limit: {limit: 10/1h, strategy: fixed-window, key: user}, on_violation: drop}"
    pods = [await serve(upstream.port, more=more, policies=policy(rule)) for _ in range(2)]
    for pod in pods:
        await until(lambda pod=pod: pod.proxy.redis is not None and pod.proxy.redis.store.available)  # type: ignore[misc]
    sockets = [await connect(pod, bearer(sub="ada")) for pod in pods]
    for number in range(10):
        for at, socket in enumerate(sockets):
            socket.say(f"ada {at} {number}")
    heard = [(await application.heard())[1] for _ in range(10)]
    for socket in sockets:
        await nothing_of(application, socket=socket)
    for at in range(2):
        own = [one for one in heard if one.startswith(b"ada %d" % at)]
        assert own == [b"ada %d %d" % (at, number) for number in range(len(own))], "in order, whatever waits"
    assert sum(said(pod).get(("all.websocket.one", "rate-limited", "enforce"), 0) for pod in pods) == 10
    bob = await connect(pods[0], bearer(sub="bob"))
    bob.say("bob")
    assert (await application.heard())[1] == b"bob"


def squeezed(text: bytes, *, end: bool = True) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return part(TEXT, (made.compress(text) + made.flush(zlib.Z_SYNC_FLUSH))[:-4], end=end, rsv=0x40)


async def inspected(
    serve: Start, upstream: ScriptedUpstream, application: Application, rule: str
) -> tuple[Served, Socket]:
    application.lines = INSPECTED + "\r\n"
    served = await serve(upstream.port, policies=policy(rule, "deflate: inspect, most: 64KiB,"))
    return served, await connect(served, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")


async def test_compressed_messages_are_read(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    _, socket = await inspected(serve, upstream, application, "{json: {}, on_violation: drop}")
    offered = application.heads[0].split("sec-websocket-extensions: ")[1].split("\r\n")[0]
    assert offered == "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
    good = squeezed(b'{"type": "good", "text": "' + b"x" * 500 + b'"}')
    socket.raw(squeezed(b"refused words") + good)
    first, _ = await application.heard()
    assert first == 0xC1, "compressed as it came"
    await nothing_of(application, squeezed(b"refused words")[6:], socket=socket)


@pytest.mark.parametrize(("data", "code"), [
    (squeezed(b"0" * 10_000_000), 1009), (part(TEXT, b"no deflate", end=True, rsv=0x40), 1007),
    (squeezed(b'"\xff"'), 1007),
], ids=range(3))  # fmt: skip
async def test_bombs_and_rubbish_are_refused(
    serve: Start, upstream: ScriptedUpstream, application: Application, data: bytes, code: int
) -> None:
    _, socket = await inspected(serve, upstream, application, "{json: {}}")
    socket.raw(data)
    assert (await socket.closed())[0] == code
    await nothing_of(application)


async def test_rules_that_read_take_compression_out_of_the_handshake(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{json: {}}"))
    await connect(served, "Sec-WebSocket-Extensions: permessage-deflate")
    assert "sec-websocket-extensions" not in application.heads[0]


async def test_the_applications_messages_have_rules_too(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{max_size: 5, direction: upstream, on_violation: drop}"))
    socket = await connect(served)
    application.say(frame(TEXT, b"too long", masked=False) + frame(TEXT, b"short", masked=False))
    assert await socket.heard() == (0x81, b"short")
    socket.say("of the client nothing is asked")
    assert (await application.heard())[1] == b"of the client nothing is asked"


async def test_a_flood_of_pings(serve: Start, upstream: ScriptedUpstream, application: Application) -> None:
    served = await serve(upstream.port, policies="{websocket: {pings: 3/1h}}")
    socket = await connect(served)
    for _ in range(5):
        socket.say("", PING)
    assert (await socket.closed())[0] == 4429
    assert said(served) == {("websocket.pings", "rate-limited", "enforce"): 1}


async def test_so_many_sockets_at_once_by_a_limit_that_holds_as_long_as_they_do(
    serve: Start, upstream: ScriptedUpstream, application: Application, valkey: tuple[ServerProcess, int]
) -> None:
    more = f'redis: {{url: "redis://127.0.0.1:{valkey[1]}", timeout: 2s}}\n'
    pods = [
        await serve(upstream.port, more=more, limits="{sockets: {concurrent: 3, key: ip, lease: 500ms}}")
        for _ in range(2)
    ]
    for pod in pods:
        await until(lambda pod=pod: pod.proxy.redis is not None and pod.proxy.redis.store.available)  # type: ignore[misc]
    sockets = [await connect(pods[number % 2]) for number in range(3)]
    await asyncio.sleep(1.2)
    for pod in pods:
        with pytest.raises(AssertionError, match="429"):
            await connect(pod)
    sockets[0].wire.reset()
    async with asyncio.timeout(5):
        while True:
            try:
                await connect(pods[1])
            except AssertionError:
                await asyncio.sleep(0.02)
            else:
                break


MISTAKES = [
    ("{}", "this rule asks for nothing"),
    ("{rate: 3}", "is not a rate"),
    ("{volume: 3}", "is not a volume. Write SIZE/DURATION"),
    ("{schemas: {a: {$ref: 'http://x/y'}}}", "refers to http://x/y"),
    ("{schemas: {a: {type: nothing}}}", "is no JSON Schema"),
    ("{max_size: 1, costs: {a: 1}}", "costs are taken of rate or limit"),
    ("{limit: {concurrent: 3}}", "a limit on messages is a rate"),
]


@pytest.mark.parametrize(("rule", "told"), MISTAKES)
async def test_mistakes_are_told(
    serve: Start, upstream: ScriptedUpstream, tmp_path: Path, rule: str, told: str
) -> None:
    with pytest.raises(Exception, match=r"policies\.all\.websocket\.messages\.one") as error:
        await serve(upstream.port, policies=policy(rule))
    assert told in str(error.value)
    with pytest.raises(Exception, match="can't read compressed ones"):
        await serve(upstream.port, policies=policy("{json: {}}", "deflate: pass,"))


async def test_text_is_checked_where_only_a_limit_is_asked(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{limit: {limit: 100/1m}}"))
    socket = await connect(served)
    socket.say(b"refused \xff")
    assert (await socket.closed())[0] == 1007
    await nothing_of(application, b"refused")


async def test_a_trial_beside_the_live_limit_refuses_nobody(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{limit: {limit: 100/1h, trial: 2/1h}}"))
    socket = await connect(served)
    for number in range(5):
        socket.say(f"{number}")
        assert (await application.heard())[1] == b"%d" % number
    assert said(served) == {("all.websocket.one.trial", "rate-limited", "shadow"): 3}
    usage = served.proxy.compiled.usage
    live, trial = usage["all.websocket.one"], usage["all.websocket.one.trial"]
    assert (live.admitted, live.denied, trial.admitted, trial.shadowed) == (5, 0, 2, 3)
    assert [units for _, units in live.heavy.heaviest(1, asyncio.get_running_loop().time())] == [5]
    latency = served.proxy.listener.routes.routes[0].stats.sockets.latency
    for number in range(70):
        socket.say(f"{number}")
        await application.heard()
    assert sum(latency.buckets) >= 2


async def test_empty_fragments_without_end_are_bounded(
    serve: Start, upstream: ScriptedUpstream, application: Application
) -> None:
    served = await serve(upstream.port, policies=policy("{json: {}}"))
    socket = await connect(served)
    socket.raw(part(TEXT, b"") + part(0, b"") * 20_000)
    assert (await socket.closed())[0] == 1009
    await nothing_of(application)
