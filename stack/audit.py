"""`make audit`: known vulnerabilities of what the locks name, bandit over our code, hadolint, secrets in the tree.

What could not be looked at is said, and counts as a finding with `--strict`: a scan that saw nothing is no clean one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from stack.process import ROOT

BIN = Path(sys.executable).parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
CODE = ("proxy", "upstream_app", "breaker", "stack", "chaos")
BASELINE = ".secrets.baseline"
DEADLINE = 300
ONLY_MOVED = 3


@dataclass(frozen=True, slots=True)
class Told:
    """One scan: `unseen` is what it could not look at, `said` its own words where it found something."""

    name: str
    clean: bool
    said: str = ""
    unseen: str = ""


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    path = str(BIN / command[0]) if (BIN / command[0]).exists() else command[0]
    whole = [path, *command[1:]]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)  # noqa: S603  # our own words


def dependencies(lock: str) -> Told:
    """pip-audit asks PyPI for advisories; an index that stands in for it has none, and every package is skipped."""
    name = f"known vulnerabilities of {lock}"
    done = ran("pip-audit", "-r", lock, "--require-hashes", "--disable-pip", "-f", "json", "--progress-spinner", "off")
    try:
        rows = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        return Told(name, True, unseen=f"pip-audit could not ask: {last[:200]}")
    found = [f"{row['name']} {row['version']}: {one['id']}" for row in rows for one in row.get("vulns", [])]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    unseen = f"{len(skipped)} of {len(rows)} packages: the index here has no advisories" if skipped else ""
    return Told(name, not found, "\n".join(found), unseen)


def code() -> Told:
    done = ran("bandit", "-q", "-ll", "-r", *CODE)
    return Told("bandit, medium and above", not done.returncode, done.stdout)


def images() -> Told:
    done = ran("hadolint", "Dockerfile")
    return Told("hadolint", not done.returncode, done.stdout)


def secrets(files: list[str]) -> Told:
    """Those that are in the baseline were looked at: examples, and inputs of tests.

    A known one that stands on another line now is no finding; the scan writes its new line into a copy, never here.
    """
    with tempfile.TemporaryDirectory() as place:
        baseline = shutil.copy(ROOT / BASELINE, place)
        done = ran("detect-secrets-hook", "--baseline", baseline, *files)
    return Told("secrets in the tree", done.returncode in {0, ONLY_MOVED}, done.stdout + done.stderr)


def tracked() -> list[str]:
    names = ran("git", "ls-files").stdout.splitlines()
    return [name for name in names if not name.endswith((".lock", "package-lock.json", BASELINE, ".png"))]


def main(arguments: list[str]) -> int:
    strict = "--strict" in arguments
    failed = False
    for told in (*(dependencies(lock) for lock in LOCKS), code(), images(), secrets(tracked())):
        word = "clean" if told.clean and not told.unseen else "not seen" if told.clean else "FOUND"
        click.echo(f"{word:9} {told.name}" + (f": {told.unseen}" if told.unseen else ""))
        if not told.clean:
            click.echo(told.said)
        failed = failed or not told.clean or (strict and bool(told.unseen))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
