"""A policy file to a checked `Policy`, or all that is wrong with it as file:line:column."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from proxy.policy.clusters import cluster_spec, server_tls
from proxy.policy.document import Document, Path_, dotted, read
from proxy.policy.findings import Finding, PolicyError
from proxy.policy.inspect import contract_in, profile_in
from proxy.policy.limits import address_of, tokens_of
from proxy.policy.model import Policy
from proxy.policy.models.clusters import ClusterModel
from proxy.policy.models.limits import LimitModel
from proxy.policy.operations import spread
from proxy.policy.switches import apply
from proxy.rejection import Rejection
from proxy.telemetry.traces import installed as otel_installed
from proxy.tls import client_context, server_context


def _kinds(kind: type[Rejection]) -> Iterator[type[Rejection]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


MISSING = " is missing"
SHORTEST_TOKEN = 16
REASONS = {kind.reason: kind for kind in sorted(_kinds(Rejection), key=lambda kind: kind.reason)}
"""Why requests are refused, in the words that policies use."""


def load(path: Path, environment: Mapping[str, str] | None = None, data: bytes | None = None) -> Policy:
    """Raises PolicyError with every finding; the environment of the process is used where none is given. `data` is what
    the file said, where it may have changed since."""
    environment = os.environ if environment is None else environment
    document = read(path, environment, data)
    findings = list(document.findings)
    policy: Policy | None = None
    try:
        policy = Policy.model_validate(document.data)
    except ValidationError as error:
        findings += [_finding(document, dict(one)) for one in error.errors()]
    findings += _names(document)
    if policy is not None:
        findings += _references(policy, document, whole=not findings)
    if findings:
        raise PolicyError(_one_a_place(findings))
    if policy is None:
        raise RuntimeError("no policy and no finding")
    try:
        return apply(policy, environment)
    except ValueError as error:
        raise PolicyError([Finding(str(path), 1, 1, "environment", str(error))]) from None


def _one_a_place(findings: list[Finding]) -> list[Finding]:
    """What YAML said of a value comes before what the model then made of it."""
    first: dict[tuple[int, int, str], Finding] = {}
    for one in findings:
        missing = one.what if one.what.endswith(MISSING) else ""
        first.setdefault((one.line, one.column, one.where + missing), one)
    return list(first.values())


def _finding(document: Document, error: dict[str, Any]) -> Finding:
    path = _known(document, tuple(error["loc"]))
    kind = error["type"]
    if kind == "extra_forbidden":
        line, column = document.place(path, key=True)
        return Finding(document.file, line, column, dotted(path), f"unknown key.{_did_you_mean(path)}")
    line, column = document.place(path)
    if kind == "missing":
        what = f'"{error["loc"][-1]}"{MISSING}'
    elif kind == "value_error":
        what = str(error["ctx"]["error"])
    else:
        what = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    return Finding(document.file, line, column, dotted(path), what)


def _known(document: Document, location: Path_) -> Path_:
    """The location without the parts that pydantic adds for unions and keys."""
    path: Path_ = ()
    for part in location:
        if (*path, part) in document.values:
            path = (*path, part)
    return path


def _did_you_mean(path: Path_) -> str:
    model = _model_at(path[:-1])
    names = list(_fields(model)) if model else []
    near = difflib.get_close_matches(str(path[-1]), names, n=1)
    return f' Did you mean "{near[0]}"?' if near else f" Known are: {', '.join(names)}" if names else ""


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """By the names that a file has for them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(path: Path_) -> type[BaseModel] | None:
    kind: Any = Policy
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = _fields(kind).get(str(part))
            kind = field.annotation if field else None
        else:
            arguments = getattr(kind, "__args__", ())
            kind = arguments[-1] if arguments else None
        while kind is not None and not isinstance(kind, type) and type(None) in getattr(kind, "__args__", ()):
            kind = next(a for a in kind.__args__ if a is not type(None))
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _names(document: Document) -> list[Finding]:
    """Names that lead nowhere; told whatever else is wrong with the file."""
    findings: list[Finding] = []
    data = document.data if isinstance(document.data, dict) else {}
    clusters, policies, routes = (_mapping(data.get(key)) for key in ("clusters", "policies", "routes"))

    def check(path: Path_, name: object, what: str, known: Mapping[str, object]) -> None:
        if isinstance(name, str) and name not in known:
            line, column = document.place(path)
            near = _nearest(name, known)
            findings.append(Finding(document.file, line, column, dotted(path), f'there is no {what} "{name}".{near}'))

    def words(path: Path_, given: object) -> None:
        for index, word in enumerate(_list(given)):
            if not str(word).isdigit():
                check((*path, index), word, "reason", REASONS)

    for name, route in routes.items():
        given = _mapping(route)
        check(("routes", name, "to"), given.get("to"), "cluster", clusters)
        check(("routes", name, "fallback", "to"), _mapping(given.get("fallback")).get("to"), "cluster", clusters)
        for index, used in enumerate(_list(given.get("use"))):
            check(("routes", name, "use", index), used, "policy", policies)
        words(("routes", name, "fallback", "on"), _mapping(given.get("fallback")).get("on"))
    for index, used in enumerate(_list(_mapping(data.get("defaults")).get("use"))):
        check(("defaults", "use", index), used, "policy", policies)
    for name, chosen in policies.items():
        words(("policies", name, "bans", "count"), _mapping(_mapping(chosen).get("bans")).get("count"))
    return findings


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _references(policy: Policy, document: Document, *, whole: bool) -> list[Finding]:
    """What only shows across sections; `whole` where every name leads somewhere."""
    findings: list[Finding] = []

    def find(path: Path_, what: str) -> None:
        line, column = document.place(path)
        findings.append(Finding(document.file, line, column, dotted(path), what))

    if whole:
        chains: list[tuple[Path_, list[str]]] = [(("defaults", "use"), policy.defaults.use)]
        chains += [(("routes", name, "use"), route.use) for name, route in policy.routes.items() if route.use]
        for path, sets in chains:
            try:
                policy.combined(sets)
            except ValueError as error:
                find(path, f"these sets do not go together: {error}")
    identity = policy.identity
    if identity is not None and identity.jwt is not None:
        try:
            tokens_of(identity.jwt)
        except ValueError as error:
            find(("identity", "jwt", "keys_file"), str(error))
    for name, one in policy.policies.items():
        if one.openapi is not None:
            try:
                contract_in(one.openapi)
            except ValueError as error:
                find(("policies", name, "openapi", "file"), str(error))
        if one.inspect is not None:
            try:
                profile_in(one.inspect)
            except ValueError as error:
                find(("policies", name, "inspect", "profile"), str(error))
    for name, route in policy.routes.items():
        try:
            list(spread(name, route))
        except ValueError as error:
            find(("routes", name, "match", "openapi"), str(error))
    for path, check in _certificates(policy):
        try:
            check()
        except ValueError as error:
            find(path, str(error))
    if policy.traces is not None and not otel_installed():
        find(("traces",), "spans need OpenTelemetry. Install simplepro-proxy[otel], or leave traces out")
    if policy.redis is not None:
        try:
            replace(address_of(policy.redis), tls=True).context()
        except OSError as error:
            find(("redis", "ca_file"), f"the certificates can't be used: {error.strerror or error}. Name PEM files")
    if identity is None or identity.jwt is None:
        owners: list[tuple[Path_, dict[str, LimitModel]]] = [
            (("policies", name, "limits"), one.limits) for name, one in policy.policies.items()
        ]
        owners += [(("routes", name, "limits"), route.limits) for name, route in policy.routes.items()]
        for path, limits in owners:
            for name, limit in limits.items():
                keys = {key.partition(":")[0] for key in limit.key}
                if identity is None and (limit.tiers or not keys.isdisjoint({"user", "claim", "api-key"})):
                    find((*path, name), "a key of user, claim or api-key, and tiers, need identity: nobody is known")
    told = any(one.where == "admin.token" for one in document.findings)
    if policy.admin.token is None and not told and not _loopback(policy.admin.address[0]):
        find(("admin", "address"), "an admin address that is not loopback needs admin.token")
    short = policy.admin.token is not None and len(policy.admin.token.get_secret_value()) < SHORTEST_TOKEN
    if short and not _loopback(policy.admin.address[0]):
        what = f"anybody can guess a token of less than {SHORTEST_TOKEN} characters. Make one: openssl rand -hex 16"
        find(("admin", "token"), what)
    return findings


def _certificates(policy: Policy) -> Iterator[tuple[Path_, Callable[[], object]]]:
    """Where certificates are named, and what tells whether they can be used."""
    terms = server_tls(policy.listener.tls)
    if terms is not None:
        yield ("listener", "tls"), lambda: server_context(terms)
    for name, cluster in policy.clusters.items():
        if cluster.tls is not None:
            yield ("clusters", name, "tls"), lambda cluster=cluster, name=name: _upstream(name, cluster)  # type: ignore[misc]


def _upstream(name: str, cluster: ClusterModel) -> None:
    spec = cluster_spec(name, cluster)
    if spec.tls is not None:
        client_context(spec.tls)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{near[0]}"?' if near else f" Known are: {', '.join(known) or 'none'}"


def _loopback(host: str) -> bool:
    if host.startswith("unix:"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
