"""Counts by key that all workers of a sidecar see at once, in memory that they share.

Each worker writes a column of its own, so nothing is locked; a count is the sum of a row. Two rows of a count-min
sketch (Cormode and Muthukrishnan, 2005) stand for a key, and the lesser counts: a count is never too low, and is too
high only where both rows are shared with keys that are counted at the same time. A dead worker's column is the
parent's to clear.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from functools import lru_cache

SLOTS = 16_384
DEPTH = 2


class SharedCounts:
    """`fd` is of `memory(workers)`; `worker` is the column that this process writes."""

    def __init__(self, fd: int, workers: int, worker: int = 0) -> None:
        self._map = mmap.mmap(fd, 4 * DEPTH * SLOTS * workers)
        self._cells = memoryview(self._map).cast("i")
        self._workers = workers
        self._worker = worker

    def add(self, key: str, change: int) -> None:
        for row in _rows(key):
            self._cells[row * self._workers + self._worker] += change

    def count(self, key: str) -> int:
        workers = self._workers
        return min(sum(self._cells[row * workers : (row + 1) * workers]) for row in _rows(key))

    def clear(self, worker: int) -> None:
        for at in range(worker, DEPTH * SLOTS * self._workers, self._workers):
            self._cells[at] = 0

    def close(self) -> None:
        self._cells.release()
        self._map.close()


@lru_cache(maxsize=65_536)
def _rows(key: str) -> tuple[int, int]:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    first = int.from_bytes(digest[:4], "big") % SLOTS
    return first, SLOTS + int.from_bytes(digest[4:], "big") % SLOTS


def memory(workers: int) -> int:
    """A file descriptor of zeroes, which lives as long as somebody holds it."""
    fd = os.memfd_create("simplepro-counts")
    os.ftruncate(fd, 4 * DEPTH * SLOTS * workers)
    return fd
