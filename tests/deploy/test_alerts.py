"""Alerts, their tests and their pages hold together; promtool judges the first two."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.process import ROOT
from stack.twin import found

RULES = ROOT / "config" / "prometheus" / "rules" / "simplepro.yml"
TESTS = ROOT / "config" / "prometheus" / "tests" / "simplepro.yml"
PAGES = ROOT / "docs" / "runbooks"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
HEADINGS = ("Look at", "Do", "Meanwhile")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = found("promtool")
    assert tool is not None, "promtool is missing: make system"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_promtool_takes_the_rules_and_their_tests_hold() -> None:
    checked = promtool("check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", str(TESTS))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_wrong_expectation_would_be_told(tmp_path: Path) -> None:
    text = TESTS.read_text().replace("../rules/simplepro.yml", str(RULES))
    broken = tmp_path / "broken.yml"
    broken.write_text(text.replace("summary: the sidecar of app-1:9901 does not answer", "summary: something else"))
    tested = promtool("test", "rules", str(broken))
    assert tested.returncode != 0
    assert "SidecarDown" in tested.stdout + tested.stderr


def test_each_alert_fires_in_one_test_and_stays_silent_in_another() -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    for name in ALERTS:
        seen = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == name}
        assert seen == {True, False}, name


def test_prometheus_takes_its_configuration() -> None:
    checked = promtool("check", "config", "--syntax-only", str(ROOT / "config" / "prometheus" / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_whom_it_wakes_and_has_a_page(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "performance")
    assert alert["annotations"]["summary"]
    page = ROOT / alert["annotations"]["runbook"]
    assert page == PAGES / f"{name}.md"
    text = page.read_text()
    for heading in HEADINGS:
        assert f"## {heading}" in text, heading


def test_no_page_is_of_an_alert_that_is_gone() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} == set(ALERTS)


def test_what_the_pages_link_to_is_there() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
