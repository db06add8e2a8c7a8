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


class Sampling:
    """Which exchanges have a span: a share of all, by the random part of their trace's id (W3C Trace Context level 2,
    section 2.2.4.2), and where it `follows`, those whose client's trace is sampled."""

    __slots__ = ("_below", "_follows")

    def __init__(self, share: float, *, follows: bool) -> None:
        self._below = round(share * 2**56)
        self._follows = follows

    def decide(self, exchange: Exchange, traceparent: bytes, span: bytes) -> bytes:
        """What goes on: with a span of its own, named `span`, only where there is one."""
        trace, given = traceparent[3:35], exchange.headers.index.get(b"traceparent") == traceparent
        asked = given and bool(int(traceparent[53:55], 16) & 1)
        if int(trace[18:], 16) >= self._below and not (asked and self._follows):
            return traceparent if given else traceparent[:53] + b"00"
        exchange.sampled = True
        exchange.parent_span = traceparent[36:52] if given else b""
        return b"00-%b-%b-01" % (trace, span)


def _trace(traceparent: bytes | None) -> bytes:
    return traceparent[3:35] if traceparent else b""


class RequestId(Filter):
    """Where nothing was sent, the request id, the correlation id and the trace id are one and the same."""

    __slots__ = ("_entropy", "_sampling")

    def __init__(self, entropy: Entropy, sampling: Sampling | None = None) -> None:
        """Without sampling, traces pass through as they came."""
        self._entropy = entropy
        self._sampling = sampling

    def on_request(self, exchange: Exchange) -> None:
        self.name(exchange)
        exchange.asserted.append(b"%btraceparent: %b\r\n" % (exchange.names, exchange.traceparent))
        headers = exchange.headers
        if b"tracestate" in headers.index and _trace(headers.index.get(b"traceparent")) == _trace(exchange.traceparent):
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
        if self._sampling is not None:
            traceparent = self._sampling.decide(exchange, traceparent, drawn[32:])
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
