"""The policy file as a command's option, and what is wrong with it told at the command line."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.policy.model import Policy

policy_option = click.option(
    "--policy", "path", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The policy file."
)


def read(path: Path, text: bytes | None = None) -> Policy:
    try:
        return load(path, data=text)
    except PolicyError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        count = len(error.findings)
        click.echo(f"{count} error{'s' * (count > 1)}; nothing was applied", err=True)
        raise SystemExit(1) from None
