"""python -m chaos run NAME… · list · report."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from chaos.invariants import ALWAYS
from chaos.report import page, plain, table_of
from chaos.runner import Result, run_all
from chaos.scenario import Scenario, ScenarioError, read_all
from chaos.toxics import ToxicFailure
from stack.process import ROOT, StartFailure

REPORT = ROOT / "chaos" / "report.html"
DATA = ROOT / "build" / "chaos.json"
DOCUMENT = ROOT / "docs" / "chaos.md"


@click.group()
def main() -> None:
    """Break the stack on purpose, and see whether it keeps its promises."""


def _scenarios() -> dict[str, Scenario]:
    try:
        return read_all()
    except ScenarioError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


@main.command(name="list")
def list_() -> None:
    """The scenarios, and what each breaks."""
    for name, one in _scenarios().items():
        click.echo(f"{name:<34} {'short ' if one.short else '      '}{one.about}")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--short", is_flag=True, help="Only the short set that `make test` runs.")
@click.option("--json", "data", type=click.Path(path_type=Path), default=DATA, show_default=True)
@click.option("--html", "html", type=click.Path(path_type=Path), default=REPORT, show_default=True)
@click.option("--document", is_flag=True, help="Write the table of docs/chaos.md anew.")
def run(names: tuple[str, ...], *, short: bool, data: Path, html: Path, document: bool) -> None:
    """Run all scenarios, or those of these names (a name that ends with * is a beginning). 0 where all passed."""
    known = _scenarios()
    chosen = [one for name, one in known.items() if _wanted(name, one, names, short=short)]
    if not chosen:
        click.echo(f"no scenario is called so. Known are: {', '.join(known)}", err=True)
        sys.exit(2)
    try:
        results = asyncio.run(_run(chosen))
    except (StartFailure, ToxicFailure) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps([plain(one) for one in results], indent=1))
    html.write_text(page([plain(one) for one in results]))
    if document:
        _write_document(results)
    failed = [one for one in results if not one.passed]
    click.echo(f"{len(results) - len(failed)} of {len(results)} scenarios passed; {html}, {data}")
    sys.exit(1 if failed else 0)


def _wanted(name: str, one: Scenario, names: tuple[str, ...], *, short: bool) -> bool:
    if short and not one.short:
        return False
    return not names or any(name == asked or (asked.endswith("*") and name.startswith(asked[:-1])) for asked in names)


async def _run(chosen: list[Scenario]) -> list[Result]:
    console = Console(stderr=False)
    results: list[Result] = []

    def say(text: str) -> None:
        console.print(f"[dim]{len(results)}/{len(chosen)}[/dim] {text}", highlight=False)

    async for result in run_all(chosen, say):
        results.append(result)
        for name, what in result.broken.items():
            if what:
                console.print(f"  [red]{name}[/red] {what}", highlight=False)
    table = Table(title="scenarios and invariants", caption=", ".join(f"{i}: {n}" for i, n in enumerate(ALWAYS, 1)))
    table.add_column("scenario", overflow="fold")
    for number, _ in enumerate(ALWAYS, 1):
        table.add_column(str(number))
    for one in results:
        marks = ["[red]x[/red]" if one.broken[name] else "[green]✓[/green]" for name in ALWAYS]
        table.add_row(one.scenario.name, *marks)
    console.print(table)
    return results


@main.command()
@click.option("--json", "data", type=click.Path(path_type=Path), default=DATA, show_default=True)
@click.option("--html", "html", type=click.Path(path_type=Path), default=REPORT, show_default=True)
def report(data: Path, html: Path) -> None:
    """The page once more, from the recorded JSON."""
    if not data.exists():
        click.echo(f"{data} is not there. Run: python -m chaos run", err=True)
        sys.exit(2)
    html.write_text(page(json.loads(data.read_text())))
    click.echo(str(html))


def _write_document(results: list[Result]) -> None:
    """The table between its two marks."""
    text = DOCUMENT.read_text()
    begin, end = "<!-- table -->", "<!-- end -->"
    before, _, rest = text.partition(begin)
    DOCUMENT.write_text(f"{before}{begin}\n{table_of([plain(one) for one in results])}\n{end}{rest.partition(end)[2]}")
