"""What the application sets as cookies, made as safe as the policy says (RFC 6265bis)."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.exchange import Exchange, Response
from proxy.filter import Mode, Rule, RuleFilter

NAME = b"set-cookie"


@dataclass(frozen=True, slots=True)
class CookieTerms:
    """`scripted` are the names that scripts may read; `domains` those that a Domain may be, beside what the request
    was for and what lies above it. An attribute is None where the application decides."""

    secure: str = "always"
    """always | https | never."""
    http_only: bool = True
    scripted: frozenset[bytes] = frozenset()
    same_site: bytes | None = b"Lax"
    domains: frozenset[bytes] = frozenset()


class Cookies(RuleFilter):
    """Attributes that are missing are added; a cookie for a domain that is not this host's is left out. What the
    application says of SameSite itself stays, but `None` without Secure, which browsers refuse."""

    __slots__ = ("_terms",)

    def __init__(self, rule: Rule, terms: CookieTerms) -> None:
        super().__init__(rule)
        self._terms = terms

    def on_response(self, exchange: Exchange, response: Response) -> None:
        headers = response.headers
        if response.own or NAME not in headers.index:
            return
        done: dict[str, None] = {}
        pairs = []
        for name, value in headers.pairs:
            if name == NAME:
                hardened = self._hardened(exchange, value, done)
                if hardened is not None:
                    pairs.append((name, hardened))
            else:
                pairs.append((name, value))
        for detail in done:
            self._rule.changed(exchange, detail)
        if done and self._rule.mode is Mode.ENFORCE:
            headers.replace(pairs)

    def _hardened(self, exchange: Exchange, value: bytes, done: dict[str, None]) -> bytes | None:
        terms = self._terms
        pair, *given = value.split(b";")
        name = pair.partition(b"=")[0].strip()
        attributes = {key.strip().lower(): found.strip() for key, _, found in (one.partition(b"=") for one in given)}
        domain = attributes.get(b"domain", b"").lower().lstrip(b".")
        if domain and not self._may_have(exchange, domain):
            done["cookie of another domain left out"] = None
            return None
        added = []
        secure = terms.secure == "always" or (terms.secure == "https" and exchange.scheme == b"https")
        if secure and b"secure" not in attributes:
            added.append(b"Secure")
        if terms.http_only and b"httponly" not in attributes and name not in terms.scripted:
            added.append(b"HttpOnly")
        if terms.same_site is not None and b"samesite" not in attributes:
            added.append(b"SameSite=" + terms.same_site)
        for one in added:
            done[f"cookie {one.decode()} added"] = None
        return b"; ".join([value.rstrip(b"; "), *added]) if added else value

    def _may_have(self, exchange: Exchange, domain: bytes) -> bool:
        """A host's own name, what lies above it but no top-level domain, and what the policy names."""
        host = exchange.host.rpartition(b":")[0] if b":" in exchange.host else exchange.host
        host = host.lower()
        if domain in self._terms.domains or domain == host:
            return True
        return b"." in domain and host.endswith(b"." + domain)
