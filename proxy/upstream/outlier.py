"""Endpoints that do worse than the others are left out for a while (Envoy's outlier detection)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.upstream.cluster import Endpoint

GATEWAY_STATUSES = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class OutlierTerms:
    """Names as Envoy's; times in seconds. `consecutive_gateway` 0 and `stdev_factor` 0 switch their detector off."""

    consecutive_gateway: int = 5
    interval: float = 10.0
    base_ejection: float = 30.0
    max_ejection: float = 300.0
    max_ejected: float = 0.5
    success_rate_hosts: int = 5
    success_rate_requests: int = 50
    stdev_factor: float = 1.9
    enforced: bool = True


log = logging.getLogger(__name__)


class Outlier:
    """Looks at the endpoints of one cluster; `ejections` by detector, `shadowed` what it only would have done."""

    __slots__ = ("_checked", "_cluster", "_endpoints", "_terms", "ejections", "shadowed")

    def __init__(self, cluster: str, terms: OutlierTerms, endpoints: Sequence[Endpoint]) -> None:
        self._cluster = cluster
        self._terms = terms
        self._endpoints = endpoints
        self._checked = 0.0
        self.ejections: dict[str, int] = {}
        self.shadowed: dict[str, int] = {}

    def record(self, endpoint: Endpoint, now: float, *, failed: bool, gateway: bool) -> None:
        endpoint.calls += 1
        if gateway:
            endpoint.gateway_row += 1
            wanted = self._terms.consecutive_gateway
            if wanted and endpoint.gateway_row >= wanted:
                endpoint.gateway_row = 0
                self._eject(endpoint, now, "consecutive_gateway")
        else:
            endpoint.gateway_row = 0
        if not failed:
            endpoint.successes += 1

    def sweep(self, now: float) -> None:
        """Bring back who has been out for long enough, and compare success rates once an interval."""
        for endpoint in self._endpoints:
            if endpoint.ejected_until and endpoint.ejected_until <= now:
                endpoint.ejected_until = 0.0
                endpoint.gateway_row = 0
                endpoint.warm_since = now
                log.warning("%s: endpoint %s is used again", self._cluster, endpoint.address)
        if now - self._checked < self._terms.interval:
            return
        self._checked = now
        self._compare(now)
        for endpoint in self._endpoints:
            if not endpoint.ejected_until and endpoint.ejections and endpoint.calls == endpoint.successes:
                endpoint.ejections -= 1
            endpoint.calls = endpoint.successes = 0

    def _compare(self, now: float) -> None:
        terms = self._terms
        seen = [one for one in self._endpoints if one.calls >= terms.success_rate_requests and not one.ejected_until]
        if not terms.stdev_factor or len(seen) < terms.success_rate_hosts:
            return
        rates = [one.successes / one.calls for one in seen]
        floor = fmean(rates) - terms.stdev_factor * pstdev(rates)
        for endpoint, rate in zip(seen, rates, strict=True):
            if rate < floor:
                self._eject(endpoint, now, "success_rate")

    def _eject(self, endpoint: Endpoint, now: float, detector: str) -> None:
        """At least one may always be ejected, else no more than the share that may."""
        terms = self._terms
        out = sum(1 for one in self._endpoints if one.ejected_until)
        if endpoint.ejected_until or (out and (out + 1) / len(self._endpoints) > terms.max_ejected):
            return
        seconds = min(terms.max_ejection, terms.base_ejection * (endpoint.ejections + 1))
        log.warning(
            "%s: endpoint %s %s left out for %g s: %s",
            self._cluster, endpoint.address, "is" if terms.enforced else "would be", seconds, detector,
        )  # fmt: skip
        if not terms.enforced:
            self.shadowed[detector] = self.shadowed.get(detector, 0) + 1
            return
        self.ejections[detector] = self.ejections.get(detector, 0) + 1
        endpoint.ejections += 1
        endpoint.ejected_until = now + seconds
