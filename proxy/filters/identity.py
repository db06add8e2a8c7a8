"""Who asks: by a bearer token that was verified here, or by an API key; an unverified one says nothing (RFC 8725).

The algorithms are the policy's, never the token's. What was verified is kept until the token expires, so that a
client's next requests cost a look-up. A token whose id, session or user was revoked is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from joserfc import jws, jwt
from joserfc.errors import InvalidClaimError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from proxy.exchange import Exchange
from proxy.filter import Mode, Rule, RuleFilter
from proxy.fleet.board import Board
from proxy.rejection import Unauthenticated

MAX_KEPT = 10_000
MAX_TOKEN = 8 * 1024
MAX_KEPT_LENGTH = 2048
MAX_KEYS_TRIED = 8
_KINDS = {"HS256": "oct", "RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
_OTHERS = ("api-key:", "certificate:")
"""Users who are known by other means than tokens, and whom no token can name."""


class KeyRing:
    """The keys that tokens are verified by; they may change while the proxy runs."""

    def __init__(self, keys: KeySet | None = None) -> None:
        self.keys = keys
        """None while there are none yet."""
        self.on_change: list[Callable[[], None]] = []
        self.on_unknown: Callable[[], None] = lambda: None
        """Called where a token names a key that is not here."""

    def turn(self, keys: KeySet) -> None:
        self.keys = keys
        for told in self.on_change:
            told()


@dataclass(frozen=True, slots=True)
class Tokens:
    """What makes a token good. `skew` is seconds; empty issuer or audience is not asked for."""

    ring: KeyRing
    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    skew: float
    user_claim: str


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Names and claims by the SHA-256 digest of a key; the keys themselves are nowhere."""

    header: bytes
    known: Mapping[bytes, tuple[str, Mapping[str, Any]]]


class Verified(NamedTuple):
    """`until` is seconds since the epoch; `revocable` are the names that a revocation may have."""

    until: float
    claims: Mapping[str, Any]
    user: str
    issued: float
    revocable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Names in clients' certificates that are somebody: all, where `allowed` is empty."""

    allowed: frozenset[str]
    claims: Mapping[str, Mapping[str, str]]


class Claims(jwt.JWTClaimsRegistry):
    """RFC 7519 section 4.1 without a verdict on `iat`: who issued the token may have another clock."""

    def validate_iat(self, value: object) -> None:
        """Any number will do; `nbf` is what says from when on a token holds."""
        if not isinstance(value, int | float):
            raise InvalidClaimError("iat")


