"""What one asks of a policy at the command line: routes · inspect · explain · test · replay · diff · preflight."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
import uvloop

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
from proxy.policy.asked import policy_option, read
from proxy.policy.compile import Compiled, Shared, compile_policy
from proxy.policy.findings import PolicyError
from proxy.policy.model import Policy
from proxy.policy.source import revision_of
from proxy.rejection import Rejection
from proxy.routing import Route
from proxy.target import TargetRules, canonical
from proxy.telemetry import logs
from proxy.throttle.local import LocalLimiter

Result = TypeVar("Result")


@click.group()
def questions() -> None:
    """Commands that start no proxy to serve."""


@questions.command()
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
    policy = read(path)

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


@questions.command()
@policy_option
@click.argument("request_file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--all", "every", is_flag=True, help="Show values of which nothing is found, too.")
def inspect(path: Path, request_file: Path, every: bool) -> None:
    """What inspection makes of each value of an HTTP request in a file (head, empty line, body), on the route that it
    meets. Exit status 0 passed, 3 refused, 1 not judged."""
    policy = read(path)
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
        lines, refused = inspected(filter_, route.name, exchange.path, exchange.query, fields, body, every=every)
        for line in lines:
            click.echo(line)
        return 3 if refused else 0

    sys.exit(asyncio.run(look()))


HEADERS = click.option("-H", "--header", "lines", multiple=True, metavar="NAME:VALUE", help="A header; repeatable.")


@questions.command()
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
    policy, revision = read(path), revision_of(path.read_bytes())

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


@questions.command()
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


@questions.command()
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
    new, old = read(candidate), read(current) if current else None
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


@questions.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def diff(old: Path, new: Path) -> None:
    """What differs between two policy files, in words; exit status 0 nothing, 1 something, 2 wrong use."""
    lines = differences(read(old), read(new))
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("no difference")
    sys.exit(1 if lines else 0)


@questions.command()
@policy_option
@click.option("--listen/--no-listen", default=True, help="Whether the listener's address has to be free.")
def preflight(path: Path, listen: bool) -> None:
    """Before a sidecar is rolled out: the policy, its clusters, Redis, keys, clock; exit status 0 all good, 1 not."""
    policy = read(path)
    told = [
        ("policy", f"{path} is valid, revision {revision_of(path.read_bytes())}", True),
        *asyncio.run(checks.preflight(policy)),
    ]
    if listen:
        told.append(checks.can_listen(policy))
    for name, words, good in told:
        click.echo(f"{'ok   ' if good else 'WRONG'}  {name:13} {words}")
    sys.exit(0 if all(good for _, _, good in told) else 1)
