"""The policy file: what is good loads, what is wrong is told all at once with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from proxy.cli import main
from proxy.policy.document import read
from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.policy.model import Policy
from proxy.policy.schema import schema

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


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every field of a policy, names that users choose as `*`."""
    for name, field in model.model_fields.items():
        below = f"{path}.{field.alias or name}".lstrip(".")
        yield below
        named = get_origin(field.annotation) is dict
        kinds = get_args(field.annotation)[-1:] if named else (field.annotation, *get_args(field.annotation))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, below + ".*" * named)


def test_the_reference_explains_every_field() -> None:
    known = set(fields(Policy))
    chosen = {
        "routes.*.limits.*": "policies.example.limits.*",
        "policies.*": "policies.example",
        "policies.example.limits.*": "policies.example.limits.per-client",
        "policies.example.websocket.messages.*": "policies.example.websocket.messages.small",
        "clusters.*": "clusters.app",
        "routes.*": "routes.one-customer",
        "identity.api_keys.keys.*": "identity.api_keys.keys.partner",
    }
    elsewhere = (
        "routes.one-customer.match.prefix", "identity.jwt.keys_file", "identity.jwt.keys_url", "redis.sentinel",
        "policies.example.websocket.messages.small.", "policies.example.openapi", "policies.example.inspect.profile",
        "routes.one-customer.match.openapi",
        "routes.one-customer.match.base",
        "listener.tls.", "listener.redirect.", "clusters.app.tls.", "traces.", "cache.redis.",
        "redis.ca_file", "redis.cert_file", "redis.key_file",
        "policies.example.limits.per-client.count", "policies.example.limits.per-client.lease",
        "policies.example.limits.per-client.concurrent", "policies.example.limits.per-client.cost.",
    )  # fmt: skip
    text = (CONFIG / "reference.yaml").read_text()
    document = read(CONFIG / "reference.yaml", {})
    given = {".".join(str(part) for part in path if not isinstance(part, int)) for path in document.keys}
    missing = []
    for field in known:
        where = field
        for star, name in chosen.items():
            where = where.replace(star, name)
        told = where.startswith(elsewhere) and f"{where.rpartition('.')[2]}:" in text
        if where not in given and not told:
            missing.append(where)
    assert len(known) > 60
    assert missing == []


def test_the_references_defaults_are_the_real_ones() -> None:
    policy = load(CONFIG / "reference.yaml", {})
    minimal = load(CONFIG / "minimal.yaml", {})
    assert policy.listener == minimal.listener
    given, default = policy.clusters["app"], minimal.clusters["app"]
    plain = ("max_connections", "max_waiting", "max_requests", "max_retries", "timeouts", "panic")
    assert [getattr(given, name) for name in plain] == [getattr(default, name) for name in plain]
    assert policy.routes["one-customer"].timeouts == minimal.routes["everything"].timeouts
    assert (policy.defaults.max_body, policy.access_log) == (minimal.defaults.max_body, minimal.access_log)


class Yaml12(yaml.SafeLoader):
    """As editors read it: `on` and `off` are words, references stand as they are."""


Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":bool")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), ["t", "f"])


def as_written(name: str) -> Any:
    return yaml.load((CONFIG / name).read_text(), Yaml12)  # noqa: S506  # a SafeLoader


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_is_of_what_is_written(path: Path) -> None:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    written = as_written(path.name)
    assert [error.message for error in jsonschema.Draft202012Validator(made).iter_errors(written)] == []


def test_the_schema_takes_references_and_refuses_rubbish() -> None:
    check = jsonschema.Draft202012Validator(schema())
    good = as_written("minimal.yaml")
    referring = {**good, "listener": {"address": "${HERE}", "drain": "${SHUTDOWN_TIMEOUT:-30000}ms"}}
    assert check.is_valid(referring)
    for wrong in ({"address": "here"}, {"address": "a:1", "drain": "10"}, {"address": "a:1", "adress": "b"}):
        assert not check.is_valid({**good, "listener": wrong})


