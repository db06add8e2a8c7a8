"""One request and its answer, or one WebSocket session: what the filters, the routes and the telemetry look at."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from proxy.headers import Headers

if TYPE_CHECKING:
    from proxy.routing import Route


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule decided on one exchange; `enforced` is false where the rule only shadows."""

    rule: str
    reason: str
    status: int
    enforced: bool


class Response:
    """An answer's head: the upstream's, or one of our own.

    `blocks` are header lines made at load time, written after `headers` as they are.
    """

    __slots__ = ("blocks", "body", "headers", "own", "reason", "status")

    def __init__(self, status: int, reason: bytes, headers: Headers, *, body: bytes = b"", own: bool = False) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.blocks: list[bytes] = []
        self.body = body
        self.own = own


class Answered(Exception):
    """A filter answers in the upstream's place, and it is no refusal (a CORS preflight, say)."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Payload:
    """A whole HTTP body; a hook may replace `data`."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Exchange:
    """Identity, route and verdicts of one exchange. Times are seconds of the event loop's clock.

    `method`, `path`, `query`, `host` and `headers` are what was received, in canonical form; `client` is the address
    that the trusted proxies vouch for, `peer` the one that the connection has.
    """

    __slots__ = (
        "asserted", "began", "begun", "body_length", "bytes_in", "bytes_out",
        "client", "cluster", "correlation_id", "endpoint",
        "failure", "headers", "host", "method", "minor", "names", "nonce", "path", "peer", "query", "rejection",
        "request_id", "route", "scheme", "started", "status", "traceparent", "upstream_started", "upstream_time",
        "verdicts", "websocket",
    )  # fmt: skip

    def __init__(self, method: bytes, minor: int, headers: Headers, peer: str, started: float) -> None:
        self.method = method
        self.minor = minor
        self.headers = headers
        self.peer = peer
        self.client = peer
        self.scheme = b"http"
        self.started = started
        self.began = perf_counter()
        """To measure by: the loop's clock, which deadlines use, stands still within a tick and counts milliseconds."""
        self.path = b""
        self.query = b""
        self.host = headers.index.get(b"host", b"")
        self.route: Route | None = None
        self.websocket = False
        self.request_id = b""
        self.correlation_id = b""
        self.traceparent = b""
        self.names = b""
        """The header lines that tell request id and correlation id."""
        self.nonce = b""
        self.asserted: list[bytes] = []
        """Header lines for the upstream, set by the proxy and by its filters."""
        self.begun = -1
        self.body_length = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.cluster = ""
        self.endpoint = ""
        self.upstream_started = 0.0
        self.upstream_time = -1.0
        self.verdicts: tuple[Verdict, ...] = ()
        self.rejection = ""
        self.failure = ""
