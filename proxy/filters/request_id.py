"""Names each exchange: request id and correlation id (echoed when well-formed, else made), and W3C traceparent."""

from __future__ import annotations

import re

from proxy.entropy import Entropy
from proxy.exchange import Exchange, Response
from proxy.filter import Filter

_WELL_FORMED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")
_TRACEPARENT = re.compile(
    rb"(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    rb"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]{0,256})?)"
)
"""W3C Trace Context section 3.2; a later version may say more than is known here."""


_NAMES = frozenset({b"x-request-id", b"x-correlation-id"})
_SENT = _NAMES | {b"traceparent"}


class RequestId(Filter):
    """Where nothing was sent, the request id, the correlation id and the trace id are one and the same."""

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def on_request(self, exchange: Exchange) -> None:
        self.name(exchange)
        exchange.asserted.append(b"%btraceparent: %b\r\n" % (exchange.names, exchange.traceparent))
        headers = exchange.headers
        if b"tracestate" in headers.index and headers.get(b"traceparent") == exchange.traceparent:
            exchange.asserted.append(b"tracestate: %b\r\n" % b",".join(headers.all(b"tracestate")))

    def name(self, exchange: Exchange) -> None:
        """Give the exchange its identifiers; needed for refusals that come before any chain, too."""
        index = exchange.headers.index
        drawn = self._entropy.hex(48)
        request_id = correlation_id = drawn[:32]
        traceparent = b"00-%b-%b-01" % (request_id, drawn[32:])
        if not _SENT.isdisjoint(index):
            request_id = _well_formed(index.get(b"x-request-id")) or request_id
            correlation_id = _well_formed(index.get(b"x-correlation-id")) or request_id
            given = index.get(b"traceparent")
            if given and _TRACEPARENT.fullmatch(given):
                traceparent = given
        exchange.request_id = request_id
        exchange.correlation_id = correlation_id
        exchange.traceparent = traceparent
        exchange.names = b"x-request-id: %b\r\nx-correlation-id: %b\r\n" % (request_id, correlation_id)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if not _NAMES.isdisjoint(response.headers.index):
            response.headers.remove(_NAMES)
        response.blocks.append(exchange.names)


def _well_formed(given: bytes | None) -> bytes | None:
    return given if given and _WELL_FORMED.fullmatch(given) else None
