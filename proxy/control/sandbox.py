"""A policy asked without serving by it: its own listener on loopback, stand-ins for all that lies behind.

Verdicts are the data plane's, since it is the data plane that gives them. Redis, health checks, breakers and TLS are
left out; limits are this process's own, and for them time stands still: a slow machine changes no verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from proxy.app import Proxy
from proxy.exchange import Exchange
from proxy.policy.model import Policy
from proxy.rejection import Rejection
from proxy.telemetry.decisions import limits_of, trace
from proxy.throttle.local import LocalLimiter

DEADLINE = 10.0
QUIET = 0.5
"""Seconds in which a WebSocket message has come back, or was dropped."""
MAX_ANSWER = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it goes out; `client` is the address that it comes from."""

    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    client: str = ""

    def encoded(self) -> bytes:
        """With Host, Content-Length and Connection where they were not given."""
        given = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if "host" not in given:
            lines.append("Host: localhost")
        lines += [f"{name}: {value}" for name, value in self.headers]
        sized = "content-length" in given or "transfer-encoding" in given
        if not sized and (self.body or self.method in ("POST", "PUT", "PATCH")):
            lines.append(f"Content-Length: {len(self.body)}")
        if "connection" not in given:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body


@dataclass(slots=True)
class Stub:
    """What the upstream answers."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    body: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Reached:
    """A request as the upstream got it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Verdicts:
    """What became of one request. `rule` and `reason` are empty where nothing refused it."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    route: str = ""
    cluster: str = ""
    rule: str = ""
    reason: str = ""
    detail: str = ""
    remedy: str = ""
    filters: list[dict[str, Any]] = field(default_factory=list)
    shadow: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    cache: str = ""
    """What the cache says of it (RFC 9211), or what it came to in shadow."""
    upstream: Reached | None = None

    @property
    def word(self) -> str:
        return f"refused {self.status} {self.reason} by {self.rule}" if self.rule else f"passed {self.status}"


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one WebSocket message: what came back for it, or the close."""

    text: str = ""
    code: int = 0
    rule: str = ""


