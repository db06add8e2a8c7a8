"""What a deployment needs made: secrets, and those Kubernetes files that follow from others here.

`python -m stack.deploy secrets` · `manifests [--check]`.
"""

from __future__ import annotations

import secrets as random
from pathlib import Path

import click
import yaml

from stack.process import ROOT

KUBERNETES = ROOT / "config" / "kubernetes"
SECRETS = ("jwt_secret", "jwt_refresh_secret", "admin_token", "grafana_password")


class Rules(yaml.SafeDumper):
    """Sequences indented below their key, as the other files here are written."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def prometheus_rule(rules: str) -> str:
    """The PrometheusRule of `config/prometheus/rules`: the operator's way to load the same alerts."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "simplepro"},
        "spec": {"groups": yaml.safe_load(rules)["groups"]},
    }
    head = "# Made from config/prometheus/rules/simplepro.yml by `make manifests`.\n"
    return head + yaml.dump(resource, Dumper=Rules, sort_keys=False, width=150)


def generated() -> dict[Path, str]:
    """Path → text of each file that `make manifests` writes: kustomize reads nothing outside its own root."""
    rules = (ROOT / "config" / "prometheus" / "rules" / "simplepro.yml").read_text()
    policy = (ROOT / "config" / "simplepro.yaml").read_text()
    return {
        KUBERNETES / "base" / "prometheus-rule.yaml": prometheus_rule(rules),
        KUBERNETES / "overlays" / "production" / "policy.yaml": policy,
    }


@click.group()
def main() -> None:
    pass


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; exit status 1 where a file is not what it should be.")
def manifests(check: bool) -> None:
    """Writes what Kubernetes needs a copy of."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(generated()[path])
        click.echo(f"{path.relative_to(ROOT)} {'is old: make manifests' if check else 'written'}")
    raise SystemExit(1 if check and stale else 0)


@main.command()
@click.option("--mongodb-uri", default="mongodb://mongo-0.mongo,mongo-1.mongo,mongo-2.mongo/simplepro?replicaSet=rs0")
def secrets(mongodb_uri: str) -> None:
    """Random secrets for compose (.secrets/) and for the overlay; one that is there is kept."""
    compose, overlay = ROOT / ".secrets", KUBERNETES / "overlays" / "production" / "secrets"
    for folder in (compose, overlay):
        folder.mkdir(mode=0o700, exist_ok=True)
    for name in SECRETS:
        value = random.token_urlsafe(48)
        for folder in (compose, overlay):
            keep(folder / name, value)
    keep(overlay / "mongodb_uri", mongodb_uri)


def keep(path: Path, value: str) -> None:
    """Containers run as another user: a file has to be readable, so the folder is what keeps others out."""
    kept = path.exists()
    if not kept:
        path.touch(mode=0o644)
        path.write_text(value)
    click.echo(f"{path.relative_to(ROOT)} {'kept' if kept else 'made'}")


if __name__ == "__main__":
    main()
