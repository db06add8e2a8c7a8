"""The rules of an exchange, over real sockets: what the client gets, what the upstream gets, what is given back."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from proxy.websocket.frames import TEXT, frame, unmasked
from tests.conftest import Start
from tests.wire import Reader, ScriptedUpstream, Writer, read_request

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: app.test\r\n\r\n"


async def test_keep_alive_serves_one_request_after_the_other(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port)).connect()
    for _ in range(3):
        wire.send(GET)
        status, fields, body = await wire.answer()
        assert status == 200
        assert body.startswith(b"GET /a?b=1 HTTP/1.1\r\n")
        assert fields["x-frame-options"] == "SAMEORIGIN"
        assert "server" not in fields
        assert "x-powered-by" not in fields
    assert upstream.connections == 1


async def test_pipelined_requests_are_answered_in_order(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(50)))
    for n in range(50):
        status, _, body = await wire.answer()
        assert status == 200
        assert body.startswith(b"GET /%d HTTP" % n)


async def test_more_pipelined_bytes_than_the_bound_wait_in_the_socket(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, bounds="{pipelined: 1KiB}")
    wire = await served.connect()
    wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(2000)))
    for n in range(2000):
        assert (await wire.answer())[2].startswith(b"GET /%d HTTP" % n)


async def test_identity_is_asserted_and_not_believed(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    _, fields, body = await served.ask(
        b"GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
        b"X-Real-IP: 6.6.6.6\r\n"
        b"Connection: x-secret, host, keep-alive\r\nX-Secret: 1\r\nX-Correlation-ID: corr-12345678\r\n\r\n"
    )
    assert b"6.6.6.6" not in body
    assert b"x-secret" not in body
    assert b"x-forwarded-for: 127.0.0.1\r\n" in body
    assert b'forwarded: for=127.0.0.1;proto=http;host="app.test"\r\n' in body
    assert b"host: app.test\r\n" in body
    assert b"via: 1.1 simplepro-proxy\r\n" in body
    assert fields["x-correlation-id"] == "corr-12345678"
    assert f"x-request-id: {fields['x-request-id']}".encode() in body


async def test_trusted_proxies_vouch_for_the_nearest_untrusted_hop(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, trusted="[127.0.0.0/8, 10.0.0.0/8]")
    _, fields, body = await served.ask(
        b"GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3\r\n"
        b"X-Forwarded-Proto: https\r\n\r\n"
    )
    assert b"x-forwarded-for: 203.0.113.7, 10.1.2.3, 127.0.0.1\r\n" in body
    assert b"x-forwarded-proto: https\r\n" in body
    assert fields["strict-transport-security"].startswith("max-age=")


async def test_head_has_no_body_and_the_connection_goes_on(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port)).connect()
    for _ in range(2):
        wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields, _ = await wire.answer(head_only=True)
        assert (status, int(fields["content-length"]) > 0) == (200, True)
    wire.send(GET)
    assert (await wire.answer())[0] == 200


async def test_chunked_both_ways_with_trailers(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen = await reader.readuntil(b"x-sum: 1\r\n\r\n")
        assert seen == b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 2\r\n\r\n")

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await asyncio.sleep(0.05)
    wire.send(b"6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n")
    await wire.head()
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"3\r\nabc\r\n0\r\nx-t: 2\r\n\r\n"


async def test_expect_is_answered_after_the_policies(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, policies="{request: {media_types: [application/json]}}")
    wire = await served.connect()
    wire.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n"
    )
    assert (await wire.head())[0] == 100
    wire.send(b"{}")
    status, _, body = await wire.answer()
    assert status == 200
    assert body.endswith(b"\r\n\r\n{}")
    assert b"expect" not in body
    refused = await served.connect()
    refused.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: text/x\r\nContent-Length: 2\r\n\r\n"
    )
    status, fields, _ = await refused.answer()
    assert (status, fields["connection"]) == (415, "close")


async def test_an_early_answer_passes_at_once(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
    assert (await wire.answer())[::2] == (403, b"no")
    wire.send(b"x" * 996)
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await wire.answer())[0] == 403


async def test_half_close_is_answered(serve: Start, upstream: ScriptedUpstream) -> None:
    wire = await (await serve(upstream.port)).connect()
    wire.send(GET)
    wire.half_close()
    assert (await wire.answer())[0] == 200
    assert await wire.rest() == b""


async def test_an_event_stream_passes_event_by_event(serve: Start, upstream: ScriptedUpstream) -> None:
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go.wait()
        writer.write(b"data: 2\n\n")

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(GET)
    assert (await wire.head())[1]["transfer-encoding"] == "chunked"
    assert await wire.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
    go.set()
    assert await wire.reader.readuntil(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


async def test_a_stale_connection_is_replaced_for_a_safe_request_only(serve: Start, upstream: ScriptedUpstream) -> None:
    seen: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            head, _ = await read_request(reader)
            seen.append(head.split(b" ")[0])
            if len(seen) % 2 == 0:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    wire.send(GET)
    assert (await wire.answer())[0] == 200
    assert seen == [b"GET", b"GET", b"GET"]
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
    status, _, body = await wire.answer()
    assert status == 502
    assert orjson.loads(body)["rule"] == "builtin.upstream-reset"
    assert seen == [b"GET", b"GET", b"GET", b"POST"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "invalid-upstream-response"),
        (b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", "invalid-upstream-response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "invalid-upstream-response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "invalid-upstream-response"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "invalid-upstream-response"),
        (b"rubbish", "invalid-upstream-response"),
        (b"", "upstream-reset"),
    ],
)
async def test_an_invalid_answer_becomes_a_502(
    serve: Start, upstream: ScriptedUpstream, answer: bytes, reason: str
) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(answer)

    upstream.script = script
    status, _, body = await (await serve(upstream.port)).ask(GET)
    assert status == 502
    assert orjson.loads(body)["type"].endswith(reason)


async def test_an_upstream_that_dies_in_mid_body_cuts_the_message(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(GET)
    await wire.head()
    assert await wire.rest() == b"3\r\nabc\r\n"


async def test_a_client_that_resets_in_mid_upload_frees_the_upstream(serve: Start, upstream: ScriptedUpstream) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"half")
        begun.set()
        try:
            await reader.read()
        finally:
            ended.set()

    upstream.script = script
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
    await asyncio.wait_for(begun.wait(), 5)
    wire.reset()
    await asyncio.wait_for(ended.wait(), 5)
    await served.settled()


async def test_a_reader_that_stops_is_cut(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    upstream.script = script
    served = await serve(upstream.port, timeouts="{write_stall: 300ms}")
    wire = await served.connect()
    wire.send(GET)
    await wire.head()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a stream transport
    await served.settled()


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        (b"GET / HT", "timeouts.head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", "timeouts.body_progress"),
    ],
)
async def test_slow_clients_are_told(serve: Start, upstream: ScriptedUpstream, sent: bytes, rule: str) -> None:
    served = await serve(upstream.port, timeouts="{head: 200ms, body_progress: 200ms}")
    status, _, body = await served.ask(sent)
    assert status == 408
    assert orjson.loads(body)["rule"] == rule


async def test_a_silent_upstream_is_a_504(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.read()

    upstream.script = script
    served = await serve(upstream.port, route_timeouts="{per_try: 200ms}", timeouts="{body_progress: 100ms}")
    status, _, body = await served.ask(GET)
    assert status == 504
    assert orjson.loads(body)["rule"] == "timeouts.per_try"


async def test_the_queue_for_connections_has_a_bound_and_a_deadline(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.read()

    upstream.script = script
    served = await serve(upstream.port, max_connections=1, max_waiting=1)
    wires = [await served.connect() for _ in range(3)]
    wires[0].send(GET)
    await asyncio.sleep(0.1)
    for wire in wires[1:]:
        wire.send(GET)
    answers = [await wire.answer() for wire in wires[1:]]
    assert [status for status, _, _ in answers] == [503, 503]
    details = {orjson.loads(body)["detail"] for _, _, body in answers}
    assert details == {"1 requests wait for a connection already", "no connection became free within 0.3 s"}


async def test_nobody_listens(serve: Start) -> None:
    status, fields, body = await (await serve(1)).ask(GET)
    assert status == 503
    assert orjson.loads(body)["remedy"]
    assert fields["x-content-type-options"] == "nosniff"


async def test_draining_ends_answers_with_close(serve: Start, upstream: ScriptedUpstream) -> None:
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    served = await serve(upstream.port)
    busy, idle = await served.connect(), await served.connect()
    busy.send(GET)
    await asyncio.sleep(0.05)
    draining = asyncio.create_task(served.proxy.listener.drain(5))
    assert await idle.rest() == b""
    assert not draining.done()
    go.set()
    assert (await busy.answer())[::2] == (200, b"ok")
    assert await busy.rest() == b""
    assert await draining


async def test_a_websocket_is_relayed(serve: Start, upstream: ScriptedUpstream) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        head, _ = await read_request(reader)
        assert b"upgrade: websocket\r\n" in head
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" + frame(TEXT, b"hello", masked=False)
        )
        while data := await reader.readexactly(9):
            if data[0] == 0x88:
                break
            writer.write(frame(TEXT, unmasked(data, 6, True)[::-1], masked=False))

    upstream.script = script
    served = await serve(upstream.port)
    wire = await served.connect()
    wire.send(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    status, fields = await wire.head()
    assert (status, fields["upgrade"]) == (101, "websocket")
    assert fields["x-frame-options"] == "SAMEORIGIN"
    assert await wire.reader.readexactly(7) == frame(TEXT, b"hello", masked=False)
    wire.send(frame(TEXT, b"abc", masked=True))
    assert await wire.reader.readexactly(5) == frame(TEXT, b"cba", masked=False)
    wire.half_close()
    assert await wire.rest() == b""
    await served.settled()


async def test_a_large_upload_is_streamed(serve: Start, upstream: ScriptedUpstream) -> None:
    size, total = 9 * 1024 * 1024, 0

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal total
        await reader.readuntil(b"\r\n\r\n")
        while total < size:
            total += len(await reader.read(65536))
            await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    wire = await (await serve(upstream.port)).connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    wire.send(b"x" * size)
    assert (await wire.answer())[0] == 200
    assert total == size


async def test_a_body_over_the_limit_is_refused(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    status, fields, _ = await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\nx")
    assert (status, fields["connection"]) == (413, "close")

    async def script(reader: Reader, writer: Writer) -> None:
        while await reader.read(65536):
            pass

    upstream.script = script
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    wire = await served.connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 11)
    assert (await wire.answer())[0] == 413


async def test_a_client_that_opens_connections_too_fast_is_cut(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port, bounds="{connection_rate: 5}")
    wires = [await served.connect() for _ in range(30)]
    for wire in wires:
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    cut = 0
    for wire in wires:
        try:
            assert (await wire.answer())[0] == 200
        except (ConnectionResetError, asyncio.IncompleteReadError):
            cut += 1
    assert 15 <= cut <= 25, "five a second, over one or two seconds"
    assert served.proxy.listener.stats.rejections["listener.connection_rate", "connection-flood", "enforce"] == cut
    assert served.proxy.listener.open_connections == 30 - cut