class Sandbox:
    """`async with Sandbox(policy) as box: await box.ask(Asked("GET", "/"))`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.stub = Stub()
        self._reached: list[Reached] = []
        self._ended: asyncio.Queue[Exchange] = asyncio.Queue()
        self._refused: dict[int, Rejection] = {}
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._upstream), access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = int(self._runner.addresses[0][1])
        try:
            self.proxy = Proxy(isolated(self._policy, port))
            limiter = self.proxy.shared.limiter
            if isinstance(limiter, LocalLimiter):
                limiter.clock = _still
            listener = self.proxy.listener
            listener.on_exchange_end = self._seen(listener.on_exchange_end)
            listener.on_rejected = self._noted(listener.on_rejected)
            await self.proxy.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.proxy.stop(0)
        if self._runner is not None:
            await self._runner.cleanup()

    def _seen(self, then: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        def ended(exchange: Exchange) -> None:
            then(exchange)
            self._ended.put_nowait(exchange)

        return ended

    def _noted(self, then: Callable[[Exchange, Rejection], None]) -> Callable[[Exchange, Rejection], None]:
        def rejected(exchange: Exchange, rejection: Rejection) -> None:
            then(exchange, rejection)
            self._refused[id(exchange)] = rejection

        return rejected

    async def _upstream(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        if request.headers.get("upgrade", "").lower() == "websocket":
            self._reached.append(Reached(request.method, request.raw_path, headers, b""))
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await socket.send_str(message.data)
                elif message.type is aiohttp.WSMsgType.BINARY:
                    await socket.send_bytes(message.data)
            return socket
        body = await request.content.read()
        self._reached.append(Reached(request.method, request.raw_path, headers, body))
        stub = self.stub
        answer = web.Response(status=stub.status, body=stub.body if request.method != "HEAD" else b"")
        for name, value in stub.headers:
            if name.lower() == "content-type":
                answer.headers[name] = value
            else:
                answer.headers.add(name, value)
        return answer

    async def ask(self, asked: Asked) -> Verdicts:
        """Raises TimeoutError where no answer comes, and ConnectionError where it is cut."""
        self._begin(asked.client)
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.listener.port, limit=MAX_ANSWER)
            try:
                writer.write(asked.encoded())
                status, headers, body = await _answer(reader, asked.method)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            exchange = await self._ended.get()
        verdicts = self._verdicts(exchange)
        verdicts.status, verdicts.headers, verdicts.body = status, headers, body
        verdicts.cache = dict(headers).get("cache-status", exchange.cached and f"{exchange.cached} (shadow)")
        return verdicts

    def _begin(self, client: str) -> None:
        self.proxy.listener.stand_in = client
        self._reached.clear()
        while not self._ended.empty():
            self._ended.get_nowait()

    def _verdicts(self, exchange: Exchange) -> Verdicts:
        rejection = self._refused.pop(id(exchange), None)
        found = Verdicts(
            route=exchange.route.name if exchange.route else "",
            cluster=exchange.cluster.name if exchange.cluster else "",
            filters=trace(exchange),
            shadow=[one.rule for one in exchange.verdicts if not one.enforced and one.reason != "changed"],
            changes=[f"{one.rule}: {one.detail}" for one in exchange.verdicts if one.reason == "changed"],
            limits=limits_of(exchange),
            upstream=self._reached[0] if self._reached else None,
            status=exchange.status,
        )
        if rejection is not None:
            found.rule, found.reason = rejection.rule, rejection.reason
            found.detail, found.remedy = rejection.detail, rejection.remedy
        return found

    async def talk(self, asked: Asked, messages: list[str]) -> tuple[Verdicts, list[Told]]:
        """A WebSocket: the handshake's verdicts, and what came back for each message; none after a close."""
        self._begin(asked.client)
        url = f"http://127.0.0.1:{self.proxy.listener.port}{asked.target}"
        told: list[Told] = []
        async with asyncio.timeout(DEADLINE + len(messages)), aiohttp.ClientSession() as session:
            try:
                async with session.ws_connect(url, headers=dict(asked.headers)) as socket:
                    for text in messages:
                        await socket.send_str(text)
                        told.append(await _said(socket))
                        if told[-1].code:
                            break
                    status = 101
            except aiohttp.WSServerHandshakeError as error:
                status = error.status
            exchange = await self._ended.get()
        verdicts = self._verdicts(exchange)
        verdicts.status = status
        if status == 101:
            if told and told[-1].code:
                told[-1] = Told("", told[-1].code, verdicts.rule)
            verdicts.rule = verdicts.reason = verdicts.detail = verdicts.remedy = ""
        return verdicts, told


def _still() -> float:
    return 1_234.5


async def _said(socket: aiohttp.ClientWebSocketResponse) -> Told:
    try:
        async with asyncio.timeout(QUIET):
            message = await socket.receive()
    except TimeoutError:
        return Told()
    if message.type is aiohttp.WSMsgType.TEXT:
        return Told(message.data)
    return Told("", socket.close_code or 1006)


async def _answer(reader: asyncio.StreamReader, method: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """The final answer, past informational ones; the connection ends with it."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        if status >= 200:
            break
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]
    fields = dict(headers)
    if method == "HEAD" or status in (204, 304):
        return status, headers, b""
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        return status, headers, body
    if "content-length" in fields:
        return status, headers, await reader.readexactly(int(fields["content-length"]))
    return status, headers, await reader.read()


def isolated(policy: Policy, port: int) -> Policy:
    """With every cluster led to that port of this machine, and nothing that reaches further."""
    here = ("127.0.0.1", 0)
    clusters = {
        name: cluster.model_copy(
            update={"endpoints": [("127.0.0.1", port)], "breaker": None, "health": None, "outlier": None}
        )
        for name, cluster in policy.clusters.items()
    }
    return policy.model_copy(
        update={
            "listener": policy.listener.model_copy(update={"address": here}),
            "admin": policy.admin.model_copy(update={"address": here, "token": None}),
            "access_log": policy.access_log.model_copy(update={"enabled": False}),
            "redis": None,
            "clusters": clusters,
        }
    )


def request_of(method: str, url: str, headers: Mapping[str, str], body: bytes = b"", client: str = "") -> Asked:
    """From a URL: its host becomes Host, the rest is sent as it stands."""
    target, fields = url, dict(headers)
    if "://" in url:
        rest = url.split("://", 1)[1]
        host, slash, path = rest.partition("/")
        target = slash + path or "/"
        if not any(name.lower() == "host" for name in fields):
            fields = {"Host": host, **fields}
    return Asked(method, target, tuple(fields.items()), body, client)
