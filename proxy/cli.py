"""simplepro-proxy run · validate · schema · routes · inspect · explain · test · replay · diff ·
preflight."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
import uvloop

from proxy import __version__
from proxy.app import serve
from proxy.control import cases
from proxy.control import explain as explained
from proxy.control import preflight as checks
from proxy.control import replay as replaying
from proxy.control.diff import differences
from proxy.control.sandbox import Sandbox, Verdicts, request_of
from proxy.exchange import Exchange
from proxy.filters.inspection import Inspection
from proxy.headers import Headers
from proxy.inspecting import inspected, parsed
from proxy.policy.compile import Compiled, Shared, compile_policy
from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.policy.model import Policy
from proxy.policy.schema import schema as policy_schema
from proxy.policy.source import revision_of
from proxy.rejection import Rejection
from proxy.routing import Route
from proxy.target import TargetRules, canonical
from proxy.telemetry import logs
from proxy.throttle.local import LocalLimiter
from proxy.workers.link import Worker
from proxy.workers.parent import supervise
from proxy.workers.process import processors

Result = TypeVar("Result")
policy_option = click.option(
    "--policy", "path", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The policy file."
)


@click.group()
@click.version_option(__version__)
def main() -> None:
    """A sidecar proxy that enforces a YAML policy."""


def _load(path: Path, text: bytes | None = None) -> Policy:
    try:
        return load(path, data=text)
    except PolicyError as error:
        for finding in error.findings:
            click.echo(str(finding), err=True)
        count = len(error.findings)
        click.echo(f"{count} error{'s' * (count > 1)}; nothing was applied", err=True)
        raise SystemExit(1) from None


@main.command()
@policy_option
@click.option(
    "--log-level", default="INFO", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), show_default=True
)
def run(path: Path, log_level: str) -> None:
    """Serve by the policy until SIGTERM."""
    worker = Worker.of(os.environ)
    policy = _load(path, worker.text() if worker else None)
    logs.configure(log_level)
    faulthandler.enable()
    count = processors() if policy.workers == "auto" else policy.workers
    several = count > 1 and worker is None
    try:
        status = uvloop.run(supervise(policy, path, count, log_level) if several else serve(policy, path))
    except OSError as error:
        click.echo(_cannot_listen(policy, error), err=True)
        status = 1
    sys.exit(status)


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


@main.command()
@policy_option
@click.option("--method", default="GET", show_default=True)
@click.option("--host", default="localhost", show_default=True)
@click.option("--header", "lines", multiple=True, metavar="NAME:VALUE", help="A header of the request; repeatable.")
@click.argument("target", required=False)
def routes(path: Path, method: str, host: str, lines: tuple[str, ...], target: str | None) -> None:
    """Print the routes, or the one that TARGET meets, with its chain in the order in which it judges."""
    parts = [line.partition(":") for line in lines]
    given = [(name.strip().lower().encode(), value.strip().encode()) for name, _, value in parts]
    if not all(name for name, _ in given):
        raise click.UsageError("a header is NAME:VALUE, as in --header 'X-Version: 2'")
    policy = _load(path)

    async def look() -> int:
        compiled = _compiled(policy)
        shown = list(compiled.routes.routes)
        if target is not None:
            try:
                shown = [_met(compiled, _asked(policy, method, host, given, target))]
            except _NotMet as error:
                click.echo(str(error))
                return 1
        for route in shown:
            methods = ",".join(sorted(m.decode() for m in route.matcher.methods)) or "any"
            rules_shown = " → ".join(("request_id", *route.chain.rule_names))
            where = f"{methods} {route.matcher.kind} {route.matcher.path.decode()}"
            click.echo(f"{route.name}: {where} → {route.cluster.name}; {rules_shown}")
        return 0

    sys.exit(asyncio.run(look()))


class _NotMet(Exception):
    """Why a request meets no route, in words."""


def _compiled(policy: Policy) -> Compiled:
    loop = asyncio.get_running_loop()
    return compile_policy(policy, loop, lambda exchange, verdict: None, Shared(LocalLimiter(lambda: 0.0)))


def _asked(policy: Policy, method: str, host: str, given: list[tuple[bytes, bytes]], target: str) -> Exchange:
    """Raises _NotMet where the listener would not read the target."""
    exchange = Exchange(method.encode(), 1, Headers([(b"host", host.encode()), *given]), "127.0.0.1", 0.0)
    rules = TargetRules(**policy.listener.http.model_dump(exclude={"underscored_headers"}))
    try:
        exchange.path, exchange.query = canonical(target.encode(), method.encode(), host.encode(), rules)
    except Rejection as rejection:
        raise _NotMet(f"refused: {rejection.status} {rejection.detail} (rule {rejection.rule})") from None
    return exchange


def _met(compiled: Compiled, exchange: Exchange) -> Route:
    met = compiled.routes.match(exchange)
    if met is None:
        raise _NotMet("no route: 404, or 405 where other methods are taken")
    return met


@main.command()
@policy_option
@click.argument("request_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--all", "every", is_flag=True, help="Show values of which nothing is found, too.")
def inspect(path: Path, request_file: Path, every: bool) -> None:
    """What inspection makes of each value of an HTTP request in a file (head, empty line, body), on the route that it
    meets. Exit status 0 passed, 3 refused, 1 not judged."""
    policy = _load(path)
    method, target, fields, body = parsed(request_file.read_bytes())
    host = dict(fields).get(b"host", b"localhost").decode("latin-1")

    async def look() -> int:
        compiled = _compiled(policy)
        try:
            exchange = _asked(policy, method, host, fields, target)
            route = _met(compiled, exchange)
        except _NotMet as error:
            click.echo(str(error))
            return 1
        filter_ = next((one for one in route.chain.filters if isinstance(one, Inspection)), None)
        if filter_ is None:
            click.echo(f"route {route.name} inspects nothing")
            return 1
        lines, refused = inspected(filter_, exchange.path, exchange.query, fields, body, every=every)
        for line in lines:
            click.echo(line)
        return 3 if refused else 0

    sys.exit(asyncio.run(look()))


HEADERS = click.option("-H", "--header", "lines", multiple=True, metavar="NAME:VALUE", help="A header; repeatable.")


@main.command()
@policy_option
@click.argument("method")
@click.argument("url")
@HEADERS
@click.option("-d", "--data", default="", help="The body; @FILE reads it from a file.")
@click.option("--client", default="127.0.0.1", show_default=True, help="The address that it comes from.")
@click.option(
    "--times", default=1, show_default=True, type=click.IntRange(1, 100_000), help="Ask that often; tell the last."
)
@click.option(
    "-A", "--answer", "answers", multiple=True, metavar="NAME:VALUE", help="What the application's answer says."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    path: Path, method: str, url: str, lines: tuple[str, ...], data: str, client: str, times: int,
    answers: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """What the policy makes of METHOD URL: each filter's verdict, the limits, what the application would get. Exit
    status 0 passed, 3 refused."""
    parts, said = _fields(lines), _fields(answers)
    body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
    asked = request_of(method, url, dict(parts), body, client)
    policy, revision = _load(path), revision_of(path.read_bytes())

    async def look() -> Verdicts:
        async with Sandbox(policy) as box:
            box.stub.headers += said
            for _ in range(times - 1):
                await box.ask(asked)
            return await box.ask(asked)

    verdicts = _asked_quietly(look())
    if as_json:
        click.echo(orjson.dumps(explained.as_json(verdicts, revision), option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(explained.as_lines(verdicts, revision)))
    sys.exit(3 if verdicts.rule else 0)


def _fields(lines: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    parts = [line.partition(":") for line in lines]
    if not all(name.strip() for name, _, _ in parts):
        raise click.UsageError("a header is NAME:VALUE, as in -H 'X-Version: 2'")
    return tuple((name.strip(), value.strip()) for name, _, value in parts)


def _asked_quietly(work: Coroutine[Any, Any, Result]) -> Result:
    """What the sandbox's proxy logs is no answer to what was asked."""
    logs.configure("ERROR")
    try:
        return uvloop.run(work)
    except (TimeoutError, ConnectionError, EOFError) as error:
        click.echo(f"no answer: {error or type(error).__name__}; is the request one that can be sent?", err=True)
        raise SystemExit(1) from None


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), metavar="DIR")
@click.option(
    "--junit", "report", type=click.Path(path_type=Path), help="Write the results there, too, as JUnit's XML."
)
def test(folder: Path, report: Path | None) -> None:
    """Hold policies against the cases below DIR; exit status 0 all as expected, 1 not, 2 wrong use."""
    try:
        found = cases.files(folder)
    except LookupError as error:
        raise click.UsageError(str(error)) from None
    judged: list[cases.Judged] = []
    broken = 0
    for path in found:
        try:
            judged += _asked_quietly(cases.run(path))
        except PolicyError as error:
            broken += 1
            for finding in error.findings:
                click.echo(str(finding), err=True)
    for one in judged:
        if one.differences:
            click.echo(f"{one.file}:{one.line}: {one.name}")
            for line in one.differences:
                click.echo(f"    {line}")
    failed = sum(bool(one.differences) for one in judged)
    click.echo(f"{len(judged) - failed} as expected, {failed} not{f', {broken} files unusable' if broken else ''}")
    if report is not None:
        report.write_bytes(cases.junit(judged))
    sys.exit(1 if failed or broken else 0)


