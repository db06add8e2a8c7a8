"""Limits and identity of a policy, made into what the filters run with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from proxy.addresses import Networks, holder
from proxy.exchange import Exchange
from proxy.filter import Mode, OnVerdict, Rule
from proxy.filters.identity import ApiKeys, KeyRing, Tokens
from proxy.filters.throttle import KeyPart, Limit
from proxy.headers import Headers
from proxy.policy.models.identity import ApiKeysModel, JwtModel, RedisModel
from proxy.policy.models.limits import CostModel, ExemptModel, LimitMatchModel, LimitModel
from proxy.throttle.address import StoreAddress
from proxy.throttle.charge import Quota, Strategy

STRATEGIES = {
    "fixed-window": Strategy.FIXED,
    "moving-window": Strategy.MOVING,
    "sliding-window-counter": Strategy.SLIDING,
    "token-bucket": Strategy.BUCKET,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
COUNTS: dict[str, Callable[[int], bool]] = {
    "failures": lambda status: 400 <= status < 500,
    "errors": lambda status: status >= 500,
    "misses": lambda status: status == 404,
}
LETTERS = {1_000: "1s", 60_000: "1m", 3_600_000: "1h", 86_400_000: "1d"}


def limit_of(name: str, model: LimitModel, on_verdict: OnVerdict, *, plain_labels: bool = False) -> Limit:
    """`name` is the rule's whole name, and what its counters are called in the store."""
    shadows = model.mode == "shadow"

    def quotas(rates: list[tuple[int, int]], *, shadow: bool, suffix: str = "") -> tuple[Quota, ...]:
        return tuple(
            Quota(
                name + suffix + (f"-{LETTERS.get(window, f'{window // 1000}s')}" if len(rates) > 1 else ""),
                STRATEGIES[model.strategy],
                amount,
                window,
                reserve=model.count != "all" or isinstance(model.cost, CostModel),
                lease=int(model.lease * 1000),
                shadow=shadow,
                on_store_failure=model.on_store_failure,
                counter=name + suffix,
            )
            for amount, window in rates
        )

    trials = quotas(model.trial or [], shadow=True, suffix=".trial")
    if model.concurrent is not None:
        made: tuple[Quota, ...] = (
            Quota(
                name,
                Strategy.CONCURRENT,
                model.concurrent,
                0,
                lease=int(model.lease * 1000),
                shadow=shadows,
                on_store_failure=model.on_store_failure,
            ),
        )
    else:
        made = quotas(model.limit or [], shadow=shadows) + trials
    tiers = model.tiers
    return Limit(
        rule=Rule(name, Mode(model.mode), on_verdict),
        trial=Rule(name if shadows else f"{name}.trial", Mode.SHADOW, on_verdict),
        quotas=made,
        key=tuple(_part(one) for one in model.key),
        scope=name.encode(),
        costs=_costs(model),
        exempts=_exempts(model.exempt),
        matches=_matches(model.match),
        tier_claim=tiers.claim if tiers else "",
        tiers={value: quotas(rates, shadow=shadows) + trials for value, rates in tiers.limits.items()} if tiers else {},
        counts=COUNTS.get(model.count),
        uncached=model.count == "uncached",
        body_unit=(model.cost.body or 0) if isinstance(model.cost, CostModel) else 0,
        cost_header=model.cost.header.lower().encode() if isinstance(model.cost, CostModel) else b"",
        plain_labels=plain_labels,
    )


def _exempts(model: ExemptModel) -> Callable[[Exchange], bool] | None:
    if model == ExemptModel():
        return None
    networks = Networks(model.ip)
    users = frozenset(model.users)
    claims = tuple((name, frozenset(values)) for name, values in model.claims.items())

    def exempts(exchange: Exchange) -> bool:
        if exchange.client in networks or (users and exchange.user in users):
            return True
        known = exchange.claims
        return known is not None and any(str(known.get(name)) in values for name, values in claims)

    return exempts


def _matches(model: LimitMatchModel) -> Callable[[Exchange], bool] | None:
    if model == LimitMatchModel():
        return None
    prefixes = tuple(prefix.encode() for prefix in model.prefixes)
    headers = tuple((name.lower().encode(), None if v is None else v.encode()) for name, v in model.headers.items())

    def matches(exchange: Exchange) -> bool:
        if prefixes and not exchange.path.startswith(prefixes):
            return False
        found = exchange.headers
        return all(name in found if value is None else value in found.all(name) for name, value in headers)

    return matches


