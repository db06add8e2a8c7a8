"""Access tokens (an hour) and refresh tokens (48 hours): JWTs of distinct types, signed by distinct keys."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from joserfc import jwt
from joserfc.errors import InvalidClaimError, JoseError
from joserfc.jwk import OctKey

ACCESS_SECONDS, REFRESH_SECONDS = 3_600, 48 * 3_600
ISSUER = "simplepro"
MAX_TOKEN = 4096


class Claims(jwt.JWTClaimsRegistry):
    """Another instance's clock may be ahead of this one's: `iat` is no reason to refuse (RFC 7519 section 4.1.6)."""

    def validate_iat(self, value: object) -> None:
        if not isinstance(value, int | float):
            raise InvalidClaimError("iat")


class Tokens:
    def __init__(self, access_secret: str, refresh_secret: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = {"access": OctKey.import_key(access_secret), "refresh": OctKey.import_key(refresh_secret)}
        self._clock = clock
        self._checks = Claims(
            now=lambda: int(clock()), leeway=5, exp={"essential": True}, iss={"essential": True, "value": ISSUER}
        )

    def issue(self, kind: str, subject: str, session: str, claims: dict[str, Any]) -> tuple[str, str]:
        """The token and its id; `kind` is access or refresh."""
        now, identity = int(self._clock()), secrets.token_hex(16)
        seconds = ACCESS_SECONDS if kind == "access" else REFRESH_SECONDS
        whole = {
            **claims, "iss": ISSUER, "sub": subject, "sessionId": session, "jti": identity, "typ": kind,
            "iat": now, "exp": now + seconds,
        }  # fmt: skip
        return jwt.encode({"alg": "HS256"}, whole, self._keys[kind]), identity

    def read(self, kind: str, token: str) -> dict[str, Any] | None:
        """The claims of a good token of that kind; None for any other."""
        if len(token) > MAX_TOKEN:
            return None
        try:
            claims: dict[str, Any] = jwt.decode(token, self._keys[kind], algorithms=["HS256"]).claims
            self._checks.validate(claims)
        except (JoseError, ValueError):
            return None
        return claims if claims.get("typ") == kind else None
