"""What RFC 9111 says of one answer: whether it may be kept, how long it is fresh, and what its age is."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.cache.fields import Directives, age_of, date_of, directives, seconds, targeted
from proxy.headers import Headers

HEURISTIC_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 section 15.1, but for 206."""
UNDERSTOOD = frozenset(
    {200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 451, 500, 501, 502, 503, 504}
)  # fmt: skip
"""Statuses whose caching this proxy knows (must-understand, RFC 9111 section 5.2.2.3)."""
UNKEPT_STATUSES = frozenset({206, 304, 401, 407, 416})


@dataclass(frozen=True, slots=True)
class Kept:
    """How an answer is kept. Times are seconds; `age` is what it had when it came, `lifetime` from its birth on.

    `stale` is for how long past its life it may be served while it is asked for anew, `errors` where that fails.
    """

    lifetime: float
    age: float
    stale: float
    errors: float
    validates: bool
    """It is asked for each time (no-cache)."""
    strict: bool
    """It is never served stale (must-revalidate, proxy-revalidate, s-maxage)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy adds to what answers say; `heuristic` is a share of the time since Last-Modified, 0 for none."""

    targets: tuple[bytes, ...] = (b"cdn-cache-control",)
    heuristic: float = 0.0
    negative: tuple[tuple[int, float], ...] = ()
    """Seconds by status, of errors that say nothing themselves."""
    longest: float = 86400.0
    stale: float = 0.0
    errors: float = 0.0


RFC = Terms()
"""Nothing added."""


def control_of(headers: Headers, targets: tuple[bytes, ...]) -> tuple[Directives, bool]:
    """The directives that count here; whether they came from a targeted field, beside which Expires counts nothing."""
    for name in targets:
        if name in headers.index and (found := targeted(headers.all(name))) is not None:
            return found, True
    if b"cache-control" in headers.index:
        return directives(headers.all(b"cache-control")), False
    if b"no-cache" in headers.index.get(b"pragma", b"").lower():
        return {b"no-cache": None}, False
    return {}, False


def judge(
    status: int, headers: Headers, terms: Terms, *, authorized: bool, delay: float, now: float
) -> tuple[Kept | None, str]:
    """How an answer to a GET is kept (RFC 9111 sections 3, 4.2, 4.2.3); None, and why, where it is not.

    `authorized` says that the request had Authorization, `delay` is the time that the answer took, `now` the clock's.
    """
    control, is_targeted = control_of(headers, terms.targets)
    refused = _refused(status, headers, control, authorized=authorized)
    if refused:
        return None, refused
    date = date_of(headers.index.get(b"date", b""))
    lifetime = _lifetime(status, headers, control, is_targeted, terms, now if date is None else date)
    if lifetime is None and status not in HEURISTIC_STATUSES and b"public" not in control:
        return None, "says nothing"
    validates = (b"no-cache" in control and not control[b"no-cache"]) or lifetime is None
    can_be_validated = b"etag" in headers.index or b"last-modified" in headers.index
    if validates and not can_be_validated:
        return None, "no-cache" if lifetime is not None else "says nothing"
    apparent = max(0.0, now - date) if date is not None else 0.0
    age = max(apparent, age_of(headers.all(b"age")) + delay) if b"age" in headers.index else max(apparent, delay)
    strict = validates or not control.keys().isdisjoint((b"must-revalidate", b"proxy-revalidate", b"s-maxage"))
    stale, errors = control.get(b"stale-while-revalidate"), control.get(b"stale-if-error")
    kept = Kept(
        lifetime=min(lifetime or 0.0, terms.longest),
        age=float(int(age)),
        stale=0.0 if strict else float(seconds(stale)) if stale is not None else terms.stale,
        errors=0.0 if strict else float(seconds(errors)) if errors is not None else terms.errors,
        validates=validates,
        strict=strict,
    )
    if kept.lifetime <= kept.age and not can_be_validated and not kept.stale and not kept.errors:
        return None, "stale already"
    return kept, ""


def _refused(status: int, headers: Headers, control: Directives, *, authorized: bool) -> str:
    if status in UNKEPT_STATUSES or status < 200:
        return f"status {status}"
    if b"must-understand" in control and status not in UNDERSTOOD:
        return "must-understand"
    if b"no-store" in control and b"must-understand" not in control:
        return "no-store"
    if b"private" in control and not control[b"private"]:
        return "private"
    if b"set-cookie" in headers.index:
        return "set-cookie"
    if authorized and control.keys().isdisjoint((b"public", b"must-revalidate", b"s-maxage")):
        return "authorization"
    if b"*" in b",".join(headers.all(b"vary")):
        return "vary"
    return ""


def _lifetime(
    status: int, headers: Headers, control: Directives, is_targeted: bool, terms: Terms, date: float
) -> float | None:
    """None where nothing says it."""
    for name in (b"s-maxage", b"max-age"):
        if name in control:
            return float(seconds(control[name]))
    if not is_targeted and b"expires" in headers.index:
        expires = {date_of(one) for one in headers.all(b"expires")}
        only = expires.pop() if len(expires) == 1 else None
        return max(0.0, only - date) if only is not None else 0.0
    for code, span in terms.negative:
        if code == status:
            return span
    heuristic = status in HEURISTIC_STATUSES or b"public" in control
    modified = date_of(headers.index.get(b"last-modified", b""))
    if terms.heuristic and heuristic and modified is not None and b"no-cache" not in control:
        return max(0.0, date - modified) * terms.heuristic
    return None


def dropped_fields(headers: Headers, targets: tuple[bytes, ...]) -> frozenset[bytes]:
    """Fields that `private` and `no-cache` name: they are not kept (RFC 9111 sections 5.2.2.4 and 5.2.2.7)."""
    control, _ = control_of(headers, targets)
    named = b",".join(control.get(name) or b"" for name in (b"private", b"no-cache"))
    return frozenset(one.strip(b" \t").lower() for one in named.split(b",") if one.strip())
