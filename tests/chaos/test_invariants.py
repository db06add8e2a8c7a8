"""Each check finds what it is for, and nothing in a history where all is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.history import ANSWERED, FAILED, HUNG, Heard, History, Request, Sample
from chaos.invariants import ALWAYS
from chaos.report import page, plain, table_of
from chaos.runner import Result
from chaos.scenario import Scenario, ScenarioError, read_all

SCENARIO = Scenario.model_validate(
    {
        "name": "x", "about": "x", "faults": [{"kill": ["app-a"]}],
        "expect": {"errors": {"probes": "10%"}, "closed_refuses": True, "breaker": {"opens": "1s", "closes": "3s"},
                   "recovered": "3s"},
    }
)  # fmt: skip


def request(load: str = "probes", at: float = 1.0, status: int = 200, **more: object) -> Request:
    made = Request(load, "a", at, 0.01, ANSWERED, status, good=status in (200, 201))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def well() -> History:
    """A fault from 2 to 5 s, noticed and got over as it should be."""
    history = History(fault=(2.0, 5.0), ended=10.0)
    history.requests = [request(at=at / 10) for at in range(100)]
    history.requests += [request("closed", at=4.2, status=503), request("writes", 1.0, 201, key="k")]
    history.requests += [request("limited", at=at / 20) for at in range(200)]
    history.stored = {"k": 1}
    history.sent = {1: "acked", 2: "acked", 3: "unknown"}
    history.heard = [Heard("a", 0.5, -1), Heard("a", 1.0, 1), Heard("a", 1.1, 2)]
    states = [(1.0, "closed"), (2.5, "open"), (5.5, "half_open"), (6.0, "closed"), (9.5, "closed")]
    history.samples = [Sample("a", at, state, 80.0, 50, True) for at, state in states]
    return history


def broken(history: History) -> dict[str, str]:
    """But that an application which was killed has no resources to compare."""
    return {name: what for name, check in ALWAYS.items() if (what := check(history, SCENARIO))}


def test_all_is_well() -> None:
    assert broken(well()) == {}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calm before", lambda h: h.requests.append(request(at=0.5, status=500, good=False))),
        ("answered in time", lambda h: h.requests.append(request(at=3.0, outcome=HUNG))),
        ("answered in time", lambda h: h.requests.append(request(at=3.0, took=12.0))),
        ("writes kept", lambda h: h.stored.clear()),
        ("executed once", lambda h: h.stored.update(k=2)),
        ("within limit", lambda h: h.requests.extend(request("limited", at=1.0) for _ in range(200))),
        ("leases", lambda h: h.requests.append(request("slots", 3.0, 429))),
        ("headers", lambda h: h.requests.append(request(at=3.0, headers=False))),
        ("attacks kept out", lambda h: h.stored.update({"run-attack1@example.com": 1})),
        ("attacks kept out", lambda h: h.requests.append(request("attacks", 3.0, 201, good=False))),
        ("attacks kept out", lambda h: h.requests.append(request("refused messages", 3.0, 403, good=False))),
        ("sequence", lambda h: h.heard.pop()),
        ("sequence", lambda h: h.heard.append(Heard("a", 2.0, 1))),
        ("breakers", lambda h: h.samples.append(Sample("a", 9.0, "open", 80.0, 50, True))),
        ("breakers", lambda h: h.samples.__setitem__(1, Sample("a", 3.5, "open", 80.0, 50, True))),
        ("errors bounded", lambda h: h.requests.extend(request(at=3.0, status=503, good=False) for _ in range(9))),
        ("errors bounded", lambda h: h.requests.append(request("closed", at=4.3))),
        ("recovered", lambda h: h.requests.append(request("reads", at=9.0, outcome=FAILED, status=0, good=False))),
        ("resources", lambda h: h.samples.append(Sample("a", 9.9, "closed", 180.0, 50, True))),
        ("resources", lambda h: h.samples.append(Sample("a", 9.9, "closed", 80.0, 150, True))),
    ],
    ids=range(20),
)  # fmt: skip
def test_each_finds_its_own(name: str, change: object) -> None:
    history = well()
    change(history)  # type: ignore[operator]
    assert name in broken(history)


def test_what_was_told_to_be_missing_is_excused() -> None:
    history = well()
    history.sent = dict.fromkeys(range(1, 7), "acked")
    history.heard = [Heard("a", 1.0, number) for number in (-1, 1, 2, -1, 5)]
    assert ALWAYS["sequence"](history, SCENARIO) == "a: 1 acknowledged messages never came ([6])"


def test_the_report_shows_what_failed() -> None:
    history = well()
    history.stored.clear()
    result = Result(SCENARIO, history, {name: check(history, SCENARIO) for name, check in ALWAYS.items()})
    data = plain(result)
    assert data["passed"] is False
    assert "**x**" in table_of([data])
    made = page([data])
    assert "1 of 1 acknowledged writes are not in the database" in made
    assert "0 of 1 scenarios passed" in made
    assert "<script" not in made


def test_scenario_files(tmp_path: Path) -> None:
    known = read_all()
    assert len(known) > 60
    assert {"app-killed", "redis-gone", "links-a-app-latency-upstream"} <= set(known)
    (tmp_path / "x.yaml").write_text("bad: {about: x, faults: [{links: [a-app]}], lasts: 3 weeks}\n")
    with pytest.raises(ScenarioError, match=r"x\.yaml: bad\.faults.*Give toxic, down or flap[\s\S]*is no time"):
        read_all(tmp_path)
