"""`explain`, `test`, `replay` and `diff`: asked of policies, held against the live proxy."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.cli import main
from proxy.control.sandbox import Asked, Sandbox, request_of
from proxy.policy.load import load
from tests.conftest import Start
from tests.wire import ScriptedUpstream

CONFIG = Path(__file__).parents[3] / "config"
POLICY = """\
version: 1
listener: {address: "127.0.0.1:0"}
admin: {address: "127.0.0.1:0"}
access_log: {enabled: false}
trusted_proxies: []
clusters: {app: {endpoints: ["127.0.0.1:9"]}}
policies:
  web:
    security_headers: {preset: helmet}
    request: {methods: [GET, POST, DELETE], media_types: [application/json], max_target: 200}
    inspect: {level: 1}
  inner: {ip: {deny: [127.0.0.0/8]}}
  trial: {ip: {mode: shadow, deny: [127.0.0.0/8]}}
defaults: {use: [web], max_body: 64}
routes:
  admin: {match: {prefix: /admin}, to: app, use: [web, inner]}
  trial: {match: {prefix: /trial}, to: app, use: [web, trial]}
  few: {match: {path: /few}, to: app, limits: {few: {limit: 2/1h}}}
  all: {match: {prefix: /api, methods: [GET, POST]}, to: app}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def ran(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_each_filter_has_its_line_and_the_refusal_its_reason(policy: Path) -> None:
    told = ran("explain", "GET", "/admin/users", "--policy", policy)
    assert told.exit_code == 3
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert lines[0].startswith("route admin, revision ")
    assert "IpAccess refused inner.ip" in lines
    assert "RequestLimits not reached web.request" in lines
    assert any(line.startswith("refused: 403 forbidden by inner.ip: ") for line in lines)


def test_what_passes_tells_what_the_application_gets(policy: Path) -> None:
    told = ran("explain", "POST", "http://shop.example/api/a?b=c", "-H", "Content-Type: application/json", "-d", "{}",
               "--policy", policy, "--client", "192.0.2.7", "--json")  # fmt: skip
    assert told.exit_code == 0, told.output
    verdict = json.loads(told.stdout)
    assert verdict["verdict"] == "passed 200"
    reached = verdict["upstream"]
    assert (reached["method"], reached["target"], reached["body"]) == ("POST", "/api/a?b=c", "{}")
    assert ["x-forwarded-for", "192.0.2.7"] in reached["headers"]
    assert {one["verdict"] for one in verdict["filters"]} == {"passed"}


def test_a_limit_is_told_with_its_key_and_what_is_left(policy: Path) -> None:
    told = ran("explain", "GET", "/few", "--policy", policy, "--times", "3")
    assert told.exit_code == 3
    assert "limit few.few: denied, 0 of 2 in 3600 s left, key " in told.stdout
    assert "source local" in told.stdout
    assert "127.0.0.1" not in told.stdout


def test_a_shadow_is_told_and_passes(policy: Path) -> None:
    told = ran("explain", "GET", "/trial", "--policy", policy)
    assert told.exit_code == 0
    assert "would be refused by trial.ip (shadow)" in told.stdout


def test_no_route(policy: Path) -> None:
    told = ran("explain", "DELETE", "/api", "--policy", policy)
    assert (told.exit_code, told.stdout.splitlines()[0][:8]) == (3, "no route")
    assert "refused: 405 method-not-allowed by routes: this path takes GET, HEAD, POST" in told.stdout


WORDS = st.sampled_from(
    ["api", "admin", "trial", "few", "..", "%2e", "a b", "<script>alert(1)</script>", "é", "'--", "x" * 90]
)
REQUESTS = st.builds(
    Asked,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "TRACE", "OPTIONS", "FOO"]),
    target=st.lists(WORDS, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    headers=st.lists(
        st.sampled_from([
            ("Content-Type", "application/json"), ("Content-Type", "text/xml"), ("X_Bad", "1"), ("Accept", "text/html"),
            ("Cookie", "a=b"), ("X-Forwarded-For", "192.0.2.1"), ("Referer", "javascript:alert(1)"),
        ]), max_size=3, unique=True,
    ).map(tuple),
    body=st.sampled_from([b"", b"{}", b'{"a":"<script>alert(1)</script>"}', b"x" * 65, b"not json"]),
)  # fmt: skip