def _costs(model: LimitModel) -> dict[bytes, int]:
    """By method; the empty method is any other. A method that the rule does not match costs nothing."""
    given: dict[str, int] = {"default": 1}
    if isinstance(model.cost, int):
        given["default"] = model.cost
    elif isinstance(model.cost, CostModel):
        given["default"] = model.cost.reserve
    else:
        given.update({str(method): cost for method, cost in model.cost.items()})
    costs = {method.encode(): given.get(method, given["default"]) for method in METHODS}
    costs[b""] = given["default"]
    if model.methods:
        matched = {method.encode() for method in model.methods}
        costs = {method: cost if method in matched else 0 for method, cost in costs.items()}
    return costs


def _part(key: str) -> KeyPart:
    kind, _, name = key.partition(":")
    if key.startswith("ip"):
        return _address(int(key[3:] or 64))
    if kind == "user":
        return lambda exchange: exchange.user.encode() or None
    if kind == "api-key":
        return lambda exchange: exchange.api_key.encode() or None
    if kind == "certificate":
        return lambda exchange: exchange.certificate.encode() or None
    if kind == "claim":
        return lambda exchange: _text((exchange.claims or {}).get(name))
    if kind == "route":
        return lambda exchange: exchange.route.label if exchange.route else b""
    if kind == "method":
        return lambda exchange: exchange.method
    if kind == "const":
        constant = name.encode()
        return lambda exchange: constant
    if kind == "param":
        return lambda exchange: exchange.route.parameters(exchange.path).get(name) if exchange.route else None
    wanted = name.lower().encode()
    if kind == "cookie":
        return lambda exchange: _cookie(exchange.headers, name.encode())
    return lambda exchange: _only(exchange.headers, wanted)


def _only(headers: Headers, name: bytes) -> bytes | None:
    """A field that stands there twice is none: which of them an application reads is the client's to play with."""
    if len(headers.index) != len(headers.pairs) and len(headers.all(name)) > 1:
        return None
    return headers.index.get(name)


def _text(claim: object) -> bytes | None:
    return str(claim).encode() if isinstance(claim, str | int) and claim != "" else None


def _address(prefix: int) -> KeyPart:
    return lambda exchange: holder(exchange.client, prefix).encode()


def _cookie(headers: Headers, name: bytes) -> bytes | None:
    for line in headers.all(b"cookie"):
        for pair in line.split(b";"):
            key, _, value = pair.strip().partition(b"=")
            if key == name:
                return value
    return None


def address_of(model: RedisModel) -> StoreAddress:
    url = model.url.get_secret_value()
    return StoreAddress.parse(url, model.ca_file or "", model.cert_file or "", model.key_file or "")


def tokens_of(model: JwtModel) -> Tokens:
    """Raises ValueError where the keys can't be read or used; those of a URL come later."""
    keys: KeySet | None = None
    if model.secret is not None:
        keys = KeySet([OctKey.import_key(model.secret.get_secret_value())])
    elif model.keys_file is not None:
        keys = _keys(Path(model.keys_file))
    return Tokens(KeyRing(keys), tuple(model.algorithms), model.issuer, model.audience, model.skew, model.user_claim)


def api_keys_of(model: ApiKeysModel) -> ApiKeys:
    known = {bytes.fromhex(one.sha256): (name, one.claims) for name, one in model.keys.items()}
    return ApiKeys(model.header.lower().encode(), known)


def _keys(path: Path) -> KeySet:
    """A JWKS document, or one public key as PEM."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{path} can't be read: {reason}") from None
    if text.lstrip().startswith("{"):
        try:
            keys = KeySet.import_key_set(json.loads(text))
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no JWKS document: {type(error).__name__}") from None
        if any(isinstance(key, OctKey) for key in keys.keys):
            raise ValueError(f"{path} holds a symmetric key; those go into secret")
        return keys
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            return KeySet([kind.import_key(text)])
        except (JoseError, ValueError, TypeError):
            continue
    raise ValueError(f"{path} is neither a JWKS document nor a public key in PEM")
