"""The short set over real servers; and five faults planted in the sidecar, each found by a scenario."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from chaos.runner import Result, run_all
from chaos.scenario import read_all
from tests.chaos.mutants import MUTANTS

SCENARIOS = read_all()
SHORT = [one for one in SCENARIOS.values() if one.short]


pytestmark = pytest.mark.timeout(300)


async def results(names: list[str], command: list[str] | None = None) -> list[Result]:
    chosen = [SCENARIOS[name] for name in names]
    async with asyncio.timeout(240), contextlib.aclosing(run_all(chosen, print, command or ())) as running:
        return [one async for one in running]


async def test_the_short_set() -> None:
    found = await results([one.name for one in SHORT])
    assert len(found) == 3
    assert {one.scenario.name: {n: w for n, w in one.broken.items() if w} for one in found if not one.passed} == {}
    assert all(len(one.history.requests) > 500 and len(one.history.sent) > 20 for one in found)


FOUND_BY = {
    "breaker_never_opens": ("app-killed", "breakers"),
    "closed_fails_open": ("redis-gone", "errors bounded"),
    "bare_refusals": ("app-killed", "headers"),
    "posts_retried": ("answers-lost", "executed once"),
    "leases_lost": ("links-a-app-slicer", "leases"),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_planted_faults_are_found(name: str) -> None:
    """Three runs at most: whether a reset comes between a write and its answer is chance."""
    scenario, invariant = FOUND_BY[name]
    command = [sys.executable, "-m", "tests.chaos.mutants", name]
    async with asyncio.timeout(240), contextlib.aclosing(run_all([SCENARIOS[scenario]] * 3, print, command)) as running:
        async for found in running:
            if found.broken[invariant]:
                return
    pytest.fail(f"{scenario} did not find it: {found.broken}")