BROKEN = """version: 1
listener: {address: "127.0.0.1:0", drain: 10, timeouts: {head: 1:30}}
admin: {address: "0.0.0.0:9901"}
clusters:
  app: {endpoints: ["127.0.0.1:1"]}
  app: {endpoints: ["127.0.0.1:2"]}
policies:
  web: {security_headers: {headers: {x-frame-options: BANANA}, csp: {scrpt-src: [a]}}}
  api: {cors: {origins: ["https://a.b"], expose: ["x\\r\\nset-cookie: a"]}, ip: {deny: [10.0.0.1/8]}}
routes:
  one: {match: {prefix: /, hosts: ["EXA mple/"]}, to: nowhere, use: [wbe], websockt: true}
  two: {match: {path: "/a//b"}, to: app}
  three: {match: {prefix: /}, to: app, max_body: 010}
"""


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(BROKEN)
    with pytest.raises(PolicyError) as error:
        load(path, {})
    told = [(finding.line, finding.where) for finding in error.value.findings]
    assert told == [
        (2, "listener.drain"),
        (2, "listener.timeouts.head"),
        (6, "clusters.app"),
        (8, "policies.web.security_headers.headers"),
        (8, "policies.web.security_headers.csp"),
        (9, "policies.api.cors.expose.0"),
        (9, "policies.api.ip.deny.0"),
        (11, "routes.one.match.hosts.0"),
        (11, "routes.one.to"),
        (11, "routes.one.use.0"),
        (11, "routes.one.websockt"),
        (12, "routes.two.match"),
        (13, "routes.three.max_body"),
    ]
    text = str(error.value)
    assert 'Did you mean "script-src"?' in text
    assert 'Did you mean "web"?' in text
    assert "DENY or SAMEORIGIN" in text


@pytest.mark.parametrize("text", ["x: &a [*a]", "[" * 20_000, "a: " + "{b: " * 3_000 + "1" + "}" * 3_000])
def test_a_file_that_nests_without_end_is_a_finding(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match="nested too deeply"):
        load(path, {})


def test_secrets_come_from_files_and_stay_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("00123\n")
    text = GOOD.replace('"127.0.0.1:9901"', '"127.0.0.1:9901", token: "TOKEN"')
    path = tmp_path / "p.yaml"
    for reference, environment, said in [
        (f"${{file:{tmp_path}/token}}", {}, "00123"),
        ("${ADMIN_TOKEN}", {"ADMIN_TOKEN_FILE": f"{tmp_path}/token"}, "00123"),
        ("${ADMIN_TOKEN}", {"ADMIN_TOKEN": "12345"}, "12345"),
        ("${ADMIN_TOKEN}", {"ADMIN_TOKEN": "true"}, "true"),
        ("${ADMIN_TOKEN}", {"ADMIN_TOKEN": "1.50"}, "1.50"),
    ]:
        path.write_text(text.replace("TOKEN", reference))
        token = load(path, environment).admin.token
        assert token is not None
        assert token.get_secret_value() == said
        assert said not in repr(token)
    missing = findings(tmp_path, text.replace("TOKEN", "${file:/nowhere}"))
    assert missing == ["3:43: admin.token: /nowhere can't be read: No such file or directory"]


def test_lists_come_from_one_variable(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD + 'trusted_proxies: ["${TRUSTED_PROXIES:-}"]\n')
    assert load(path, {}).trusted_proxies == []
    found = load(path, {"TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"}).trusted_proxies
    assert [str(network) for network in found] == ["10.0.0.0/8", "fd00::/8"]


