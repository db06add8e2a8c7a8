"""What this process asks of the system and of its interpreter before it serves."""

from __future__ import annotations

import gc
import resource


def settle_memory() -> None:
    """What was made at load time lives on: the collector need not look at it, nor so often at what requests leave."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def raise_file_limit() -> None:
    """A connection is a file on each side: take all that the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
