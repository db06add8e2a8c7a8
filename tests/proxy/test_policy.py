"""The policy file: what is good loads, what is wrong is told all at once with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.policy.findings import PolicyError
from proxy.policy.load import load

CONFIG = Path(__file__).parents[2] / "config"
GOOD = """\
version: 1
listener: {address: "127.0.0.1:8080"}
admin: {address: "127.0.0.1:9901"}
clusters:
  app: {endpoints: ["127.0.0.1:4000"]}
policies:
  web: {security_headers: {preset: helmet}}
routes:
  all: {match: {prefix: /}, use: [web], to: app}
"""


def findings(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> list[str]:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    try:
        load(path, environment or {})
    except PolicyError as error:
        return [str(finding).removeprefix(f"{path}:") for finding in error.findings]
    return []


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_policies_are_valid(path: Path) -> None:
    load(path, {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("use: [web]", "usee: [web]", '9:29: routes.all.usee: unknown key. Did you mean "use"?'),
        ("use: [web]", "use: [wep]", '9:35: routes.all.use.0: there is no policy "wep". Did you mean "web"?'),
        ("to: app", "to: ap", '9:45: routes.all.to: there is no cluster "ap". Did you mean "app"?'),
        ("preset: helmet", "preset: helmet, preset: none", "7:44: policies.web.security_headers.preset: this key"),
        ("preset: helmet", "mode: no", '7:34: policies.web.security_headers.mode: "no" is a boolean'),
        ("version: 1", "version: 1:30", '1:10: version: "1:30" is a base-60 number'),
        ("prefix: /", "prefix: api", '9:16: routes.all.match: "api" does not begin with a slash'),
        ('"127.0.0.1:4000"', '"${NOWHERE}"', "5:21: clusters.app.endpoints.0: NOWHERE is not set."),
        ('"127.0.0.1:4000"', '"4000"', '5:21: clusters.app.endpoints.0: "4000" is not an address.'),
        ('"127.0.0.1:9901"', '"0.0.0.0:9901"', "3:18: admin.address: an admin address that is not loopback"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = findings(tmp_path, GOOD.replace(old, new))
    assert any(one.startswith(said) for one in told), told


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("use:", "usee:").replace("preset: helmet", "presett: helmet").replace("127.0.0.1:4000", "x")
    assert len(findings(tmp_path, text)) == 3


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x]\n" + "".join(f"b{n}: [{', '.join(['*a'] * 9)}]\n" for n in range(9))
    assert "aliases" in findings(tmp_path, bomb)[0]


def test_switches_turn_rules_off(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    headers = load(path, {"SECURITY_HEADERS_ENABLED": "false"}).policies["web"].security_headers
    assert headers is not None
    assert headers.mode == "off"
    assert "SECURITY_HEADERS_ENABLED" in findings(tmp_path, GOOD, {"SECURITY_HEADERS_ENABLED": "maybe"})[0]


@pytest.mark.parametrize(("text", "status"), [(GOOD, 0), (GOOD.replace("to: app", "to: x"), 1)])
def test_validate_says_by_exit_status(tmp_path: Path, text: str, status: int) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert CliRunner().invoke(main, ["validate", str(path)]).exit_code == status
    assert CliRunner().invoke(main, ["validate"]).exit_code == 2


def test_routes_and_schema_are_printed(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    result = CliRunner().invoke(main, ["routes", "--policy", str(path), "/x"])
    assert result.output == "all: any prefix / → app; request_id → web.security_headers\n"
    assert '"routes"' in CliRunner().invoke(main, ["schema"]).output
