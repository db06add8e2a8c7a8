"""simplepro-app run."""

from __future__ import annotations

import os
import sys

import click
import uvloop

from upstream_app import __version__, logs, settings
from upstream_app.app import serve


@click.group()
@click.version_option(__version__)
def main() -> None:
    """SimplePro, a moving company's CRM. Settings come from the environment."""


@main.command()
def run() -> None:
    """Serve until SIGTERM."""
    try:
        chosen = settings.read(os.environ)
    except settings.InvalidSettings as error:
        click.echo(f"the environment does not do:\n{error}", err=True)
        sys.exit(1)
    logs.configure(chosen.LOG_LEVEL)
    try:
        uvloop.run(serve(chosen))
    except OSError as error:
        click.echo(f"can't listen on {chosen.HOST}:{chosen.PORT}: {error.strerror}. Choose another: PORT", err=True)
        sys.exit(1)