def test_sets_add_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    more = """\
  web: {security_headers: {preset: helmet, headers: {a: "1", b: "1"}}}
  more: {security_headers: {hsts: max-age=1, headers: {b: "2"}}}
  open: {cors: {origins: ["*"]}}
  login: {cors: {origins: ["https://a.example"], credentials: true}}
"""
    text = GOOD.replace("  web: {security_headers: {preset: helmet}}\n", more)
    path.write_text(text.replace("[web]", "[web, more]"))
    merged = load(path, {}).combined(["web", "more"]).security_headers
    assert merged is not None
    assert (merged.preset, merged.hsts, merged.headers) == ("helmet", "max-age=1", {"a": "1", "b": "2"})
    told = findings(tmp_path, text.replace("[web]", "[login, open]"))
    assert told == [
        "12:34: routes.all.use: these sets do not go together: credentials cannot go to every origin. "
        'Name the origins instead of "*"'
    ]


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


def test_a_route_is_shown_with_its_chain_as_it_judges(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    text = GOOD.replace(
        "  web: {security_headers: {preset: helmet}}\n",
        """\
  web:
    request: {methods: [GET], mode: shadow}
    limits: {few: {limit: 5/1s, key: [user]}}
    ip: {deny: [192.0.2.0/24]}
    bans: {}
    cors: {origins: ["*"]}
identity: {jwt: {secret: "a secret that is long enough for anybody", issuer: a}}
""",
    ).replace("{prefix: /}", '{prefix: /, headers: {x-version: "2"}}')
    path.write_text(text)
    asked = ["routes", "--policy", str(path), "/x"]
    assert CliRunner().invoke(main, asked).output.startswith("no route")
    result = CliRunner().invoke(main, [*asked, "--header", "X-Version: 2"])
    chain = "request_id → web.ip → web.bans → web.cors → identity.jwt → web.few → web.request (shadow)"
    assert result.output == f"all: any prefix / → app; {chain}\n"
    assert CliRunner().invoke(main, [*asked, "--header", ": 2"]).exit_code == 2


def test_words_for_refusals_are_known_ones(tmp_path: Path) -> None:
    counted = GOOD.replace("  web: {", "  web: {bans: {count: [rate-limited, no-rout, 404]}, ")
    assert findings(tmp_path, counted) == [
        '7:38: policies.web.bans.count.1: there is no reason "no-rout". Did you mean "no-route"?'
    ]
    falls = GOOD.replace("to: app}", 'to: app, fallback: {on: [braker-open, 503], answer: {body: "later"}}}')
    assert 'Did you mean "breaker-open"?' in findings(tmp_path, falls)[0]


def test_redis_may_be_named_by_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD + 'redis: {url: "${REDIS_URL:-redis://127.0.0.1:6379}"}\n')
    (tmp_path / "secret").write_text("p@ss/word\n")

    def url(**environment: str) -> str:
        redis = load(path, environment).redis
        assert redis is not None
        return redis.url.get_secret_value()

    assert url() == "redis://127.0.0.1:6379"
    assert url(REDIS_HOST="cache", REDIS_PORT="6380") == "redis://cache:6380"
    assert url(REDIS_HOST="fd00::1") == "redis://[fd00::1]:6379"
    given = {"REDIS_HOST": "cache", "REDIS_PASSWORD_FILE": str(tmp_path / "secret")}
    assert url(**given) == "redis://:p%40ss%2Fword@cache:6379"
    assert url(REDIS_URL="redis://other", REDIS_HOST="cache") == "redis://other"


def test_a_laptops_secret_is_none_in_production() -> None:
    load(CONFIG / "simplepro.yaml", {})
    load(CONFIG / "simplepro.yaml", {"NODE_ENV": "production", "JWT_SECRET": "a secret of this production's own, long"})
    for name in ("NODE_ENV", "ENVIRONMENT"):
        with pytest.raises(PolicyError, match="JWT_SECRET has to be set in production"):
            load(CONFIG / "simplepro.yaml", {name: "production"})


