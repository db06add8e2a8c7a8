"""One page of metrics for several worker processes: each serves its own on a Unix socket, whoever is asked adds up.

Counters and histograms are summed, gauges too (connections, memory), but for what is a state: the worst is told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import aiohttp
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = structlog.get_logger("simplepro.metrics")
FOLDER = "SIMPLEPRO_WORKER_SOCKETS"
"""The variable that tells workers where their sockets are."""
SECONDS = 2.0
STATES = frozenset({"database_connected"})


def own_socket() -> Path | None:
    """Where this worker serves its own metrics; None where it is the only one."""
    folder = os.environ.get(FOLDER)
    return Path(folder) / f"{os.getpid()}.sock" if folder else None


def forget_socket(pid: int) -> None:
    """Of a worker that died."""
    Path(os.environ[FOLDER], f"{pid}.sock").unlink(missing_ok=True)


async def of_all(own: bytes, path: str) -> bytes:
    """This worker's page and the others' as one; a worker that does not answer is left out, and told."""
    here = own_socket()
    if here is None:
        return own
    others = [one for one in here.parent.glob("*.sock") if one != here]
    pages = await asyncio.gather(*(_page(one, path) for one in others))
    return added([own, *(page for page in pages if page)])


async def _page(where: Path, path: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(where)), timeout=timeout) as session,
            session.get(f"http://worker{path}") as answer,
        ):
            return await answer.read() if answer.status == 200 else b""
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("a worker's metrics are left out", worker=where.stem, error=type(error).__name__)
        return b""


class _Sum(Collector):
    def __init__(self, pages: Iterable[bytes]) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for page in pages:
            for family in text_string_to_metric_families(page.decode()):
                self._add(family)

    def _add(self, family: Metric) -> None:
        self._families.setdefault(family.name, family)
        values = self._values.setdefault(family.name, {})
        for sample in family.samples:
            if sample.name.endswith("_created") and family.type != "gauge":
                continue
            key = (sample.name, tuple(sample.labels.items()))
            if key not in values:
                values[key] = sample.value
            elif family.name in STATES:
                values[key] = min(values[key], sample.value)
            else:
                values[key] += sample.value

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            made = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                made.add_sample(sample, dict(labels), value)
            yield made


def added(pages: Iterable[bytes]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sum(pages))
    return generate_latest(registry)