async def test_explain_and_the_live_proxy_agree(
    tmp_path: Path, serve: Start, upstream: ScriptedUpstream, policy: Path
) -> None:
    """A thousand requests; the live proxy is one of its own, with another upstream."""
    from proxy.app import Proxy
    from tests.conftest import Served

    live_file = tmp_path / "live.yaml"
    live_file.write_text(POLICY.replace("127.0.0.1:9", f"127.0.0.1:{upstream.port}").replace("2/1h", "100000/1h"))
    asked_file = tmp_path / "asked.yaml"
    asked_file.write_text(POLICY.replace("2/1h", "100000/1h"))
    live = Served(Proxy(load(live_file, {})))
    await live.proxy.start()
    seen: set[int] = set()
    try:
        async with Sandbox(load(asked_file, {})) as box:
            for asked in _examples(REQUESTS, 1000):
                verdicts = await box.ask(asked)
                wire = await live.connect()
                wire.send(asked.encoded())
                status, _, body = await wire.answer(head_only=asked.method == "HEAD")
                wire.close()
                rule = orjson.loads(body)["rule"] if status >= 400 and body.startswith(b'{"type"') else ""
                if asked.method != "HEAD" and b"<!doctype" not in body:
                    assert (status, rule) == (verdicts.status, verdicts.rule), asked
                else:
                    assert status == verdicts.status, asked
                seen.add(status)
    finally:
        await live.proxy.stop(0)
    assert {200, 400, 403, 404, 405, 413, 415, 501} <= seen


