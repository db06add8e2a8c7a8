"""Counters as plain integers, for the hot path; `telemetry.metrics` shows them to Prometheus when it asks.

A bound prometheus-client histogram costs 1.9 µs an observation, these 0.2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from time import time

DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LATENCIES = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
SIZES = (0, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 10485760, 104857600)


class Histogram:
    """Observations by upper bound; `bounds` are ascending, one more bucket takes the rest."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float, least: int = 100) -> float:
        """The bound under which that share lies; 0 while there are fewer than `least` observations."""
        wanted, running = share * sum(self.buckets), 0
        if sum(self.buckets) < least:
            return 0.0
        for bound, count in zip(self.bounds, self.buckets, strict=False):
            running += count
            if running >= wanted:
                return bound
        return self.bounds[-1]

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of upper bound and count as Prometheus wants them."""
        rows, running = [], 0
        for bound, count in zip((*(f"{b:g}" for b in self.bounds), "+Inf"), self.buckets, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


WINDOW = 5.0
"""Seconds of the windows, two of which say what is lately."""


class Fastest:
    """The least of what was seen in this window (`now`) and the one before."""

    __slots__ = ("_before", "_rolled", "now")

    def __init__(self) -> None:
        self.now = self._before = float("inf")
        self._rolled = 0.0

    @property
    def seconds(self) -> float:
        """0 where nothing was seen."""
        least = min(self.now, self._before)
        return least if least < float("inf") else 0.0

    def roll(self, now: float) -> None:
        if now - self._rolled >= WINDOW:
            self._rolled = now
            self._before, self.now = self.now, float("inf")


class Recent:
    """A histogram's last one or two windows."""

    __slots__ = ("_before", "_earlier", "_of", "_rolled")

    def __init__(self, of: Histogram) -> None:
        self._of = of
        self._before = self._earlier = list(of.buckets)
        self._rolled = 0.0

    def roll(self, now: float) -> None:
        if now - self._rolled >= WINDOW:
            self._rolled = now
            self._earlier, self._before = self._before, list(self._of.buckets)

    def quantile(self, share: float) -> float:
        seen = Histogram(self._of.bounds)
        seen.buckets = [count - old for count, old in zip(self._of.buckets, self._earlier, strict=True)]
        return seen.quantile(share)


class SocketStats:
    """The WebSockets of one route; `closed` by code and by the side that began it (client, upstream, proxy)."""

    __slots__ = ("bytes_in", "bytes_out", "closed", "dropped", "handshakes", "latency", "messages_in", "messages_out",
                 "open", "opened")  # fmt: skip

    def __init__(self) -> None:
        self.open = self.opened = 0
        self.closed: defaultdict[tuple[int, str], int] = defaultdict(int)
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self.dropped = 0
        """Messages that a slow client did not get."""
        self.handshakes = Histogram(DURATIONS)
        self.latency = Histogram(LATENCIES)

    def count(self, from_client: bool) -> None:
        if from_client:
            self.messages_in += 1
        else:
            self.messages_out += 1


class RouteStats:
    """What the exchanges of one route came to."""

    __slots__ = ("bytes_in", "bytes_out", "durations", "examples", "in_flight", "route", "sockets", "statuses")

    def __init__(self, route: str) -> None:
        self.route = route
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.durations = Histogram(DURATIONS)
        self.bytes_in = Histogram(SIZES)
        self.bytes_out = Histogram(SIZES)
        self.in_flight = 0
        self.sockets = SocketStats()
        self.examples: dict[int, tuple[str, float, float]] = {}
        """By bucket of `durations` the last that was traced: its trace, seconds, and when (seconds since 1970)."""

    def example(self, trace: str, seconds: float) -> None:
        self.examples[bisect_left(DURATIONS, seconds)] = trace, seconds, time()

    def record(self, status: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        self.statuses[status] += 1
        durations, out = self.durations, self.bytes_out
        durations.buckets[bisect_left(DURATIONS, seconds)] += 1
        durations.total += seconds
        out.buckets[bisect_left(SIZES, bytes_out)] += 1
        out.total += bytes_out
        if bytes_in:
            self.bytes_in.observe(bytes_in)
        else:
            self.bytes_in.buckets[0] += 1


class ClusterStats:
    """What the attempts on one cluster came to; outcomes are `2xx` … `5xx`, `reset`, `timeout`, `unavailable`, …"""

    __slots__ = ("cluster", "durations", "fallbacks", "fastest", "hedges", "outcomes", "panics", "refused", "retries")

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.outcomes: defaultdict[str, int] = defaultdict(int)
        self.durations = Histogram(DURATIONS)
        self.retries: defaultdict[str, int] = defaultdict(int)
        """By what they came after: stale, connect, reset, timeout, or a status."""
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.fallbacks: defaultdict[str, int] = defaultdict(int)
        self.fastest = Fastest()
        self.hedges = 0
        self.panics = 0


class ListenerStats:
    """Connections, refusals and changes; keys are (rule, reason, mode) and (rule, what, mode)."""

    __slots__ = ("changes", "connections", "connections_total", "loop_lag", "rejections")

    def __init__(self) -> None:
        self.connections = 0
        self.connections_total = 0
        self.rejections: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.changes: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self.loop_lag = Histogram(DURATIONS)
