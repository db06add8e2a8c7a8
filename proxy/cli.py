"""simplepro-proxy run · validate · schema · hash-key, and the commands of `proxy.questions`."""

from __future__ import annotations

import errno
import faulthandler
import hashlib
import os
import secrets
import socket
import sys
from pathlib import Path

import click
import orjson
import uvloop

from proxy import __version__
from proxy.policy.asked import policy_option, read
from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.policy.model import Policy
from proxy.policy.schema import schema as policy_schema
from proxy.serving import serve
from proxy.telemetry import logs
from proxy.workers.link import Worker


class Commands(click.Group):
    """Loads the commands that only ask when one is asked for: a worker in a dead one's place has no time for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._questions().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._questions().get_command(ctx, cmd_name)

    @staticmethod
    def _questions() -> click.Group:
        from proxy.questions import questions

        return questions


@click.group(cls=Commands)
@click.version_option(__version__)
def main() -> None:
    """A sidecar proxy that enforces a YAML policy."""


@main.command()
@policy_option
@click.option(
    "--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), show_default=True
)
def run(path: Path, log_level: str) -> None:
    """Serve by the policy until SIGTERM."""
    worker = Worker.of(os.environ)
    policy = read(path, worker.text() if worker else None)
    logs.configure(log_level)
    faulthandler.enable()
    try:
        status = uvloop.run(serve(policy, path) if worker else _alone_or_several(policy, path, log_level))
    except OSError as error:
        click.echo(_cannot_listen(policy, error), err=True)
        status = 1
    sys.exit(status)


async def _alone_or_several(policy: Policy, path: Path, log_level: str) -> int:
    from proxy.workers.parent import supervise
    from proxy.workers.process import processors

    count = processors() if policy.workers == "auto" else policy.workers
    return await (supervise(policy, path, count, log_level) if count > 1 else serve(policy, path))


def _cannot_listen(policy: Policy, error: OSError) -> str:
    """Which of the two addresses it is, and how to mend it."""
    places = [("", policy.listener.address, "PROXY_PORT"), ("the admin's ", policy.admin.address, "ADMIN_PORT")]
    if policy.listener.redirect is not None:
        places.insert(1, ("the redirect's ", policy.listener.redirect.address, "listener.redirect.address"))
    for what, (host, port), variable in places:
        if host.startswith("unix:"):
            path = Path(host.removeprefix("unix:"))
            if path.exists() or not os.access(path.parent, os.W_OK):
                why = (
                    "something is there, and is served or no socket" if path.exists() else "its folder can't be written"
                )
                return f"can't listen on {what}{host}: {why}"
            continue
        try:
            family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError:
            return f"{what}address {host} does not resolve. Write an address of this machine"
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as reason:
                told = f"can't listen on {what}{host}:{port}: {reason.strerror}"
                if reason.errno == errno.EADDRINUSE:
                    return f"{told}. End what holds the port, or choose another: {variable}={port + 1}"
                return f"{told}. Write an address of this machine, and a port that this user may have"
    return f"can't start: {error.strerror or error}"


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
def validate(files: tuple[Path, ...]) -> None:
    """Check policy files; exit status 0 clean, 1 findings, 2 wrong use."""
    findings = []
    for path in files:
        try:
            load(path)
        except PolicyError as error:
            findings += error.findings
        else:
            click.echo(f"{path}: ok")
    for finding in findings:
        click.echo(str(finding), err=True)
    if findings:
        click.echo(f"{len(findings)} error{'s' * (len(findings) > 1)}; nothing was applied", err=True)
        sys.exit(1)


@main.command()
def schema() -> None:
    """Print the policy file's JSON Schema."""
    click.echo(orjson.dumps(policy_schema(), option=orjson.OPT_INDENT_2))


@main.command("hash-key")
@click.argument("key", required=False)
def hash_key(key: str | None) -> None:
    """Print a new API key (or KEY) and the sha256 that identity.api_keys wants; the key itself is kept nowhere."""
    key = key or secrets.token_urlsafe(32)
    click.echo(f"key:    {key}\nsha256: {hashlib.sha256(key.encode()).hexdigest()}")
