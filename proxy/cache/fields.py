"""Fields that a cache lives by, read as RFC 9111 and RFC 9110 ask: what can't be read means the cautious thing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import date
from functools import lru_cache

Directives = dict[bytes, bytes | None]
MOST = 2**31
"""Seconds; what is longer is this long (RFC 9111 section 1.2.2)."""

_EPOCH = date(1970, 1, 1).toordinal()
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MONTHS = {name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_FIXDATE = re.compile(rb"(?:mon|tue|wed|thu|fri|sat|sun), (\d\d) ([a-z]{3}) (\d{4}) (\d\d):(\d\d):(\d\d) gmt")
_RFC850 = re.compile(rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (\d\d)-([a-z]{3})-(\d\d) (\d\d):(\d\d):(\d\d) gmt")
_ASCTIME = re.compile(rb"(?:mon|tue|wed|thu|fri|sat|sun) ([a-z]{3}) ( \d|\d\d) (\d\d):(\d\d):(\d\d) (\d{4})")


def _parts(value: bytes) -> tuple[list[bytes], bool]:
    """Split at commas that no quotes enclose; whether a quote was left open."""
    parts, start, quoted, at = [], 0, False, 0
    while at < len(value):
        one = value[at]
        if quoted and one == 0x5C:
            at += 1
        elif one == 0x22:
            quoted = not quoted
        elif one == 0x2C and not quoted:
            parts.append(value[start:at])
            start = at + 1
        at += 1
    parts.append(value[start:])
    return parts, quoted


_NAMING = frozenset({b"private", b"no-cache"})


@lru_cache(maxsize=1024)
def _directives(value: bytes) -> Directives:
    found: Directives = {}
    parts, broken = _parts(value)
    for part in parts:
        name, sign, argument = part.partition(b"=")
        name = name.strip(b" \t").lower()
        if not _TOKEN.fullmatch(name):
            continue
        argument = argument.strip(b" \t")
        if len(argument) > 1 and argument[:1] == argument[-1:] == b'"':
            argument = re.sub(rb"\\(.)", rb"\1", argument[1:-1])
        told = argument if sign else None
        if name in _NAMING and name in found:
            before = found[name]
            found[name] = b"%b,%b" % (before, told) if before and told else None
        else:
            found.setdefault(name, told)
    if broken:
        found[b"no-store"] = None
    return found


def directives(values: Iterable[bytes]) -> Directives:
    """Cache-Control's directives, the first where one is repeated (RFC 9111 sections 4.2.1, 5.2), but for those that
    name fields: all that they name, and the whole answer where one names none.

    An open quote may hide anything, so it means no-store.
    """
    return _directives(b",".join(values))


def seconds(argument: bytes | None) -> int:
    """Of max-age and its like; 0 where it is no number (RFC 9111 section 4.2.1)."""
    return _number(argument) if argument is not None and argument.isdigit() else 0


def _number(digits: bytes) -> int:
    """Python refuses to read more than 4,300 of them."""
    return min(int(digits), MOST) if len(digits) < 20 else MOST if digits.strip(b"0") else 0


def age_of(values: list[bytes]) -> int:
    """Of the Age field: its first member, or nothing (RFC 9111 section 5.1)."""
    first = values[0].partition(b",")[0].strip(b" \t") if values else b""
    return _number(first) if first.isdigit() else 0


@lru_cache(maxsize=1024)
def date_of(value: bytes) -> float | None:
    """Seconds since 1970 of an HTTP date in any of its three forms, whatever its case (RFC 9110 section 5.6.7, RFC 9111
    section 4.2); None where it is none."""
    text = value.strip(b" \t").lower()
    if match := _FIXDATE.fullmatch(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, short, *clock = match.groups()
        now = time.gmtime().tm_year
        full = now - now % 100 + int(short)
        year = b"%d" % (full - 100 if full > now + 50 else full)
    elif match := _ASCTIME.fullmatch(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    if month not in _MONTHS:
        return None
    hours, minutes, seconds_ = (int(one) for one in clock)
    try:
        midnight = date(int(year), _MONTHS[month], int(day)).toordinal()
    except ValueError:
        return None
    if hours > 23 or minutes > 59 or seconds_ > 60:
        return None
    return float((midnight - _EPOCH) * 86400 + hours * 3600 + minutes * 60 + seconds_)


_OTHER = rb"\([^()]{0,200}\)|:[A-Za-z0-9+/=]*:|@-?\d{1,15}"
"""Inner lists, byte sequences and dates: they mean nothing to a cache, and are well-formed (RFC 9651 section 3)."""
_MEMBER = re.compile(
    rb"""[ \t]*([a-z*][a-z0-9_.*-]*)                                       # key
    (?:=(-?\d{1,15}(?:\.\d{1,3})?|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"
    |[A-Za-z*][!\#$%&'*+.^_`|~0-9A-Za-z:/-]*|\?[01]|"""
    + _OTHER
    + rb"""))?
    (?:;[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:-?[\d.]+|"[^"]*"|[A-Za-z*][^\s,;]*|\?[01]|"""
    + _OTHER
    + rb"""))?)*[ \t]*(,|$)""",
    re.VERBOSE,
)


@lru_cache(maxsize=1024)
def _targeted(value: bytes) -> Directives | None:
    found: Directives = {}
    at = 0
    while at < len(value):
        match = _MEMBER.match(value, at)
        if match is None or (match.end() == len(value) and match[3] == b","):
            return None
        name, argument = match[1], match[2]
        found.pop(name, None)
        if argument == b"?0":
            pass
        elif argument is None or argument == b"?1":
            found[name] = None
        elif name in _NUMBERS and not argument.lstrip(b"-").isdigit():
            return None
        else:
            found[name] = argument.strip(b'"')
        at = match.end()
    return found or None


_NUMBERS = frozenset({b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"})


def targeted(values: list[bytes]) -> Directives | None:
    """Of a field that speaks to one kind of caches (RFC 9213 section 2.1); None where it says nothing that can be read,
    and Cache-Control counts."""
    return _targeted(b",".join(values).strip(b" \t")) if values else None


def listed(values: Iterable[bytes]) -> list[bytes]:
    """Members of a comma-separated list, lower-case, none empty."""
    return [one for part in b",".join(values).lower().split(b",") if (one := part.strip(b" \t"))]


_ENTITY_TAG = re.compile(rb'[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|$)')


def matches_any(condition: bytes, entity_tag: bytes) -> bool:
    """If-None-Match: `*`, or the same opaque tag, weak or not (RFC 9110 sections 8.8.3.2 and 13.1.2)."""
    if condition.strip(b" \t") == b"*":
        return True
    if not entity_tag:
        return False
    mine = entity_tag.removeprefix(b"W/")
    at = 0
    while match := _ENTITY_TAG.match(condition, at):
        if match[1].removeprefix(b"W/") == mine:
            return True
        at = match.end()
    return False


_RANGE = re.compile(rb"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


def byte_range(value: bytes, size: int) -> tuple[int, int] | bool | None:
    """First and last byte of a single range over `size` bytes; True where it can't be satisfied.

    None where the field is none that is served (several ranges, other units): the whole is the answer then (RFC 9110
    section 14.2).
    """
    match = _RANGE.fullmatch(value.strip(b" \t"))
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(int(suffix), size)
        return (size - length, size - 1) if length else True
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return True
    return int(first), min(int(last), size - 1) if last else size - 1