class Identity(RuleFilter):
    __slots__ = (
        "_api_keys",
        "_certificates",
        "_checks",
        "_clock",
        "_kept",
        "_query",
        "_required",
        "_revoked",
        "_wanted",
        "tokens",
    )

    def __init__(
        self,
        rule: Rule,
        tokens: Tokens | None,
        api_keys: ApiKeys | None,
        revoked: Board,
        *,
        required: bool,
        certificates: Certificates | None = None,
        query: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(rule)
        self.tokens = tokens
        self._api_keys = api_keys
        self._certificates = certificates
        self._revoked = revoked
        self._required = required
        ways = [("a bearer token", tokens), ("an API key", api_keys), ("a client certificate", certificates)]
        self._wanted = f"{' or '.join(name for name, way in ways if way is not None)} is needed"
        self._query = query.encode() + b"=" if query else b""
        """Where a handshake may have its token: browsers give WebSockets no Authorization."""
        self._clock = clock
        self._kept: dict[bytes, Verified] = {}
        if tokens is not None:
            options: dict[str, Any] = {"exp": {"essential": True}}
            if tokens.issuer:
                options["iss"] = {"essential": True, "value": tokens.issuer}
            if tokens.audience:
                options["aud"] = {"essential": True, "value": tokens.audience}
            self._checks = Claims(now=lambda: int(clock()), leeway=int(tokens.skew), **options)
            tokens.ring.on_change.append(self._kept.clear)

    def on_request(self, exchange: Exchange) -> None:
        given = exchange.headers.index.get(b"authorization")
        if given is None and exchange.websocket and self._query:
            given = self._in_query(exchange.query)
        if given is not None and self.tokens is not None:
            kept = self._kept.get(given)
            if kept is None or kept.until <= self._clock():
                kept = self._verified(self.tokens, given)
            if kept is not None:
                if self._revoked.facts and self.is_revoked(kept):
                    self._refuse(exchange, "the session that this token belongs to was ended")
                    return
                exchange.claims, exchange.user = kept.claims, kept.user
                exchange.verified = kept
        if self._api_keys is not None:
            self._look_at_key(exchange, self._api_keys)
        if exchange.certificate and self._certificates is not None and not exchange.user:
            self._look_at_certificate(exchange, self._certificates)
        if self._required and not exchange.user:
            what = "the bearer token is not valid" if given is not None else self._wanted
            self._refuse(exchange, what)

    def on_still_open(self, exchange: Exchange) -> None:
        kept = exchange.verified
        if kept is None or self._rule.mode is not Mode.ENFORCE:
            return
        if kept.until <= self._clock():
            self._refuse(exchange, "the token has expired")
        elif self._revoked.facts and self.is_revoked(kept):
            self._refuse(exchange, "the session that this token belongs to was ended")

    def _look_at_key(self, exchange: Exchange, keys: ApiKeys) -> None:
        given = exchange.headers.index.get(keys.header)
        known = None if given is None else keys.known.get(sha256(given).digest())
        if known is not None:
            exchange.api_key, claims = known
            if not exchange.user:
                exchange.user = f"api-key:{exchange.api_key}"
                exchange.claims = claims

    def _look_at_certificate(self, exchange: Exchange, known: Certificates) -> None:
        name = exchange.certificate
        if not known.allowed or name in known.allowed:
            exchange.user = f"certificate:{name}"
            exchange.claims = known.claims.get(name, {})

    def _in_query(self, query: bytes) -> bytes | None:
        for part in query[1:].split(b"&"):
            if part.startswith(self._query):
                return b"Bearer " + part[len(self._query) :]
        return None

    def is_revoked(self, kept: Verified) -> bool:
        """By token or session id; or by user, where the token is not younger than the revocation."""
        for name in kept.revocable:
            fact = self._revoked.get(name)
            if fact is not None and (not name.startswith("user:") or kept.issued <= _number(fact.value)):
                return True
        return False

    def _verified(self, tokens: Tokens, given: bytes) -> Verified | None:
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or len(token) > MAX_TOKEN or tokens.ring.keys is None:
            return None
        token = token.strip()
        plain = len(given) <= MAX_KEPT_LENGTH and given == b"Bearer " + token
        key = given if plain else sha256(token).digest()
        if not plain and (kept := self._kept.get(key)) is not None and kept.until > self._clock():
            return kept
        try:
            claims = _read(token, tokens)
            self._checks.validate(claims)
            _ = json.dumps(claims, ensure_ascii=False).encode()
            until = float(claims["exp"]) + tokens.skew
        except InvalidKeyIdError:
            tokens.ring.on_unknown()
            return None
        except (JoseError, ValueError, TypeError, OverflowError, RecursionError):
            return None
        user = claims.get(tokens.user_claim)
        if not isinstance(user, str | int) or user == "" or str(user).startswith(_OTHERS):
            return None
        name = str(user)
        kept = Verified(until, claims, name, _number(claims.get("iat", 0)), _revocable(claims, name))
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = kept
        return kept

    def _refuse(self, exchange: Exchange, detail: str) -> None:
        self._rule.refuse(exchange, Unauthenticated(detail, headers=((b"www-authenticate", b"Bearer"),)))


_IDS = (("jti", "jti"), ("sessionId", "session"), ("sid", "session"), ("sub", "user"))


def _read(token: bytes, tokens: Tokens) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed. Without a key's id each is tried that could have: an
    issuer that names none has to be able to change keys, too. Raises JoseError, ValueError, TypeError."""
    keys = tokens.ring.keys
    algorithms = list(tokens.algorithms)
    if keys is None:
        raise ValueError
    header = jws.extract_compact(token).headers() if len(keys.keys) > 1 else {}
    if header and "kid" not in header:
        kind = _KINDS.get(header.get("alg", ""))
        for key in [one for one in keys.keys if one.key_type == kind][:MAX_KEYS_TRIED]:
            try:
                return jwt.decode(token, key, algorithms=algorithms).claims
            except (JoseError, ValueError, TypeError):
                continue
        raise ValueError
    return jwt.decode(token, keys, algorithms=algorithms).claims


def _revocable(claims: Mapping[str, Any], user: str) -> tuple[str, ...]:
    names = dict.fromkeys(f"{name}:{claims[claim]}" for claim, name in _IDS if claims.get(claim))
    return tuple(names | {f"user:{user}": None})


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError, OverflowError):
        return float("inf")