@main.command()
@click.option("--log", "record", required=True, type=click.Path(path_type=Path, exists=True), help="An access log.")
@click.option("--candidate", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The policy to try.")
@click.option(
    "--policy",
    "current",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare with this policy, not with what was recorded.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def replay(record: Path, candidate: Path, current: Path | None, as_json: bool) -> None:
    """Each recorded request whose verdict CANDIDATE would change; exit status 0 none, 1 some, 2 wrong use."""
    new, old = _load(candidate), _load(current) if current else None
    with record.open("rb") as lines:
        report = _asked_quietly(replaying.replay(lines, new, old))
    if as_json:
        click.echo(orjson.dumps(replaying.summary(report), option=orjson.OPT_INDENT_2))
    else:
        for change in report.changes:
            click.echo(str(change))
        more = (
            f", {report.beyond} not comparable (limits, identity, bodies and the upstream's state)"
            if report.beyond
            else ""
        )
        unread = f", {report.unread} lines are no records" if report.unread else ""
        click.echo(f"{len(report.changes)} of {report.compared} verdicts would change{more}{unread}")
    sys.exit(1 if report.changes else 0)


@main.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff(old: Path, new: Path) -> None:
    """What differs between two policy files, in words; exit status 0 nothing, 1 something, 2 wrong use."""
    lines = differences(_load(old), _load(new))
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("no difference")
    sys.exit(1 if lines else 0)


@main.command()
@policy_option
@click.option("--listen/--no-listen", default=True, help="Whether the listener's address has to be free.")
def preflight(path: Path, listen: bool) -> None:
    """Before a sidecar is rolled out: the policy, its clusters, Redis, keys, clock; exit status 0 all good, 1 not."""
    policy = _load(path)
    told = [
        ("policy", f"{path} is valid, revision {revision_of(path.read_bytes())}", True),
        *asyncio.run(checks.preflight(policy)),
    ]
    if listen:
        told.append(checks.can_listen(policy))
    for name, words, good in told:
        click.echo(f"{'ok   ' if good else 'WRONG'}  {name:13} {words}")
    sys.exit(0 if all(good for _, _, good in told) else 1)
