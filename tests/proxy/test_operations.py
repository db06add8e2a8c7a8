"""Routes made of an OpenAPI document: names, order, what goes on to the routes below, and what can't be a route."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.policy.findings import PolicyError
from proxy.policy.load import load
from proxy.policy.operations import spread
from tests.conftest import Start
from tests.wire import ScriptedUpstream

DOCUMENT = """
openapi: 3.0.3
servers: [{url: "https://api.example.com/v1"}]
paths:
  /customers/{customer-id}:
    parameters: [{name: customer-id, in: path, required: true, schema: {type: integer}}]
    get: {operationId: getCustomer}
    delete: {operationId: get_customer}
  /customers/top:
    get: {}
    options: {}
  /files:
    $ref: "#/components/pathItems/files"
components: {pathItems: {files: {post: {operationId: upload}}}}
"""
POLICY = """
version: 1
listener: {{address: "127.0.0.1:0"}}
admin: {{address: "127.0.0.1:0"}}
clusters: {{app: {{endpoints: ["127.0.0.1:1"]}}}}
routes:
  api: {{match: {{{match}}}, to: app}}
  rest: {{match: {{prefix: /}}, to: app}}
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "api.yaml"
    path.write_text(DOCUMENT)
    return path


def written(tmp_path: Path, match: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(match=match))
    return path


def test_one_route_for_each_operation(tmp_path: Path, document: Path) -> None:
    policy = load(written(tmp_path, f"openapi: {document}, hosts: [a.test]"), {})
    made = [(name, match.path, match.methods, match.hosts) for name, match in spread("api", policy.routes["api"])]
    assert made == [
        ("api.get-customers-top", "/v1/customers/top", ["GET"], ["a.test"]),
        ("api.options-customers-top", "/v1/customers/top", ["OPTIONS"], ["a.test"]),
        ("api.upload", "/v1/files", ["POST"], ["a.test"]),
        ("api.get-customer", "/v1/customers/{customer_id}", ["GET"], ["a.test"]),
        ("api.get-customer-2", "/v1/customers/{customer_id}", ["DELETE"], ["a.test"]),
    ]
    assert [name for name, _ in spread("rest", policy.routes["rest"])] == ["rest"]


def test_methods_narrow_and_base_replaces_the_servers_path(tmp_path: Path, document: Path) -> None:
    policy = load(written(tmp_path, f"openapi: {document}, base: /api, methods: [POST]"), {})
    assert [match.path for _, match in spread("api", policy.routes["api"])] == ["/api/files"]


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ("openapi: none.yaml", "routes.api.match.openapi: none.yaml can't be read"),
        ("openapi: {file}, prefix: /", "routes.api.match: a route matches a path, a prefix or an openapi document"),
        ("prefix: /, base: /api", 'routes.api.match: "base" is what stands before'),
        ("openapi: {file}, base: api", 'routes.api.match: "base" is what stands before'),
        ("openapi: {file}, methods: [PATCH]", "has no operation that this route could match"),
    ],
    ids=["unreadable", "two", "base-alone", "base-relative", "none"],
)
def test_what_cannot_be_a_route_is_a_finding(tmp_path: Path, document: Path, match: str, told: str) -> None:
    with pytest.raises(PolicyError) as error:
        load(written(tmp_path, match.format(file=document)), {})
    assert [told in str(one) for one in error.value.findings] == [True]


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ("{'/files/{name}.json': {get: {}}}", "no route can be made of /files/{name}.json"),
        ("{files: {get: {}}}", "paths.files: a path begins with a slash"),
        ("[/a]", "paths: an object is expected"),
        ("{/a: [1]}", "paths./a: an object is expected"),
        ("{/a: {get: 7}}", "paths./a.get: an object is expected"),
        ("{/a: {$ref: '#/components/none'}}", "leads nowhere"),
    ],
    ids=["part-of-a-segment", "no-slash", "a-list", "no-object", "no-operation", "no-target"],
)
def test_a_document_that_cannot_be_routed_is_a_finding(tmp_path: Path, paths: str, told: str) -> None:
    (tmp_path / "api.yaml").write_text(f"openapi: 3.1.0\npaths: {paths}\n")
    with pytest.raises(PolicyError) as error:
        load(written(tmp_path, f"openapi: {tmp_path}/api.yaml"), {})
    assert [(one.where, told in one.what) for one in error.value.findings] == [("routes.api.match.openapi", True)]


async def test_requests_meet_their_operation(serve: Start, upstream: ScriptedUpstream, document: Path) -> None:
    """A limit of the route holds over all its operations; what the document does not have goes on."""
    served = await serve(
        upstream.port,
        match="{prefix: /}",
        routes_before=f"  api: {{match: {{openapi: {document}}}, to: app, "
        "limits: {all: {limit: 2/1h, key: ip}}}\n",
    )
    names = {}
    for line in ("GET /v1/customers/7", "HEAD /v1/customers/top", "POST /v1/other", "DELETE /v1/customers/7"):
        sent = f"{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        wire = await served.connect()
        wire.send(sent.encode())
        names[line] = (await wire.answer(head_only=line.startswith("HEAD")))[0]
    assert names == {
        "GET /v1/customers/7": 200, "HEAD /v1/customers/top": 200, "POST /v1/other": 200, "DELETE /v1/customers/7": 429,
    }  # fmt: skip
    counted = {route.name: sum(route.stats.statuses.values()) for route in served.proxy.listener.routes.routes}
    assert {name: count for name, count in counted.items() if count} == {
        "api.get-customer": 1, "api.get-customers-top": 1, "api.get-customer-2": 1, "everything": 1,
    }  # fmt: skip


def test_names_stand_once_and_head_is_met_before_get(tmp_path: Path) -> None:
    operations = (
        "{get: {operationId: get a}, head: {operationId: h}, post: {operationId: get-a}, put: {operationId: get-a-2}}"
    )
    (tmp_path / "api.yaml").write_text(f"openapi: 3.1.0\npaths: {{/a: {operations}}}\n")
    policy = load(written(tmp_path, f"openapi: {tmp_path}/api.yaml"), {})
    made = [(name, match.methods) for name, match in spread("api", policy.routes["api"])]
    assert made[0] == ("api.h", ["HEAD"])
    assert len({name for name, _ in made}) == 4


def test_variables_of_a_server_are_their_defaults(tmp_path: Path) -> None:
    text = (
        "openapi: 3.1.0\nservers: [{url: 'https://h/{v}/x', variables: {v: {default: v2}}}]\npaths: {/a: {get: {}}}\n"
    )
    (tmp_path / "api.yaml").write_text(text)
    policy = load(written(tmp_path, f"openapi: {tmp_path}/api.yaml"), {})
    assert [match.path for _, match in spread("api", policy.routes["api"])] == ["/v2/x/a"]
    (tmp_path / "other.yaml").write_text(text.replace(", variables: {v: {default: v2}}", ""))
    with pytest.raises(PolicyError, match="the variable v has no default"):
        load(written(tmp_path, f"openapi: {tmp_path}/other.yaml"), {})