REPORT = {
    ("api", "global"): "1000/900", ("api", "tiers"): "10/1 50/10 200/60", ("api", "nginx-api"): "100/60",
    ("api", "nginx-writes"): "30/60", ("log-in", "log-in"): "5/60", ("users", "sensitive"): "20/900",
    ("roles", "sensitive"): "20/900", ("system", "sensitive"): "20/900", ("pricing-rules", "sensitive"): "20/900",
    ("customers", "create"): "10/60", ("customers", "list"): "30/60", ("customer", "get"): "50/60",
    ("customer", "change"): "15/60", ("customer", "remove"): "5/60", ("jobs", "create"): "10/60",
    ("jobs", "read"): "50/60", ("jobs", "change"): "20/60", ("jobs", "remove"): "5/60",
    ("job-status", "status"): "30/60",
    ("job-crew", "crew"): "15/60", ("job-crew-status", "crew-status"): "25/60", ("audit", "export"): "5/60",
}  # fmt: skip
"""By policy set or route and rule: amounts and seconds, of the report's table and the original's code."""


def test_simplepros_policy_carries_the_reports_numbers() -> None:
    policy = load(CONFIG / "simplepro.yaml", {})
    for (where, name), wanted in REPORT.items():
        owner = policy.policies[where] if where in policy.policies else policy.routes[where]
        rates = owner.limits[name].limit or []
        assert " ".join(f"{amount}/{window // 1000}" for amount, window in rates) == wanted, (where, name)
    production = load(CONFIG / "simplepro.yaml", {"GLOBAL_LIMIT": "100"}).policies["api"].limits["global"].limit
    assert production == [(100, 900_000)]
    cors = policy.policies["browser"].cors
    assert cors is not None
    assert {"if-match", "authorization"} <= set(cors.headers)
    assert {"etag", "retry-after", "ratelimit"} <= set(cors.expose)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("sanitize: {fieldz: []}", "fields"), ("sanitize: {fields: [{jsn: /a, do: [trim]}]}", "json"),
     ("validation: {jsn: {}}", "json"), ("validation: {json: {dept: 3}}", "depth")],
)  # fmt: skip
def test_a_hint_names_a_field_as_the_file_does(tmp_path: Path, wrong: str, meant: str) -> None:
    told = findings(tmp_path, GOOD.replace("security_headers: {preset: helmet}", wrong))
    assert any(f'Did you mean "{meant}"?' in one for one in told), told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('{limits: {b: {limit: 3/1m, cost: {POST: -5}}}}', "policies.a.limits.b.cost.POST"),
        ('{limits: {b: {limit: "4/1m, 6/60s"}}}', "has the same period twice"),
        ('{limits: {b: {limit: 4/1m, key: ip/999}}}', '"ip/999" is no key'),
        ('{limits: {b: {concurrent: 1, lease: 0s}}}', "policies.a.limits.b.lease"),
        ('{limits: {b: {limit: 4/1m, cost: {body: 0}}}}', "policies.a.limits.b.cost"),
        ('{limits: {b: {limit: 4/1m, strategy: moving-window, trial: 5000/1m}}}', "moving window keeps"),
        ('redis: {url: "redis://localhost:99999"}', "redis.url: the Redis URL's port is none"),
        ('{cors: {origins: ["null"], credentials: true}}', 'credentials cannot go to "null"'),
        ('{cors: {origins: ["https://*.com"], credentials: true}}', "credentials cannot go to all of"),
        ("trusted_proxies: !mine []", 'the tag "!mine" is not read'),
        ("access_log: {enabled: !!str true}", "is not read"),
    ],
)  # fmt: skip
def test_values_that_would_only_fail_at_run_time_are_findings(tmp_path: Path, more: str, told: str) -> None:
    text = f"{GOOD}{more}\n" if not more.startswith("{") else GOOD.replace("  web: {", f"  a: {more}\n  web: {{")
    found = findings(tmp_path, text)
    assert [told in one for one in found] == [True], found


def test_a_short_token_is_no_guard_beyond_loopback(tmp_path: Path) -> None:
    text = GOOD.replace('"127.0.0.1:9901"', '"0.0.0.0:9901", token: "short"')
    assert ["admin.token: anybody can guess" in one for one in findings(tmp_path, text)] == [True]
