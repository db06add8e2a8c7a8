"""Who asks, from a bearer token that was verified here; an unverified one says nothing (RFC 8725).

The algorithms are the policy's, never the token's. What was verified is kept until the token expires, so that a
client's next requests cost a look-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from proxy.exchange import Exchange
from proxy.filter import Filter, Rule
from proxy.rejection import Unauthenticated

MAX_KEPT = 10_000
MAX_TOKEN = 8 * 1024


@dataclass(frozen=True, slots=True)
class Tokens:
    """What makes a token good. `skew` is seconds; empty issuer or audience is not asked for."""

    keys: KeySet
    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    skew: float
    user_claim: str


class Identity(Filter):
    __slots__ = ("_claims", "_clock", "_kept", "_required", "_rule", "_tokens")

    def __init__(self, rule: Rule, tokens: Tokens, *, required: bool, clock: Callable[[], float] = time.time) -> None:
        self._rule = rule
        self._tokens = tokens
        self._required = required
        self._clock = clock
        self._kept: dict[bytes, tuple[float, Mapping[str, Any], str]] = {}
        options: dict[str, Any] = {"exp": {"essential": True}}
        if tokens.issuer:
            options["iss"] = {"essential": True, "value": tokens.issuer}
        if tokens.audience:
            options["aud"] = {"essential": True, "value": tokens.audience}
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=int(tokens.skew), **options)

    def on_request(self, exchange: Exchange) -> None:
        given = exchange.headers.index.get(b"authorization")
        if given is None:
            if self._required:
                self._refuse(exchange, "a bearer token is needed")
            return
        kept = self._kept.get(given)
        if kept is None or kept[0] <= self._clock():
            kept = self._verified(given)
            if kept is None:
                if self._required:
                    self._refuse(exchange, "the bearer token is not valid")
                return
        exchange.claims, exchange.user = kept[1], kept[2]

    def _verified(self, given: bytes) -> tuple[float, Mapping[str, Any], str] | None:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or len(token) > MAX_TOKEN:
            return None
        try:
            read = jwt.decode(token.strip(), self._tokens.keys, algorithms=list(self._tokens.algorithms))
            self._claims.validate(read.claims)
        except (JoseError, ValueError):
            return None
        user = read.claims.get(self._tokens.user_claim)
        if not isinstance(user, str | int) or user == "":
            return None
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        kept = (float(read.claims["exp"]) + self._tokens.skew, read.claims, str(user))
        self._kept[given] = kept
        return kept

    def _refuse(self, exchange: Exchange, detail: str) -> None:
        self._rule.refuse(exchange, Unauthenticated(detail, headers=((b"www-authenticate", b"Bearer"),)))
