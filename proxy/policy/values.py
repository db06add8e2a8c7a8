"""The small values that a policy is written with: durations, sizes, addresses."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr, WithJsonSchema

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_UNIX = re.compile(r"unix:/[^\s\0]{1,99}")
_ADDRESS = re.compile(rf"(?:\[([0-9A-Fa-f:.]+)\]|({_LABEL}(?:\.{_LABEL})*\.?)):(\d{{1,5}})")


def seconds(value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError(f'"{value}" is not a duration. Write a number with ms, s, m, h or d: 15s')
    return float(match[1]) * _SECONDS[match[2]]


def some(value: float) -> float:
    if value <= 0:
        raise ValueError("it has to be longer than nothing")
    return value


def share(value: object) -> float:
    """`20%`, or a number from 0 to 1."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    number = float(match[1]) / 100 if match else value
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= 1:
        raise ValueError(f'"{value}" is not a share. Write a percentage: 20%')
    return float(number)


def size(value: object) -> int:
    match = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if not match:
        raise ValueError(f'"{value}" is not a size. Write bytes, or a number with KiB, MiB or GiB: 10MiB')
    return int(match[1]) * _BYTES[match[2]]


def address(value: object) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or int(match[3]) > 65535:
        raise ValueError(f'"{value}" is not an address. Write host:port, or [v6]:port')
    return match[1] or match[2], int(match[3])


def place(value: object) -> tuple[str, int]:
    """`unix:/path` is that path and port 0."""
    if isinstance(value, str) and value.startswith("unix:"):
        if not _UNIX.fullmatch(value):
            raise ValueError(f'"{value}" is not a Unix socket. Write unix:/path, of at most 100 bytes')
        return value, 0
    try:
        return address(value)
    except ValueError:
        raise ValueError(f'"{value}" is not an address. Write host:port, [v6]:port, or unix:/path') from None


def secret(value: object) -> object:
    """A secret of digits, or one that reads `true`, is one too."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value))
    except ValueError as error:
        hint = " Host bits have to be zero" if "host bits" in str(error) else " Write 10.0.0.0/8 or 2001:db8::/32"
        raise ValueError(f'"{value}" is no network.{hint}') from None


def listed(value: object) -> object:
    """One environment variable may hold several, separated by commas, or none."""
    if isinstance(value, list):
        return [part.strip() for item in value for part in str(item or "").split(",") if part.strip()]
    return value


def one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


Secret = Annotated[
    SecretStr, BeforeValidator(secret), WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
]
Duration = Annotated[
    float, BeforeValidator(seconds), WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"})
]
"""Seconds as a float, written as `250ms`, `15s`, `5m`."""
Span = Annotated[Duration, AfterValidator(some)]
"""A duration that is longer than nothing."""
Size = Annotated[
    int,
    BeforeValidator(size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}),
]
"""Bytes, written as `512`, `64KiB`, `10MiB`."""
Share = Annotated[
    float,
    BeforeValidator(share),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_PERCENT.pattern}$"}]}),
]
"""From 0 to 1, written as `20%`."""
Address = Annotated[
    tuple[str, int], BeforeValidator(address), WithJsonSchema({"type": "string", "pattern": f"^{_ADDRESS.pattern}$"})
]
"""Host and port."""
Place = Annotated[
    tuple[str, int],
    BeforeValidator(place),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{_ADDRESS.pattern}|{_UNIX.pattern})$"}),
]
"""Host and port, or `unix:/path` and 0."""
