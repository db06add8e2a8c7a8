"""`simplepro-proxy test DIR`: requests and messages with the verdicts that a policy has to give them.

A file names its policy, and cases; each case gets the policy anew, so that no case leans on another.
"""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from proxy.control.sandbox import Sandbox, Stub, Told, Verdicts, request_of
from proxy.policy.document import Document, Path_, dotted, read
from proxy.policy.findings import Finding, PolicyError
from proxy.policy.load import load


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _line(value: object) -> object:
    """`GET /path` for a request that is no more than that."""
    if isinstance(value, str):
        method, _, url = value.partition(" ")
        return {"method": method, "url": url.strip()}
    return value


class RequestModel(Strict):
    """`times` sends it that often, and the last answer is judged. One of `body` and `json`."""

    method: str = "GET"
    url: Annotated[str, Field(min_length=1)]
    headers: dict[str, str] = {}
    body: str = ""
    json_: Annotated[Any, Field(alias="json")] = None
    client: str = ""
    times: Annotated[int, Field(ge=1, le=10_000)] = 1

    def content(self) -> bytes:
        return orjson.dumps(self.json_) if self.json_ is not None else self.body.encode()

    def fields(self) -> dict[str, str]:
        typed = any(name.lower() == "content-type" for name in self.headers)
        more = {"Content-Type": "application/json"} if self.json_ is not None and not typed else {}
        return {**more, **self.headers}


class SocketModel(Strict):
    url: Annotated[str, Field(min_length=1)]
    headers: dict[str, str] = {}
    client: str = ""
    send: list[Any] = []

    def messages(self) -> list[str]:
        return [one if isinstance(one, str) else orjson.dumps(one).decode() for one in self.send]


class UpstreamModel(Strict):
    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, str] = {"content-type": "application/json"}
    body: str = "{}"


class ReachedModel(Strict):
    """What the application has to get; a header of null may not be there. `called` is whether it gets anything."""

    called: bool = True
    headers: dict[str, str | None] = {}
    body: str | None = None
    json_: Annotated[Any, Field(alias="json")] = None


class MessageModel(Strict):
    """`passed` says whether it came back; else `rule`, and `close` where the socket is closed for it."""

    passed: bool | None = None
    rule: str | None = None
    close: int | None = None
    text: str | None = None


class ExpectModel(Strict):
    """What is not named is not looked at; a `rule` of null means that nothing refuses."""

    status: int | None = None
    rule: str | None = ""
    reason: str | None = None
    route: str | None = None
    headers: dict[str, str | None] = {}
    body: str | None = None
    upstream: ReachedModel | None = None
    shadow: list[str] | None = None
    changes: list[str] | None = None
    messages: list[MessageModel] | None = None


class CaseModel(Strict):
    name: Annotated[str, Field(min_length=1)]
    request: Annotated[RequestModel | None, BeforeValidator(_line)] = None
    websocket: SocketModel | None = None
    upstream: UpstreamModel = UpstreamModel()
    expect: ExpectModel

    @model_validator(mode="after")
    def _one_kind(self) -> CaseModel:
        if (self.request is None) == (self.websocket is None):
            raise ValueError("a case has either a request or a websocket")
        return self


class FileModel(Strict):
    """`policy` is a path from this file's folder; `environment` what the policy's ${NAME} stand for."""

    policy: str
    environment: dict[str, str] = {}
    cases: Annotated[list[CaseModel], Field(min_length=1)]


@dataclass(slots=True)
class Judged:
    """One case; `differences` are lines `what: wanted → got`."""

    file: str
    line: int
    name: str
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)


def read_cases(path: Path) -> tuple[FileModel, Document]:
    """Raises PolicyError with every finding."""
    document = read(path, {})
    findings = list(document.findings)
    try:
        if not findings:
            return FileModel.model_validate(document.data), document
    except ValidationError as error:
        for one in error.errors():
            location: Path_ = ()
            for part in one["loc"]:
                if (*location, part) in document.values:
                    location = (*location, part)
            line, column = document.place(location, key=one["type"] == "extra_forbidden")
            findings.append(Finding(document.file, line, column, dotted(location), one["msg"].lower()))
    raise PolicyError(findings)


def files(folder: Path) -> list[Path]:
    """The files of cases at or below it, in order. Raises LookupError where there are none."""
    found = [folder] if folder.is_file() else sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])
    found = [path for path in found if folder.is_file() or "cases:" in path.read_text(errors="replace")]
    if not found:
        raise LookupError(f"no file below {folder} has cases: write a YAML file with policy: and cases:")
    return found


async def run(path: Path, environment: Mapping[str, str] | None = None) -> list[Judged]:
    """Raises PolicyError where the file or its policy can't be used."""
    model, document = read_cases(path)
    around = os.environ if environment is None else environment
    policy = load((path.parent / model.policy).resolve(), {**around, **model.environment})
    judged = []
    for index, case in enumerate(model.cases):
        line, _ = document.place(("cases", index))
        one = Judged(str(path), line, case.name)
        began = time.perf_counter()
        async with Sandbox(policy) as box:
            stub = case.upstream
            box.stub = Stub(stub.status, tuple(stub.headers.items()), stub.body.encode())
            one.differences = await _judge(box, case)
        one.seconds = time.perf_counter() - began
        judged.append(one)
    return judged


