"""A policy's file: what it says, by a short name, and whether it has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def revision_of(data: bytes) -> str:
    """The first twelve digits of a file's SHA-256, as `sha256sum` prints them."""
    return hashlib.sha256(data).hexdigest()[:12]


def stamp_of(path: Path) -> tuple[object, ...]:
    """Changes with the file, and with the link that a ConfigMap's new version is swapped in by; empty without one."""
    try:
        real = os.path.realpath(path)
        seen = os.stat(real)
    except OSError:
        return ()
    return real, seen.st_ino, seen.st_mtime_ns, seen.st_size
