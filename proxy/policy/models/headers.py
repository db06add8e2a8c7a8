"""What browsers are told, who may come, and what a request may look like."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from proxy.policy.models.base import _HEADER_VALUE, _ORIGIN, MethodName, Networks, RuleModel
from proxy.policy.values import Duration, Size, listed

HSTS_VALUE = re.compile(r"max-age=\d+(; ?includeSubDomains)?(; ?preload)?", re.IGNORECASE)
_REFERRERS = (
    "no-referrer|no-referrer-when-downgrade|origin|origin-when-cross-origin|same-origin|strict-origin"
    "|strict-origin-when-cross-origin|unsafe-url"
)
TYPED_HEADERS: dict[str, tuple[str, str]] = {
    "strict-transport-security": (HSTS_VALUE.pattern, "max-age=31536000; includeSubDomains"),
    "x-frame-options": ("(?i:DENY|SAMEORIGIN)", "DENY or SAMEORIGIN"),
    "x-content-type-options": ("nosniff", "nosniff"),
    "referrer-policy": (rf"(?:{_REFERRERS})(?:, ?(?:{_REFERRERS}))*", "no-referrer, same-origin, strict-origin, …"),
    "cross-origin-opener-policy": (
        "unsafe-none|same-origin-allow-popups|same-origin|noopener-allow-popups",
        "same-origin, same-origin-allow-popups or unsafe-none",
    ),
    "cross-origin-resource-policy": ("same-site|same-origin|cross-origin", "same-site, same-origin or cross-origin"),
    "cross-origin-embedder-policy": ("unsafe-none|require-corp|credentialless", "require-corp or credentialless"),
    "origin-agent-cluster": (r"\?[01]", "?1 or ?0"),
    "x-dns-prefetch-control": ("on|off", "on or off"),
    "x-download-options": ("noopen", "noopen"),
    "x-permitted-cross-domain-policies": ("none|master-only|by-content-type|all|none-this-response", "none"),
    "x-xss-protection": ("0|1(; ?mode=block)?", "0"),
}
"""By lower-case name: what a value has to look like, and how that is said."""
CSP_DIRECTIVES = (
    "default-src", "script-src", "script-src-elem", "script-src-attr", "style-src", "style-src-elem", "style-src-attr",
    "img-src", "font-src", "connect-src", "media-src", "object-src", "frame-src", "child-src", "worker-src",
    "manifest-src", "base-uri", "form-action", "frame-ancestors", "sandbox", "report-uri", "report-to",
    "require-trusted-types-for", "trusted-types", "upgrade-insecure-requests", "fenced-frame-src",
)  # fmt: skip
"""CSP level 3."""
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]
MediaRange = Annotated[str, Field(pattern=r"^[a-z0-9!#$&^_.+-]+/(\*|[a-z0-9!#$&^_.+-]+|\*\+[a-z0-9]+)$")]
HostPattern = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$|^\[[0-9A-Fa-f:.]+\]$")]


class IpAccessModel(RuleModel):
    allow: Networks = []
    deny: Networks = []


class CorsModel(RuleModel):
    origins: Annotated[list[str], BeforeValidator(listed), Field(min_length=1)]
    methods: list[MethodName] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    headers: list[HeaderName] = ["authorization", "content-type", "x-request-id", "x-correlation-id"]
    expose: list[HeaderName] = ["x-request-id", "x-correlation-id"]
    credentials: bool = False
    max_age: Duration = 600.0

    @model_validator(mode="after")
    def _check(self) -> CorsModel:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f'"{origin}" is not an origin. Write scheme://host[:port], or scheme://*.host')
        self.check_together()
        return self

    def check_together(self) -> None:
        for origin in self.origins if self.credentials else ():
            if origin == "*":
                raise ValueError('credentials cannot go to every origin. Name the origins instead of "*"')
            if origin == "null":
                raise ValueError('credentials cannot go to "null": any page can have that origin. Name the origins')
            if "*" in origin and "." not in origin.partition("*.")[2]:
                raise ValueError(f'credentials cannot go to all of "{origin}". Name a domain: https://*.example.com')


class SecurityHeadersModel(RuleModel):
    """Helmet's set. `null` leaves a header out; `csp` maps directives to sources; `{nonce}` is made anew each time."""

    preset: Literal["helmet", "none"] = "helmet"
    upstream: Literal["keep", "override", "append"] = "override"
    csp: dict[str, list[str] | None] | None = None
    csp_report_only: bool = False
    hsts: str | None = None
    headers: dict[str, str | None] = {}

    @field_validator("hsts")
    @classmethod
    def _hsts(cls, value: str | None) -> str | None:
        if value is not None and not HSTS_VALUE.fullmatch(value):
            raise ValueError(f'"{value}" is not HSTS (RFC 6797). Write max-age=31536000; includeSubDomains')
        return value

    @field_validator("headers")
    @classmethod
    def _values(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name, text in value.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or (text is not None and not _HEADER_VALUE.fullmatch(text)):
                raise ValueError(f'"{name}" is no header, or its value holds characters that no header may hold')
            typed = TYPED_HEADERS.get(name.lower())
            if typed is not None and text is not None and not re.fullmatch(typed[0], text):
                raise ValueError(f'"{text}" is no value of {name}. Write {typed[1]}')
        return value

    @field_validator("csp")
    @classmethod
    def _directives(cls, value: dict[str, list[str] | None] | None) -> dict[str, list[str] | None] | None:
        for directive, sources in (value or {}).items():
            if directive not in CSP_DIRECTIVES:
                near = get_close_matches(directive, CSP_DIRECTIVES, n=1)
                raise ValueError(
                    f'"{directive}" is no CSP directive.' + (f' Did you mean "{near[0]}"?' if near else "")
                )
            if any(re.search(r"[;,\s\x00-\x1f\x7f]", s) for s in sources or ()):
                raise ValueError(f'a source of "{directive}" holds ; , a space or a control character')
        return value


class RequestModel(RuleModel):
    """What requests may look like; empty lists and nulls allow everything."""

    methods: list[MethodName] = []
    media_types: list[MediaRange] = []
    max_target: Size | None = None
    max_body: Size | None = None
