"""Helmet's default headers, and how a policy's words change them."""

from __future__ import annotations

from proxy.filters.security_headers import HeaderSet
from proxy.headers import Pair
from proxy.policy.models.headers import SecurityHeadersModel

HELMET: dict[str, str] = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "origin-agent-cluster": "?1",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-dns-prefetch-control": "off",
    "x-download-options": "noopen",
    "x-frame-options": "SAMEORIGIN",
    "x-permitted-cross-domain-policies": "none",
    "x-xss-protection": "0",
}
CSP: dict[str, list[str]] = {
    "default-src": ["'self'"],
    "base-uri": ["'self'"],
    "font-src": ["'self'", "https:", "data:"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'self'"],
    "img-src": ["'self'", "data:"],
    "object-src": ["'none'"],
    "script-src": ["'self'"],
    "script-src-attr": ["'none'"],
    "style-src": ["'self'", "https:", "'unsafe-inline'"],
    "upgrade-insecure-requests": [],
}
HSTS = "max-age=31536000; includeSubDomains"


def header_set(model: SecurityHeadersModel) -> HeaderSet:
    helmet = model.preset == "helmet"
    chosen: dict[str, str | None] = dict(HELMET) if helmet else {}
    given = {**(CSP if helmet else {}), **(model.csp or {})}
    csp = {directive: sources for directive, sources in given.items() if sources is not None}
    if csp:
        name = "content-security-policy-report-only" if model.csp_report_only else "content-security-policy"
        chosen[name] = "; ".join(" ".join([directive, *sources]) for directive, sources in csp.items()).replace(
            "{nonce}", "'nonce-{nonce}'"
        )
    chosen |= {name.lower(): value for name, value in model.headers.items()}
    hsts = model.hsts or (HSTS if helmet else None)
    hsts = chosen.pop("strict-transport-security", hsts)
    pairs: tuple[Pair, ...] = tuple((n.encode(), v.encode()) for n, v in chosen.items() if v is not None)
    secure: tuple[Pair, ...] = ((b"strict-transport-security", hsts.encode()),) if hsts else ()
    return HeaderSet(pairs, secure, model.upstream)
