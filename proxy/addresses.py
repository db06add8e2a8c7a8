"""Sets of networks, asked in one look-up; an IPv4 address mapped into IPv6 counts as the IPv4 address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytricia


def normalise(text: str) -> str | None:
    """The address in its canonical spelling, or None where it is none. Zone identifiers are dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def holder(address: str, prefix: int = 64) -> str:
    """Who is behind an address, as `normalise` gives it: an IPv6 one stands for its network, since a household has a
    /64 to itself (RFC 6177)."""
    return str(ipaddress.IPv6Network((address, prefix), strict=False)) if ":" in address else address


class Networks:
    __slots__ = ("_v4", "_v6", "empty")

    def __init__(self, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        self._v4 = pytricia.PyTricia(32)
        self._v6 = pytricia.PyTricia(128)
        self.empty = True
        for network in networks:
            (self._v4 if network.version == 4 else self._v6).insert(str(network), True)
            self.empty = False

    def __contains__(self, address: str) -> bool:
        """`address` as `normalise` gives it."""
        return address in (self._v6 if ":" in address else self._v4)
