"""Helmet's response headers, typed, made at load time into one block of bytes.

Set on the upstream's answers and on our own. HSTS goes out only where the client came by TLS (RFC 6797 section 7.2).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from proxy.entropy import Entropy
from proxy.exchange import Exchange, Response
from proxy.filter import Mode, Rule, RuleFilter
from proxy.headers import Pair, encode

NONCE = b"{nonce}"
HSTS = b"strict-transport-security"
APPENDABLE = frozenset({b"content-security-policy", b"permissions-policy", b"cache-control"})


@dataclass(frozen=True, slots=True)
class HeaderSet:
    """`pairs` for every answer, `secure` for answers over TLS only; values may hold `{nonce}`.

    `present` says what becomes of a header that the upstream set itself: `keep`, `override` or `append`.
    """

    pairs: tuple[Pair, ...]
    secure: tuple[Pair, ...]
    present: str


class SecurityHeaders(RuleFilter):
    __slots__ = (
        "_block",
        "_entropy",
        "_names",
        "_nonces",
        "_pairs",
        "_present",
        "_secure_block",
        "_secure_pairs",
    )

    def __init__(self, rule: Rule, headers: HeaderSet, entropy: Entropy) -> None:
        super().__init__(rule)
        self._entropy = entropy
        self._present = headers.present
        self._pairs = headers.pairs
        self._secure_pairs = headers.pairs + headers.secure
        self._block = encode(self._pairs)
        self._secure_block = encode(self._secure_pairs)
        self._names = frozenset(name for name, _ in self._secure_pairs)
        self._nonces = NONCE in self._block

    def on_request(self, exchange: Exchange) -> None:
        if self._nonces and self._rule.mode is Mode.ENFORCE:
            self._draw_nonce(exchange)
            exchange.asserted.append(b"x-csp-nonce: %b\r\n" % exchange.nonce)

    def _draw_nonce(self, exchange: Exchange) -> None:
        if not exchange.nonce:
            exchange.nonce = base64.b64encode(bytes.fromhex(self._entropy.hex(32).decode()))

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if not self._rule.enforces(exchange):
            return
        secure = exchange.scheme == b"https"
        if self._names.isdisjoint(response.headers.index):
            block = self._secure_block if secure else self._block
        else:
            block = self._merge(response, self._secure_pairs if secure else self._pairs)
        if not secure and HSTS in response.headers.index:
            response.headers.remove((HSTS,))
        if self._nonces:
            self._draw_nonce(exchange)
            block = block.replace(NONCE, exchange.nonce)
        response.blocks.append(block)

    def _merge(self, response: Response, pairs: tuple[Pair, ...]) -> bytes:
        headers = response.headers
        if self._present == "override":
            headers.remove(self._names)
            return encode(pairs)
        if self._present == "append":
            return encode(pair for pair in pairs if pair[0] in APPENDABLE or pair[0] not in headers.index)
        return encode(pair for pair in pairs if pair[0] not in headers.index)