def _examples(strategy: st.SearchStrategy[Asked], count: int) -> list[Asked]:
    found: list[Asked] = []

    @settings(
        max_examples=count, database=None, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None
    )
    @given(strategy)
    def collect(one: Asked) -> None:
        found.append(one)

    collect()
    return (found * (count // len(found) + 1))[:count]


# test


CASES = """\
policy: policy.yaml
cases:
  - name: good
    request: GET /api/a
    expect: {status: 200, rule: null, route: all, headers: {x-frame-options: SAMEORIGIN}, upstream: {called: true}}
  - name: wrong
    request: {method: POST, url: /api, json: {a: 1}}
    expect: {status: 403, rule: web.inspect, upstream: {json: {a: 2}}}
  - name: third
    request: {url: /few, times: 3}
    expect: {status: 429, rule: few.few}
"""


def test_cases_are_judged_with_a_readable_difference(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASES)
    told = ran("test", tmp_path, "--junit", tmp_path / "out.xml")
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        f"{tmp_path}/cases.yaml:6: wrong",
        "    status: 403 → 200",
        "    rule: web.inspect → none",
        '    upstream.json: {"a":2} → {"a":1}',
        "2 as expected, 1 not",
    ]
    suite = ET.parse(tmp_path / "out.xml").getroot()  # noqa: S314  # our own
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert [case.get("name") for case in suite if len(case)] == ["wrong"]


def test_a_file_that_can_t_be_used_is_told_with_its_place(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASES.replace("rule: null", "ruel: null"))
    told = ran("test", tmp_path)
    assert told.exit_code == 1
    assert f"{tmp_path}/cases.yaml:5:27: cases.0.expect.ruel: extra inputs are not permitted" in told.stderr


def test_a_folder_without_cases(tmp_path: Path) -> None:
    told = ran("test", tmp_path)
    assert told.exit_code == 2
    assert "has cases" in told.stderr


def test_the_shipped_cases_hold() -> None:
    told = ran("test", CONFIG / "tests")
    assert told.exit_code == 0, told.output


# replay


def log_of(tmp_path: Path, count: int, planted: set[int]) -> Path:
    """Records under a policy that lets /admin pass; the planted ones go there."""
    path = tmp_path / "access.jsonl"
    lines = []
    for number in range(count):
        where = "/admin/x" if number in planted else f"/api/{number % 50}"
        lines.append(json.dumps({"event": "request", "method": "GET", "path": where, "status": 200}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ten_thousand_records_tell_just_what_changes(policy: Path, tmp_path: Path) -> None:
    planted = {17, 4711, 9999}
    record = log_of(tmp_path, 10_000, planted)
    told = ran("replay", "--log", record, "--candidate", policy, "--json")
    assert told.exit_code == 1
    report = json.loads(told.stdout)
    assert (report["compared"], report["changed"]) == (10_000, 3)
    assert {one["line"] - 1 for one in report["changes"]} == planted
    assert {one["after"] for one in report["changes"]} == {"refused 403 forbidden by inner.ip"}


def test_against_another_policy(policy: Path, tmp_path: Path) -> None:
    record = log_of(tmp_path, 20, {3})
    old = tmp_path / "old.yaml"
    old.write_text(POLICY.replace("deny: [127.0.0.0/8]", "deny: [192.0.2.0/24]", 1))
    told = ran("replay", "--log", record, "--candidate", policy, "--policy", old)
    assert told.stdout.splitlines() == [
        "line 4: GET /admin/x: passed → refused 403 forbidden by inner.ip", "1 of 20 verdicts would change",
    ]  # fmt: skip
    told = ran("replay", "--log", record, "--candidate", policy, "--policy", policy)
    assert (told.exit_code, told.stdout) == (0, "0 of 20 verdicts would change\n")


def test_what_a_log_can_t_tell_is_counted_and_not_guessed(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_text(
        '{"event":"request","method":"GET","path":"/few","status":429,"rejection":"rate-limited"}\n'
        'not json\n{"event":"else"}\n{"event":"request","method":"GET","path":"/api","status":200}\n'
    )
    report = json.loads(ran("replay", "--log", path, "--candidate", policy, "--json").stdout)
    assert (report["compared"], report["not_comparable"], report["unread_lines"], report["changed"]) == (1, 1, 1, 0)


# diff


def test_differences_in_words(policy: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    text = POLICY.replace("few: {limit: 2/1h}", "few: {limit: 5/15m}").replace("max_body: 64", "max_body: 1KiB")
    new.write_text(text.replace("[GET, POST, DELETE]", "[GET, PUT]").replace("  trial: {match", "  tried: {match"))
    told = ran("diff", policy, new)
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        "policy web: request.methods: without POST, DELETE; with PUT",
        "defaults.max_body: 64 → 1024 (more)",
        'route trial: removed (was {"match":{"prefix":"/trial"},"to":"app","use":["web","trial"]})',
        "route few: limits.few.limit: 2/1h → 5/15m",
        'route tried: added: {"match":{"prefix":"/trial"},"to":"app","use":["web","trial"]}',
    ]
    same = ran("diff", policy, policy)
    assert (same.exit_code, same.stdout) == (0, "no difference\n")


def test_a_secret_is_said_to_differ_and_not_shown(policy: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for path, secret in ((old, "a" * 40), (new, "b" * 40)):
        path.write_text(POLICY + f"identity: {{jwt: {{secret: {secret}}}}}\n")
    told = ran("diff", old, new)
    assert told.stdout == "identity.jwt.secret: another secret\n"


def test_a_url_becomes_host_and_target() -> None:
    asked = request_of("GET", "https://a.example:8443/b?c=d", {})
    assert (asked.target, asked.headers) == ("/b?c=d", (("Host", "a.example:8443"),))
