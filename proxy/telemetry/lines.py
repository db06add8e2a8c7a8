"""Lines to a file that others may write to at the same time: each arrives whole."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator


def write_lines(fd: int, lines: list[bytes], *, shared: bool) -> None:
    """Blocks while nobody reads. Raises OSError. A pipe takes PIPE_BUF bytes as one (POSIX `write`), and no more: where
    other processes write to it, too, that is what a write has at most."""
    for batch in _batches(lines) if shared else (b"".join(lines),):
        view = memoryview(batch)
        while view:
            view = view[os.write(fd, view) :]


def _batches(lines: list[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and size + len(line) > select.PIPE_BUF:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    yield b"".join(batch)
