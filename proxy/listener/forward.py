"""One exchange at a time for one client connection: chain, cluster, endpoint, and the way back.

Driven by callbacks: no task exists unless a filter has to wait. The Forwarder is the Waiter of a pool and the Receiver
of an upstream connection; `client` is the connection that it works for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from proxy.exchange import Answered, Exchange, Payload, Response
from proxy.forwarding import request_head
from proxy.headers import HOP_BY_HOP, Pair, named_by_connection
from proxy.http1.chunked import encode_chunk, encode_last_chunk
from proxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE
from proxy.listener.buffering import BodyBuffer
from proxy.listener.rescue import REASONS, refusal
from proxy.listener.tunnel import Tunnel
from proxy.rejection import (
    BodyTooLarge,
    InternalError,
    InvalidUpstreamResponse,
    Rejection,
    SlowClient,
    UpstreamTimeout,
)
from proxy.upstream.cluster import Endpoint
from proxy.upstream.connection import UpstreamConnection

if TYPE_CHECKING:
    from proxy.listener.http1 import Downstream
    from proxy.routing import Route

log = logging.getLogger(__name__)

PENDING_LIMIT = 64 * 1024
"""Bytes of a request body held while no upstream connection is there yet; then the client is not read from."""

REMOVED = HOP_BY_HOP | {b"server", b"x-powered-by"}
SAFE_TO_REPEAT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2; TRACE is refused anyway."""
MAX_STALE_RETRIES = 3
