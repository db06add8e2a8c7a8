"""The metrics of several workers as one page: counters and histograms are summed, gauges by what they mean.

What a worker that has gone had counted stays in the sums, as it was last seen: a counter never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

WORST_IS_MOST = frozenset(
    {
        "proxy_bans", "proxy_breaker_forced", "proxy_breaker_state", "proxy_build_info", "proxy_endpoint_ejected",
        "proxy_certificates_refused", "proxy_fleet_facts",
        "proxy_overload_level", "proxy_policy_applied_timestamp_seconds", "proxy_policy_info", "proxy_policy_reloads",
        "proxy_store_peers",
    }
)  # fmt: skip
"""What all see alike, or where one in trouble is what matters."""
WORST_IS_LEAST = frozenset(
    {
        "proxy_certificate_not_after_timestamp_seconds", "proxy_endpoint_healthy", "proxy_fleet_listening",
        "proxy_keys_good", "proxy_policy_last_reload_good", "proxy_store_up",
    }
)  # fmt: skip
SUMMED = frozenset(
    {
        "process_open_fds", "process_resident_memory_bytes", "proxy_connections", "proxy_requests_in_flight",
        "proxy_upstream_connections", "proxy_upstream_requests_limit", "proxy_upstream_requests_running",
        "proxy_websockets_open", "proxy_websocket_buffered_bytes",
    }
)  # fmt: skip
"""Gauges that add up."""

Key = tuple[str, tuple[tuple[str, str], ...]]
Page = dict[str, tuple[Metric, dict[Key, float]]]


def parsed(text: str) -> Page:
    """By family its samples. Raises ValueError where it is no such page."""
    page: Page = {}
    for family in text_string_to_metric_families(text):
        samples = {(one.name, tuple(one.labels.items())): one.value for one in family.samples}
        page[family.name] = family, samples
    return page


class Merger(Collector):
    """`see` takes a worker's newest page, `retire` says that the worker has gone."""

    def __init__(self) -> None:
        self._pages: dict[int, Page] = {}
        self._gone: Page = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def see(self, worker: int, page: Page) -> None:
        self._pages[worker] = page

    def snapshot(self) -> Merger:
        """As it is now, for a thread to expose; pages don't change once they are parsed."""
        made = Merger()
        made._pages = dict(self._pages)
        made._gone = {name: (family, dict(samples)) for name, (family, samples) in self._gone.items()}
        return made

    def retire(self, worker: int) -> None:
        for name, (family, samples) in self._pages.pop(worker, {}).items():
            if family.type != "gauge":
                _add(self._gone, name, family, samples)

    def collect(self) -> Iterator[Metric]:
        total: Page = {}
        for page in (self._gone, *self._pages.values()):
            for name, (family, samples) in page.items():
                _add(total, name, family, samples)
        for name, (family, samples) in total.items():
            made = Metric(name, family.documentation, family.type)
            for (sample, labels), value in samples.items():
                made.add_sample(sample, dict(labels), value)
            yield made

    def expose(self, more: Iterable[Metric] = ()) -> bytes:
        """`more` are the parent's own."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Fixed(more))
        return generate_latest(self._registry) + generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _add(total: Page, name: str, family: Metric, samples: dict[Key, float]) -> None:
    _, into = total.setdefault(name, (family, {}))
    for key, value in samples.items():
        if key not in into:
            into[key] = value
        elif name in WORST_IS_MOST:
            into[key] = max(into[key], value)
        elif name in WORST_IS_LEAST:
            into[key] = min(into[key], value)
        else:
            into[key] += value
