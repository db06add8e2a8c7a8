"""Who asks: API keys, keys from a URL that turn, revoked tokens; over HTTP and over WebSocket handshakes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from proxy.filters.identity import Identity
from tests.conftest import Served, Start
from tests.proxy.filters.conftest import Application, Ask
from tests.wire import ScriptedUpstream

SECRET = "a secret of at least thirty-two characters"
DIGEST = hashlib.sha256(b"the key of a partner").hexdigest()
KEYS = f"api_keys: {{required: true, keys: {{partner: {{sha256: {DIGEST}, claims: {{plan: premium}}}}}}}}"
JWT = f'jwt: {{secret: "{SECRET}", required: true}}'


def bearer(**claims: object) -> str:
    claims = {"sub": "ada", "exp": int(time.time()) + 60, "iat": int(time.time()) - 5, **claims}
    return "Authorization: Bearer " + jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


async def test_an_api_key_is_known_by_its_digest(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    limits = "{by-key: {limit: 1/1h, key: api-key, tiers: {claim: plan, limits: {premium: 2/1h}}}}"
    served = await serve(upstream.port, more=f"identity: {{{KEYS}}}", limits=limits)
    assert (await ask(served)).status == 401
    refused = await ask(served, "X-API-Key: another key")
    assert orjson.loads(refused.body)["rule"] == "identity.api_keys"
    seen = [(await ask(served, "X-API-Key: the key of a partner")).status for _ in range(3)]
    assert seen == [200, 200, 429]
    assert "the key of a partner" not in served.proxy.policy.model_dump_json()


async def test_either_credential_is_enough(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, more=f"identity: {{{JWT}, {KEYS}}}")
    assert (await ask(served, bearer())).status == 200
    assert (await ask(served, "X-API-Key: the key of a partner")).status == 200
    assert (await ask(served, "Authorization: Bearer none")).status == 401


@pytest.mark.parametrize("name", ["jti:t1", "session:s1", "user:ada"])
async def test_a_revoked_token_is_refused_at_once(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, name: str
) -> None:
    served = await serve(upstream.port, more=f"identity: {{{JWT}}}")
    token = bearer(jti="t1", sessionId="s1")
    assert (await ask(served, token)).status == 200
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"http://127.0.0.1:{served.proxy.admin.port}/revocations?name={name}&seconds=60")
        assert answer.status == 200
        answer = await session.post(f"http://127.0.0.1:{served.proxy.admin.port}/revocations?name=ada")
        assert answer.status == 400
    refused = await ask(served, token)
    assert (refused.status, refused.fields["www-authenticate"]) == (401, "Bearer")
    assert "was ended" in orjson.loads(refused.body)["detail"]
    younger = bearer(jti="t2", sessionId="s2", iat=int(time.time()) + 5)
    assert (await ask(served, younger)).status == 200
    ahead = bearer(jti="t3", sessionId="s3", iat=int(time.time()) + 600)
    assert (await ask(served, ahead)).status == 200, "who issued it has a clock ahead of ours, and nbf says nothing"
    assert (await ask(served, bearer(jti="t4", iat="now"))).status == 401


class Issuer:
    """Serves a JWKS document that may change; counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048, {"kid": "first"})]
        self.asked = 0

    async def document(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response(KeySet(list(self.keys)).as_dict(private=False))

    def token(self, number: int, algorithm: str = "RS256") -> str:
        key = self.keys[number]
        claims = {"sub": "ada", "exp": int(time.time()) + 60}
        header = {"alg": algorithm, "kid": key.kid}
        return "Authorization: Bearer " + jwt.encode(header, claims, key, algorithms=[algorithm])


@pytest.fixture
async def issuer() -> AsyncIterator[tuple[Issuer, str]]:
    made = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", made.document)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    await runner.cleanup()


async def start(serve: Start, upstream: ScriptedUpstream, url: str) -> Served:
    more = f"identity: {{jwt: {{keys_url: {url}, algorithms: [RS256, ES256], required: true}}}}"
    return await serve(upstream.port, more=more)


async def test_keys_from_a_url_turn(
    serve: Start,
    upstream: ScriptedUpstream,
    application: Application,
    ask: Ask,
    issuer: tuple[Issuer, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.fleet.jwks.HURRY_SECONDS", 0.0)
    who, url = issuer
    served = await start(serve, upstream, url)
    old = who.token(0)
    assert (await ask(served, old)).status == 200
    assert (await ask(served, old)).status == 200
    assert who.asked == 1
    who.keys = [ECKey.generate_key("P-256", {"kid": "second"})]
    turned = asyncio.Event()
    served.proxy.compiled.key_rings[0][2].on_change.append(turned.set)
    new = who.token(0, "ES256")
    assert (await ask(served, new)).status == 401
    async with asyncio.timeout(5):
        await turned.wait()
    assert (await ask(served, new)).status == 200
    assert (await ask(served, old)).status == 401


@pytest.mark.parametrize("more", [{"crit": 1}, {"crit": ["b64"], "b64": False}, {"kid": 7}, {"alg": 1}, {"zip": []}])
async def test_a_token_whose_header_makes_no_sense_is_refused_like_any_other(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, issuer: tuple[Issuer, str],
    more: dict[str, object],
) -> None:  # fmt: skip
    who, url = issuer
    served = await start(serve, upstream, url)
    _, _, rest = who.token(0).rpartition(" ")[2].partition(".")
    header = orjson.dumps({"alg": "RS256", "kid": "first", **more})
    token = base64.urlsafe_b64encode(header).rstrip(b"=").decode() + "." + rest
    assert (await ask(served, f"Authorization: Bearer {token}")).status == 401
    assert (await ask(served, who.token(0))).status == 200


async def test_unknown_keys_do_not_make_it_ask_again_and_again(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, issuer: tuple[Issuer, str]
) -> None:
    who, url = issuer
    served = await start(serve, upstream, url)
    who.keys.append(RSAKey.generate_key(2048, {"kid": "of another"}))
    for _ in range(5):
        assert (await ask(served, who.token(1))).status == 401
    assert who.asked == 1


async def test_an_issuer_that_is_away_is_no_reason_not_to_start(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await start(serve, upstream, "http://127.0.0.1:1/jwks")
    assert (await ask(served, bearer())).status == 401
    assert served.proxy.key_sources[0].failures == 1


def signed_with(secret: bytes, claims: dict[str, object]) -> str:
    """HS256 by hand: libraries refuse to use a public key so."""
    parts = [base64.urlsafe_b64encode(orjson.dumps(one)).rstrip(b"=") for one in ({"alg": "HS256"}, claims)]
    mac = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("form", ["jwks", "pem"])
@pytest.mark.parametrize(("algorithm", "key"), [
    ("EdDSA", OKPKey.generate_key("Ed25519")),
    ("ES256", ECKey.generate_key("P-256")),
    ("RS256", RSAKey.generate_key(2048)),
])  # fmt: skip
async def test_public_keys_of_a_file(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, tmp_path: Path,
    form: str, algorithm: str, key: OKPKey | ECKey | RSAKey,
) -> None:  # fmt: skip
    path = tmp_path / "keys"
    path.write_bytes(key.as_pem(private=False) if form == "pem" else orjson.dumps(KeySet([key]).as_dict(private=False)))
    more = f'identity: {{jwt: {{keys_file: "{path}", algorithms: [{algorithm}], required: true}}}}'
    served = await serve(upstream.port, more=more)
    claims = {"sub": "ada", "exp": int(time.time()) + 60}
    good = jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])
    assert (await ask(served, f"Authorization: Bearer {good}")).status == 200
    # The classic confusion: the public key as an HMAC secret, the token naming the algorithm.
    forged = signed_with(key.as_pem(private=False), claims)
    for bad in (forged, good[:-6] + "AAAAAA", jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))):
        assert (await ask(served, f"Authorization: Bearer {bad}")).status == 401


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iss": "simplepro", "aud": "crm"}, 200),
        ({"iss": "simplepro", "aud": ["mail", "crm"]}, 200),
        ({"iss": "somebody", "aud": "crm"}, 401),
        ({"aud": "crm"}, 401),
        ({"iss": "simplepro", "aud": "mail"}, 401),
        ({"iss": "simplepro"}, 401),
        ({"iss": "simplepro", "aud": "crm", "exp": -8}, 200),
        ({"iss": "simplepro", "aud": "crm", "exp": -12}, 401),
        ({"iss": "simplepro", "aud": "crm", "nbf": 8}, 200),
        ({"iss": "simplepro", "aud": "crm", "nbf": 15}, 401),
        ({"iss": "simplepro", "aud": "crm", "exp": None}, 401),
        ({"iss": "simplepro", "aud": "crm", "sub": ""}, 401),
    ],
)
async def test_issuer_audience_and_time_with_its_skew(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, claims: dict[str, object], status: int
) -> None:
    more = f'identity: {{jwt: {{secret: "{SECRET}", issuer: simplepro, audience: crm, skew: 10s, required: true}}}}'
    served = await serve(upstream.port, more=more)
    now = int(time.time())
    given = {
        name: now + value if name in ("exp", "nbf") and isinstance(value, int) else value
        for name, value in {"sub": "ada", "exp": 60, **claims}.items()
        if value is not None
    }
    token = jwt.encode({"alg": "HS256"}, given, OctKey.import_key(SECRET))
    assert (await ask(served, f"Authorization: Bearer {token}")).status == status


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "api-key:partner"},
        {"sub": "certificate:a"},
        {"sub": "\ud800"},
        {"role": ["\ud800"]},
        {"exp": 10**400},
        {"iat": 10**400},
    ],
    ids=range(6),
)
async def test_claims_that_no_token_may_have(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, claims: dict[str, object]
) -> None:
    served = await serve(upstream.port, more=f"identity: {{{JWT}, {KEYS}}}")
    given = {"sub": "ada", "exp": int(time.time()) + 60, **claims}
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in ({"alg": "HS256"}, given)]
    mac = hmac.digest(SECRET.encode(), b".".join(parts), "sha256")
    sent = b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()
    status = (await ask(served, f"Authorization: Bearer {sent}")).status
    assert status == (200 if "iat" in claims else 401)


