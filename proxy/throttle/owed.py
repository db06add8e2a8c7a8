"""What was admitted while the store was away, until the store has counted it.

A batch has a name of its own and is counted once, however often it must be sent: one that came too late may have been
counted all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from proxy.throttle.charge import Charge, Strategy

MAX_OWED = 10_000
"""Keys whose charges are remembered."""

Merge = Callable[[Charge, int, str, Callable[[bool], None]], None]
"""Charge, units, the batch's name, and who is told whether the store has it."""


@dataclass(slots=True)
class Debt:
    """`fresh` units were never sent; `batches` were, and `asked` are those whose answer is awaited."""

    charge: Charge
    fresh: int = 0
    batches: dict[str, int] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)


class Owed:
    """`settled` is told of a key of which nothing is owed any more. Names begin with `name`, this sidecar's."""

    def __init__(self, name: str, merge: Merge, settled: Callable[[Charge], None]) -> None:
        self._name = name
        self._merge = merge
        self._settled = settled
        self._debts: dict[str, Debt] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._debts)

    def add(self, charge: Charge, units: int) -> None:
        if charge.quota.strategy is Strategy.CONCURRENT:
            return
        debt = self._debts.get(charge.key)
        if debt is None:
            if len(self._debts) >= MAX_OWED:
                return
            debt = self._debts[charge.key] = Debt(charge)
        debt.fresh += units

    def send(self, keys: Iterable[str] | None = None) -> None:
        """What is owed of these keys, or all of it."""
        for key in list(self._debts) if keys is None else keys:
            debt = self._debts.get(key)
            if debt is None:
                continue
            if debt.fresh:
                self._made += 1
                debt.batches[f"{self._name}.{self._made}"], debt.fresh = debt.fresh, 0
            for batch, units in list(debt.batches.items()):
                if batch not in debt.asked:
                    debt.asked.add(batch)
                    self._merge(debt.charge, units, batch, partial(self._answered, debt, batch))

    def _answered(self, debt: Debt, batch: str, done: bool) -> None:
        debt.asked.discard(batch)
        if done:
            debt.batches.pop(batch, None)
            if not debt.fresh and not debt.batches and self._debts.pop(debt.charge.key, None) is not None:
                self._settled(debt.charge)
