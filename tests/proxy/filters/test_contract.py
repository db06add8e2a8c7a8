"""A contract over the wire: operations, parameters, bodies; and a schema for all bodies of a route."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from proxy.policy.findings import PolicyError
from tests.conftest import Start
from tests.wire import ScriptedUpstream

DOCUMENT = """
openapi: 3.1.0
paths:
  /moves:
    get:
      parameters: [{name: page, in: query, schema: {type: integer}}]
    post:
      requestBody:
        required: true
        content: {application/json: {schema: {type: object, required: [name], properties: {name: {type: string}}}}}
  /find:
    post:
      requestBody:
        content: {application/x-www-form-urlencoded: {schema: {type: object, properties: {page: {type: integer}}}}}
  /photos:
    post:
      requestBody:
        content:
          multipart/form-data:
            schema:
              type: object
              required: [photo]
              properties:
                photo: {type: string, format: binary, maxLength: 8}
                page: {type: integer}
                about: {type: object, required: [title]}
"""


def multipart(**fields: str) -> bytes:
    found = ""
    for name, value in fields.items():
        file = '; filename="a.bin"' if name == "photo" else ""
        found += f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{value}\r\n'
    return request("POST /api/photos", f"{found}--b--\r\n".encode("latin-1"), "multipart/form-data; boundary=b")


def request(line: str, body: bytes = b"", kind: str = "application/json", more: str = "") -> bytes:
    head = f"{line} HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n{more}"
    if body:
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "api.yaml").write_text(DOCUMENT)
    file = f"file: {tmp_path}/api.yaml, base: /api"
    return f"{{openapi: {{{file}, unknown_parameters: reject, unknown_operations: refuse}}}}"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET /api/moves?page=1"), 200),
        (request("GET /api/moves?page=one"), 400),
        (request("GET /api/moves?page=1&debug=1"), 400),
        (request("GET /api/other"), 404),
        (request("DELETE /api/moves"), 405),
        (request("POST /api/moves", b'{"name": "x"}'), 200),
        (request("POST /api/moves", b'{"name": 1}'), 400),
        (request("POST /api/moves", b'{"name": "' + b"x" * 40_000 + b'"}'), 200),
        (request("POST /api/moves", b'{"name": ["' + b"x" * 40_000 + b'"]}'), 400),
        (request("POST /api/moves", b'{"name": '), 400),
        (request("POST /api/moves", b"a=b", "application/x-www-form-urlencoded"), 415),
        (request("POST /api/moves", b"x", more="Content-Encoding: gzip\r\n"), 415),
        (request("POST /api/moves"), 400),
        (request("POST /api/find", b"page=2&q=x", "application/x-www-form-urlencoded; charset=utf-8"), 200),
        (request("POST /api/find", b"page=two", "application/x-www-form-urlencoded"), 400),
        (multipart(photo="\xff" * 8, page="1", about='{"title": "x"}'), 200),
        (multipart(photo="\xff" * 9), 400),
        (multipart(page="1"), 400),
        (multipart(photo="x", page="one"), 400),
        (multipart(photo="x", about='{"name": "x"}'), 400),
        (request("POST /api/photos", b"--b\r\n", "multipart/form-data; boundary=b"), 400),
    ],
    ids=range(21),
)
async def test_contract(serve: Start, upstream: ScriptedUpstream, policy: str, sent: bytes, status: int) -> None:
    served = await serve(upstream.port, policies=policy)
    got, fields, body = await served.ask(sent)
    assert got == status, body
    if status != 200:
        assert orjson.loads(body)["rule"] == "all.openapi"
        assert b"xxx" not in body
    if status == 405:
        assert fields["allow"] == "GET, POST"
    shadow = await serve(upstream.port, policies=policy.replace("{openapi: {", "{openapi: {mode: shadow, "))
    assert (await shadow.ask(sent))[0] == 200
    seen = dict(shadow.proxy.listener.stats.rejections)
    assert [key[0] for key in seen] == ["all.openapi"] * (status != 200)


async def test_unknown_parameters_can_be_told_alone(serve: Start, upstream: ScriptedUpstream, policy: str) -> None:
    served = await serve(upstream.port, policies=policy.replace("reject", "shadow"))
    assert (await served.ask(request("GET /api/moves?debug=1")))[0] == 200
    assert dict(served.proxy.listener.stats.rejections) == {("all.openapi", "contract-violation", "shadow"): 1}


async def test_a_document_that_cannot_be_used_is_a_finding(serve: Start, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"policies\.all\.openapi\.file: .*can't be read"):
        await serve(1, policies=f"{{openapi: {{file: {tmp_path}/none.yaml}}}}")


async def test_a_schema_by_route(serve: Start, upstream: ScriptedUpstream) -> None:
    schema = "{type: object, properties: {age: {type: integer, maximum: 130}}}"
    served = await serve(upstream.port, policies=f"{{validation: {{json: {{schema: {schema}}}}}}}")
    assert (await served.ask(request("POST /", b'{"age": 30}')))[0] == 200
    status, _, body = await served.ask(request("POST /", b'{"age": 300}'))
    problem = orjson.loads(body)
    assert (status, problem["rule"]) == (400, "all.validation")
    assert problem["detail"] == "the document does not satisfy maximum at /age (schema)"
    with pytest.raises(PolicyError, match="is no JSON Schema"):
        await serve(1, policies="{validation: {json: {schema: {type: objekt}}}}")