async def test_a_revoked_user_is_the_one_that_the_policy_means(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    more = f'identity: {{jwt: {{secret: "{SECRET}", user_claim: username, required: true}}}}'
    served = await serve(upstream.port, more=more)
    sent = bearer(sub="u1", username="ada")
    assert (await ask(served, sent)).status == 200
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{served.proxy.admin.port}/revocations?name=user:ada&seconds=60"
        assert (await session.post(url)).status == 200
    assert (await ask(served, sent)).status == 401


async def test_an_issuer_that_names_no_key_can_turn_them(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, tmp_path: Path
) -> None:
    keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048), ECKey.generate_key("P-256"), RSAKey.generate_key(2048)]
    path = tmp_path / "keys.json"
    path.write_bytes(orjson.dumps(KeySet(list(keys)).as_dict(private=False)))
    more = f'identity: {{jwt: {{keys_file: "{path}", algorithms: [RS256, ES256], required: true}}}}'
    served = await serve(upstream.port, more=more)
    claims = {"sub": "ada", "exp": int(time.time()) + 60}
    for key, algorithm in zip(keys, ("RS256", "ES256", "RS256"), strict=True):
        signed = jwt.encode({"alg": algorithm}, claims, key, algorithms=[algorithm])
        assert (await ask(served, f"Authorization: Bearer {signed}")).status == 200
    stranger = RSAKey.generate_key(2048)
    signed = jwt.encode({"alg": "RS256"}, claims, stranger, algorithms=["RS256"])
    assert (await ask(served, f"Authorization: Bearer {signed}")).status == 401


async def test_one_token_written_in_many_ways_is_kept_once(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, more=f"identity: {{{JWT}}}")
    sent = bearer()
    for spaces in range(1, 9):
        assert (await ask(served, sent.replace("Bearer ", "Bearer" + " " * spaces))).status == 200
    identity = next(one for one in served.proxy.compiled.default_chain.filters if isinstance(one, Identity))
    assert len(identity._kept) == 2, "as clients write it, and however else"
