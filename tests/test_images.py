"""The images get what they copy: .dockerignore shuts out all that it does not name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_all_that_is_copied_reaches_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        copied |= set(line.split()[:-1])
    assert copied <= let_in
    assert {"breaker", "proxy", "upstream_app", "config"} <= copied
    assert all((ROOT / one).exists() for one in copied)
