"""One request and its answer, or one WebSocket session: what the filters, the routes and the telemetry look at."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from proxy.headers import Headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.filters.identity import Verified
    from proxy.filters.throttle import Throttled
    from proxy.routing import Route
    from proxy.upstream.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule decided on one exchange; `enforced` is false where the rule only shadows."""

    rule: str
    reason: str
    status: int
    enforced: bool
    detail: str = ""
    """Of what was changed: words of the policy, nothing of what was sent."""
    why: str = ""
    """What a client would have been told; of a rule that only shadows."""


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
    that the trusted proxies vouch for, `peer` the one that the connection has. What most exchanges never set is a
    default of the class: twenty stores fewer, 0.3 µs an exchange.
    """

    scheme = b"http"
    public_host = b""
    """What trusted proxies say that the client asked for, where that is not what they asked for themselves."""
    path = b""
    query = b""
    route: Route | None = None
    websocket = False
    body_length = 0
    request_id = b""
    correlation_id = b""
    traceparent = b""
    sampled = False
    """Whether it has a span of its own, below `parent_span` of the client's."""
    parent_span = b""
    names = b""
    """The header lines that tell request id and correlation id."""
    nonce = b""
    claims: Mapping[str, Any] | None = None
    """Of a token that was verified; None for who is not known."""
    certificate = ""
    """The name in the client's certificate, which the listener has verified."""
    user = ""
    api_key = ""
    """The name of the API key that was sent and is good."""
    verified: Verified | None = None
    """The token that `claims` are of, for what outlives its check (a WebSocket)."""
    throttled: Throttled | None = None
    begun = -1
    """How far the chain's request hooks got; below -1 (as -2 - begun) once the exchange is complete."""
    bytes_in = 0
    bytes_out = 0
    status = 0
    cluster: Cluster | None = None
    endpoint = ""
    asked = False
    """Whether the upstream was sent its head."""
    deadline = float("inf")
    """Seconds of the loop's clock."""
    deadline_told = False
    """Whether the upstream is to know it, since the client asked for one."""
    upstream_time = -1.0
    verdicts: tuple[Verdict, ...] = ()
    rejection = ""
    failure = ""
    decision = b""
    """The id of its refusal, for who asks why."""
    cached = ""
    """What the route's cache made of it; empty where it has none."""
    looked_at: Sequence[Any] = ()
    """The values that inspection read, where it learns from them."""
    sent: Headers | None = None
    """The fields for the upstream, where a cache changes them; `headers` stay what was received."""
    sent_query: bytes | None = None

    def __init__(self, method: bytes, minor: int, headers: Headers, peer: str, started: float) -> None:
        self.method = method
        self.minor = minor
        self.headers = headers
        self.peer = peer
        self.client = peer
        self.started = started
        self.began = perf_counter()
        """To measure by: the loop's clock, which deadlines use, stands still within a tick and counts milliseconds."""
        self.host = headers.index.get(b"host", b"")
        self.asserted: list[bytes] = []
        """Header lines for the upstream, set by the proxy and by its filters."""
