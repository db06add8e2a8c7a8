"""Routes with a filter that reads payloads: whole bodies, within the route's limit, both ways."""

from __future__ import annotations

import asyncio

import pytest

from proxy.exchange import Exchange, Payload
from proxy.filter import Filter, FilterChain
from proxy.rejection import Forbidden
from tests.conftest import Served, Start
from tests.wire import ScriptedUpstream


class Upper(Filter):
    """Shouts, both ways; waits before it reads a request; refuses `no`."""

    def __init__(self) -> None:
        self.completed = 0

    async def on_client_payload(self, exchange: Exchange, payload: Payload) -> None:
        await asyncio.sleep(0)
        if payload.data == b"no":
            raise Forbidden("no means no", rule="test.upper")
        payload.data = payload.data.upper()

    def on_upstream_payload(self, exchange: Exchange, payload: Payload) -> None:
        payload.data += b"!"

    def on_complete(self, exchange: Exchange) -> None:
        self.completed += 1


def shouting(served: Served) -> Upper:
    made = Upper()
    route = served.proxy.compiled.routes.routes[0]
    route.chain = FilterChain((*route.chain.filters, made))
    return made


async def test_a_filter_changes_both_bodies(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    shout = shouting(served)
    status, fields, body = await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    assert status == 200
    assert body.endswith(b"\r\n\r\nHELLO!")
    assert int(fields["content-length"]) == len(body)
    assert shout.completed == 1


async def test_chunks_are_put_together(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    shouting(served)
    wire = await served.connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
    wire.send(b"2\r\nlo\r\n0\r\n\r\n")
    _, _, body = await wire.answer()
    assert b"content-length: 5\r\n" in body
    assert body.endswith(b"\r\n\r\nHELLO!")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_a_changed_body_changes_no_later_request_with_the_same_fields(
    serve: Start, upstream: ScriptedUpstream, request_bytes: bytes
) -> None:
    served = await serve(upstream.port)
    route = served.proxy.compiled.routes.routes[0]
    plain = route.chain
    wire = await served.connect()
    head, body = request_bytes.split(b"\r\n\r\n", 1)
    for buffers in (True, False, True, False):
        route.chain = FilterChain((*plain.filters, Longer())) if buffers else plain
        wire.send(head + b"\r\n\r\n")
        await asyncio.sleep(0)
        wire.send(body)
        _, _, echoed = await wire.answer()
        expected = b"hello and more" if buffers else b"hello"
        assert echoed.count(b"content-length: ") + echoed.count(b"transfer-encoding: ") == 1
        if buffers or b"Content-Length" in head:
            assert b"content-length: %d\r\n" % len(expected) in echoed
            assert echoed.endswith(b"\r\n\r\n" + expected)


class Longer(Filter):
    def on_client_payload(self, exchange: Exchange, payload: Payload) -> None:
        payload.data += b" and more"


async def test_a_payload_is_refused_before_the_upstream_hears_of_it(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    shout = shouting(served)
    status, _, _ = await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nno")
    assert (status, upstream.connections, shout.completed) == (403, 0, 1)


async def test_more_than_the_route_buffers_is_refused(serve: Start, upstream: ScriptedUpstream) -> None:
    served = await serve(upstream.port)
    shouting(served)
    body = b"x" * (1024 * 1024 + 1)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    status, _, _ = await served.ask(head + body + b"\r\n0\r\n\r\n")
    assert (status, upstream.connections) == (413, 0)


async def test_an_upstream_body_too_large_to_check_is_no_answer(serve: Start, upstream: ScriptedUpstream) -> None:
    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + bytes(2_000_000))
        await reader.read()

    upstream.script = large
    served = await serve(upstream.port)
    shouting(served)
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 502