async def _judge(box: Sandbox, case: CaseModel) -> list[str]:
    told: list[Told] = []
    sent: list[str] = []
    try:
        if case.request is not None:
            given = case.request
            asked = request_of(given.method, given.url, given.fields(), given.content(), given.client)
            for _ in range(given.times):
                verdicts = await box.ask(asked)
        elif case.websocket is not None:
            socket = case.websocket
            sent = socket.messages()
            verdicts, told = await box.talk(request_of("GET", socket.url, socket.headers, b"", socket.client), sent)
    except (TimeoutError, ConnectionError, EOFError) as error:
        return [f"answer: one → {type(error).__name__}, the connection ended without one"]
    return [*_compare(case.expect, verdicts), *_compare_messages(case.expect, sent, told)]


def _compare(expect: ExpectModel, got: Verdicts) -> list[str]:
    found: list[str] = []

    def check(what: str, wanted: object, seen: object) -> None:
        if wanted != seen:
            found.append(f"{what}: {_shown(wanted)} → {_shown(seen)}")

    if expect.status is not None:
        check("status", expect.status, got.status)
    if expect.rule != "":
        check("rule", expect.rule, got.rule or None)
    for what in ("reason", "route", "shadow", "changes"):
        wanted = getattr(expect, what)
        if wanted is not None:
            check(what, wanted, getattr(got, what))
    fields = dict(got.headers)
    for name, value in expect.headers.items():
        check(f"headers.{name}", value, fields.get(name.lower()))
    if expect.body is not None and expect.body not in got.body.decode("utf-8", "replace"):
        check("body", expect.body, got.body.decode("utf-8", "replace")[:200])
    if expect.upstream is not None:
        found += _compare_upstream(expect.upstream, got)
    if found and got.rule:
        found.append(f"  (refused by {got.rule}: {got.detail})")
    return found


def _compare_upstream(wanted: ReachedModel, got: Verdicts) -> list[str]:
    reached = got.upstream
    if wanted.called != (reached is not None):
        return [f"upstream.called: {_shown(wanted.called)} → {_shown(reached is not None)}"]
    if reached is None:
        return []
    found = []
    fields = {name.lower(): value for name, value in reached.headers}
    for name, value in wanted.headers.items():
        if fields.get(name.lower()) != value:
            found.append(f"upstream.headers.{name}: {_shown(value)} → {_shown(fields.get(name.lower()))}")
    body = reached.body.decode("utf-8", "replace")
    if wanted.body is not None and wanted.body != body:
        found.append(f"upstream.body: {_shown(wanted.body)} → {_shown(body)}")
    if wanted.json_ is not None:
        try:
            seen: object = orjson.loads(reached.body)
        except orjson.JSONDecodeError:
            seen = body
        if seen != wanted.json_:
            found.append(f"upstream.json: {_shown(wanted.json_)} → {_shown(seen)}")
    return found


def _compare_messages(expect: ExpectModel, sent: list[str], told: list[Told]) -> list[str]:
    if expect.messages is None:
        return []
    found = []
    for index, wanted in enumerate(expect.messages):
        got = told[index] if index < len(told) else Told("", 1006)
        rule = got.rule or _rule_in(got.text)
        passed = bool(got.text) and not rule and not got.code
        what = f"messages.{index}"
        if wanted.passed is not None and wanted.passed != passed:
            seen = f"refused by {rule}" if rule else f"closed {got.code}" if got.code else "nothing came back"
            found.append(f"{what}: {'passed' if wanted.passed else 'refused'} → {'passed' if passed else seen}")
        if wanted.rule is not None and wanted.rule != rule:
            found.append(f"{what}.rule: {_shown(wanted.rule)} → {_shown(rule or None)}")
        if wanted.close is not None and wanted.close != got.code:
            found.append(f"{what}.close: {wanted.close} → {got.code or 'open'}")
        if wanted.text is not None and wanted.text != got.text:
            found.append(f"{what}.text: {_shown(wanted.text)} → {_shown(got.text)}")
    return found


def _rule_in(text: str) -> str:
    """Of the error that stands in a refused message's place."""
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ""
    return str(told.get("rule", "")) if isinstance(told, dict) and told.get("type") == "error" else ""


def _shown(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()


def junit(judged: list[Judged]) -> bytes:
    """As JUnit's XML, which CI systems read."""
    failed = sum(bool(one.differences) for one in judged)
    suite = ET.Element("testsuite", name="simplepro-proxy test", tests=str(len(judged)), failures=str(failed))
    for one in judged:
        case = ET.SubElement(suite, "testcase", name=one.name, classname=one.file, time=f"{one.seconds:.3f}")
        if one.differences:
            ET.SubElement(case, "failure", message=one.differences[0]).text = "\n".join(one.differences)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))
