"""Names each exchange: request id and correlation id (echoed when well-formed, else made), and W3C traceparent."""

from __future__ import annotations

import re

from proxy.entropy import Entropy
from proxy.exchange import Exchange, Response
from proxy.filter import Filter

_WELL_FORMED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class RequestId(Filter):
    """Where nothing was sent, the request id, the correlation id and the trace id are one and the same."""

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def on_request(self, exchange: Exchange) -> None:
        self.name(exchange)
        exchange.asserted.append(
            b"x-request-id: %b\r\nx-correlation-id: %b\r\ntraceparent: %b\r\n"
            % (exchange.request_id, exchange.correlation_id, exchange.traceparent)
        )

    def name(self, exchange: Exchange) -> None:
        """Give the exchange its identifiers; needed for refusals that come before any chain, too."""
        index = exchange.headers.index
        made = self._entropy.hex(32)
        given = index.get(b"x-request-id")
        exchange.request_id = given if given and _WELL_FORMED.fullmatch(given) else made
        given = index.get(b"x-correlation-id")
        exchange.correlation_id = given if given and _WELL_FORMED.fullmatch(given) else exchange.request_id
        given = index.get(b"traceparent")
        if given and _TRACEPARENT.fullmatch(given):
            exchange.traceparent = given
        else:
            exchange.traceparent = b"00-%b-%b-01" % (made, self._entropy.hex(16))

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if b"x-request-id" in response.headers.index or b"x-correlation-id" in response.headers.index:
            response.headers.remove((b"x-request-id", b"x-correlation-id"))
        response.blocks.append(
            b"x-request-id: %b\r\nx-correlation-id: %b\r\n" % (exchange.request_id, exchange.correlation_id)
        )
