"""One client connection: bytes to heads and bodies, answers to bytes, one exchange after the other (RFC 9112).

While an exchange runs, what the client pipelines waits as bytes, and reading stops where too many wait.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from proxy.batch import Outbox
from proxy.exchange import Exchange, Response
from proxy.forwarding import identify
from proxy.headers import Headers
from proxy.http1.chunked import ChunkedDecoder
from proxy.http1.framing import CHUNKED, NO_BODY, RequestFacts, check_host
from proxy.http1.head import RequestHeadParser
from proxy.listener.alone import by_tls, options, unrouted
from proxy.listener.connection import (
    BODY,
    BUSY,
    CLOSED,
    DRAIN,
    DRAIN_LIMIT,
    HEAD,
    LINGER,
    NEVER,
    TUNNEL,
    ClientConnection,
)
from proxy.listener.forward import Forwarder
from proxy.listener.handshake import is_handshake, propose
from proxy.listener.overload import OVERLOADED
from proxy.listener.rescue import refusal
from proxy.rejection import (
    BodyTooLarge,
    Draining,
    MalformedRequest,
    MethodNotImplemented,
    Overloaded,
    Rejection,
    SlowClient,
    TooManyConnections,
    UpgradeNotAllowed,
)
from proxy.target import authority, canonical

if TYPE_CHECKING:
    from proxy.listener.server import Listener
    from proxy.listener.websocket import Session
    from proxy.proxy_protocol import Source
    from proxy.routing import Route

PARTING_SECONDS = 1.0
"""What an idle connection has for one more request when the listener drains, so that none meets a closed door."""


class Downstream(ClientConnection):
    __slots__ = (
        "_chunked", "_forward", "_parser", "_peer", "_pumping", "_redirect", "_source", "_unwanted", "listener",
        "may_keep_alive", "parted",
    )  # fmt: skip

    def __init__(self, listener: Listener, source: Source | None = None, redirect: int = 0) -> None:
        """`source` is whom a PROXY head named; with `redirect`, every request is sent to that port by TLS."""
        super().__init__(listener.loop, listener.settings.timeouts)
        self.listener = listener
        self._source = source
        self._redirect = redirect
        self.may_keep_alive = True
        self.parted = False
        """Whether the client of a WebSocket has sent its close frame: nothing more of it can be lost."""
        self._parser = RequestHeadParser(listener.settings.max_head, listener.settings.max_fields)
        self._forward = Forwarder(self, listener.loop)
        self._unwanted: tuple[Exchange, Rejection] | None = None
        self._chunked: ChunkedDecoder | None = None
        self._pumping = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # create_server gives stream transports
        self._outbox = outbox = Outbox(self.listener.writer, self._transport)
        self.send = outbox.write
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = self.listener.peer_of(transport, self._source)
        self.deadline = self._loop.time() + self.timeouts.head
        refused = self.listener.admit(self, self._peer)
        if self.listener.floods(self._peer):
            self.cut()
        elif refused:
            self._refuse(TooManyConnections(refused, rule="listener.connections", retry_after=1.0))

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == HEAD:
            self._pump(data)
        elif state == BODY:
            self._pump_rest(self._on_body(data))
        elif state == TUNNEL:
            self._forward.on_tunnel_client_data(data)
        elif state == BUSY:
            self._backlog += data
            if len(self._backlog) > self.listener.settings.max_pipelined:
                self._transport.pause_reading()
        elif state == DRAIN:
            self._pump_rest(self._on_body(data))
        elif state == LINGER:
            self._body_left -= len(data)
            if self._body_left < 0:
                self._transport.abort()

    def eof_received(self) -> bool:
        """Half a close: what is asked already is still answered (RFC 9112 section 9.6)."""
        self._eof = True
        if self._state == TUNNEL:
            self._forward.on_tunnel_client_eof()
            return not self._transport.is_closing()
        if self._state == BUSY or self._pumping:
            return True
        if self._state == BODY and self._forward.exchange is not None:
            self._forward.on_client_gone()
        elif self._state == HEAD:
            self._end_half_closed()
            return True
        return False

    def _end_half_closed(self) -> None:
        """Nothing more will come."""
        if self._parser.begun:
            self._refuse(MalformedRequest("the connection ended within the request head", rule="http.head"))
        else:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = CLOSED
        self.listener.forget(self, self._peer)
        self._forward.on_client_gone()

    def pause_writing(self) -> None:
        self._blocked_since = self._loop.time()
        if self._forward.exchange is not None:
            self._forward.on_client_writable(False)

    def resume_writing(self) -> None:
        self._blocked_since = 0.0
        if self._forward.exchange is not None:
            self._forward.on_client_writable(True)
        elif self._state == BUSY:
            self._next()

    # requests

    def _pump(self, data: bytes) -> None:
        """Take one request after the other from `data` for as long as each is over at once."""
        if self._pumping:
            self._backlog = data
            return
        self._pumping = True
        try:
            while data and self._state == HEAD:
                data = self._head(data)
                if self._state in (BODY, DRAIN) and data:
                    data = self._on_body(data)
                if self._backlog:
                    data, self._backlog = data + self._backlog, b""
        finally:
            self._pumping = False
        if data and self._state < LINGER:
            self._backlog = data

    def _pump_rest(self, rest: bytes) -> None:
        if self._state == HEAD:
            data, self._backlog = rest + self._backlog, b""
            if data:
                self._pump(data)
        elif rest:
            self._backlog = rest + self._backlog

    def _head(self, data: bytes) -> bytes:
        parser = self._parser
        begun = parser.begun
        try:
            used = parser.feed(data)
        except Rejection as rejection:
            self._refuse(rejection)
            return b""
        if not used:
            if not begun:
                self.deadline = self._loop.time() + self.timeouts.head
            return b""
        exchange = Exchange(parser.method, parser.minor, parser.headers, self._peer.address, self._loop.time())
        try:
            self._start(exchange)
        except Rejection as rejection:
            self._answer_refusal(exchange, rejection)
        return data[used:] if used < len(data) else b""

    def _start(self, exchange: Exchange) -> None:
        listener = self.listener
        settings = listener.settings
        parser = self._parser
        headers = exchange.headers
        self.may_keep_alive = False
        self._body_left = NO_BODY
        self._chunked = None
        facts = parser.facts
        if facts is None:
            facts = parser.facts = RequestFacts(headers, exchange.minor, settings.underscored_headers)
        self.may_keep_alive = facts.persistent and not listener.draining
        self._body_left = exchange.body_length = length = facts.length
        if length == CHUNKED:
            self._chunked = ChunkedDecoder()
        identify(exchange, self._peer, settings.trusted)
        if exchange.method == b"TRACE":
            raise MethodNotImplemented("TRACE is not answered: it would echo credentials", rule="http.trace")
        exchange.path, exchange.query = canonical(
            parser.target, exchange.method, headers.index.get(b"host"), settings.target
        )
        if not exchange.host and (said := authority(parser.target)):
            if not check_host(said):
                raise MalformedRequest("the target's authority is no host", rule="http.host")
            exchange.host = said
        if self._redirect:
            self._answer_alone(exchange, by_tls(exchange, self._redirect))
            return
        websocket = facts.upgrades and is_handshake(exchange, length)
        if exchange.path == b"*":
            self._answer_alone(exchange, options())
            return
        route = listener.routes.match(exchange)
        if route is None:
            raise unrouted(exchange, listener.routes)
        exchange.route = route
        if listener.guard.level:
            self._relieve(route)
        if websocket:
            if not route.websocket:
                raise UpgradeNotAllowed("this route takes no WebSockets", rule=f"routes.{route.name}.websocket")
            if listener.draining:
                raise Draining("WebSockets are opened elsewhere now", rule="listener.drain", retry_after=1.0)
            exchange.websocket = True
            propose(exchange, route.sockets)
        if length > route.limits.max_body:
            self._refuse_body(
                exchange, BodyTooLarge(f"the body exceeds {route.limits.max_body} bytes", rule="limits.max_body")
            )
            return
        self._state = BUSY if length == NO_BODY else BODY
        self.deadline = exchange.started + listener.first_check
        self._forward.begin(exchange, route, length, expects=facts.expects)

    def _relieve(self, route: Route) -> None:
        """The process is near its limits: connections are not kept, and then only critical routes are served."""
        self.may_keep_alive = False
        guard = self.listener.guard
        if guard.level == OVERLOADED and route.priority:
            guard.refused += 1
            raise Overloaded("the proxy itself is near its limits", rule="listener.overload", retry_after=1.0)

    def _refuse_body(self, exchange: Exchange, rejection: Rejection) -> None:
        """At once where the client waits for leave to send it; else when it begins, since one that only announces a
        body is a slow client."""
        if b"expect" in exchange.headers.index:
            raise rejection
        self._unwanted = (exchange, rejection)
        self._state = BODY
        self.deadline = exchange.started + self.timeouts.body_progress

    # bodies

    def _on_body(self, data: bytes) -> bytes:
        """Hand body bytes on (or drop them, draining); return what follows the message."""
        if self._unwanted is not None:
            (exchange, rejection), self._unwanted = self._unwanted, None
            self._answer_refusal(exchange, rejection)
            return self._on_body(data) if self._state == DRAIN else b""
        draining = self._state == DRAIN
        rest = b""
        if self._chunked is not None:
            try:
                payload = self._chunked.feed(data)
            except Rejection as rejection:
                self._broken_body(rejection)
                return b""
            ended = self._chunked.done
            rest = self._chunked.rest if ended else b""
            size = len(data)
        else:
            size = len(data)
            if size > self._body_left:
                payload, rest = data[: self._body_left], data[self._body_left :]
            else:
                payload = data
            self._body_left -= len(payload)
            ended = self._body_left == 0
        if draining:
            return self._on_drained(size, ended, rest)
        if payload:
            self._forward.on_client_data(payload)
        if ended:
            if self._state == BODY:
                self._state = BUSY
                self._forward.on_client_end(self._chunked.trailers if self._chunked else [])
            elif self._state == DRAIN:
                self._next()
        return rest

    def _broken_body(self, rejection: Rejection) -> None:
        if self._forward.exchange is not None and self._state == BODY:
            self._forward.refuse(rejection)
        else:
            self._linger()

    def _on_drained(self, size: int, ended: bool, rest: bytes) -> bytes:
        self._drained += size
        if ended:
            self._next()
        elif self._drained > DRAIN_LIMIT:
            self._linger()
        return rest

    def can_drain(self, expects: bool) -> bool:
        """Whether the rest of the request is small enough to be read and dropped."""
        if self._state != BODY:
            return True
        return not expects and self._chunked is None and self._body_left <= DRAIN_LIMIT

    # what the Forwarder calls

    @property
    def session(self) -> Session | None:
        """The WebSocket that runs."""
        return self._forward.session if self._state == TUNNEL else None

    @property
    def speaks_11(self) -> bool:
        """Whether the client of the exchange that runs knows interim answers."""
        exchange = self._forward.exchange
        return exchange is not None and exchange.minor > 0

    def on_tunnel(self) -> None:
        self._state = TUNNEL
        early, self._backlog = self._backlog, b""
        if early:
            self._forward.on_tunnel_client_data(early)
        if self._state == TUNNEL and not self.held and not self._transport.is_closing():
            self._transport.resume_reading()
        listener, exchange = self.listener, self._forward.exchange
        if listener.draining:
            self._forward.drain(listener.drain_until - self._loop.time())
        elif listener.reconnect_within and exchange is not None and exchange.route not in listener.routes.routes:
            self._forward.drain(listener.reconnect_within)
        if self._eof:
            self._forward.on_tunnel_client_eof()

    def on_exchange_end(self, exchange: Exchange, *, clean: bool, keep_alive: bool) -> None:
        self.listener.on_exchange_end(exchange)
        if self._state == CLOSED:
            return
        self.read_on()
        if not clean and not exchange.minor:
            self._reset()
        elif self._state == TUNNEL and not self.parted:
            self._linger()
        elif not clean or self._state == TUNNEL:
            self._close()
        elif not keep_alive:
            self._linger() if self._state == BODY or self._backlog else self._close()
        elif self._state == BODY:
            self._state = DRAIN
            self._drained = 0
            self.deadline = self._loop.time() + self.timeouts.body_progress
        else:
            self._next()

    def _next(self) -> None:
        """Ready for the next request, which may be waiting already; not before the client takes its answers."""
        if self._blocked_since:
            self._state = BUSY
            self._wait_for_reader(self.timeouts.write_stall)
            return
        self._state = HEAD
        self.deadline = self._loop.time() + self.timeouts.idle
        if self._backlog and not self._pumping:
            data, self._backlog = self._backlog, b""
            if not self._eof:
                self._transport.resume_reading()
            self._pump(data)
        if self._eof and self._state == HEAD and not self._pumping:
            self._end_half_closed()

    # ends

    def _refuse(self, rejection: Rejection) -> None:
        """Refuse before there is a whole request head."""
        parser = self._parser
        exchange = Exchange(parser.method or b"-", 1, Headers(parser.pairs), self._peer.address, self._loop.time())
        self.may_keep_alive = False
        self._answer_refusal(exchange, rejection)

    def _answer_refusal(self, exchange: Exchange, rejection: Rejection) -> None:
        """Refuse before a route's chain has begun; the default chain's answer hooks run all the same."""
        exchange.rejection = rejection.reason
        self.listener.name(exchange)
        self.listener.on_rejected(exchange, rejection)
        if rejection.ends_connection or b"expect" in exchange.headers.index or not 0 <= self._body_left <= DRAIN_LIMIT:
            self.may_keep_alive = False
        self._answer_alone(exchange, refusal(exchange, rejection))

    def _answer_alone(self, exchange: Exchange, response: Response) -> None:
        """Answer without a chain's request hooks and without an upstream."""
        if not exchange.request_id:
            self.listener.name(exchange)
        chain = exchange.route.chain if exchange.route else self.listener.default_chain
        chain.on_response(exchange, response)
        unread = self._body_left != NO_BODY
        self._forward.answer_alone(exchange, response)
        keep_alive = self.may_keep_alive
        self._state = BODY if unread else BUSY
        if not keep_alive:
            self._state = BODY
        self.on_exchange_end(exchange, clean=True, keep_alive=keep_alive)

    def sweep(self, now: float) -> None:
        """The deadline is over; called by the listener."""
        if self._forward.exchange is not None:
            self._forward.check(now)
            return
        self.deadline = NEVER
        if self._unwanted is not None:
            (exchange, _), self._unwanted = self._unwanted, None
            self._answer_refusal(exchange, SlowClient("the body never came", rule="timeouts.body_progress"))
        elif self._state == HEAD and self._parser.begun:
            self._refuse(SlowClient("the request head came too slowly", rule="timeouts.head"))
        elif self._state == HEAD:
            self._close()
        elif self._state == DRAIN:
            self._linger()
        elif self._state in (BUSY, LINGER) and 0 < self._transport.get_write_buffer_size() < self._drained:
            self._wait_for_reader(0.0)
        else:
            self._transport.abort()

    def close_if_idle(self, seconds: float) -> None:
        """Draining: a connection that waits for its next request ends soon; a WebSocket is told within that time.

        A request that is under way while it waits is answered, and told that it is the last (RFC 9112 section 9.6).
        """
        self.may_keep_alive = False
        if self._state == TUNNEL:
            self._forward.drain(seconds)
        elif self._state == BUSY and self._forward.exchange is None:
            self._close()
        elif self._state == HEAD and not self._parser.begun:
            self.deadline = min(self.deadline, self._loop.time() + min(seconds / 2, PARTING_SECONDS))
