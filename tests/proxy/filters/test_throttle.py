"""Limits over HTTP and over WebSocket handshakes, on a real server: keys, refusals, fields, tiers, shadow, settling."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey

from proxy.policy.load import load
from stack import servers
from stack.process import ServerProcess
from tests.conftest import Served, Start
from tests.proxy.filters.conftest import Application, Ask
from tests.proxy.test_policy import GOOD
from tests.wire import Reader, ScriptedUpstream, Writer, echo

SECRET = "a secret of at least thirty-two characters"
JWT = f'identity: {{jwt: {{secret: "{SECRET}", issuer: simplepro}}}}\n'


def token(secret: str = SECRET, **claims: object) -> str:
    claims = {"sub": "ada", "iss": "simplepro", "exp": int(time.time()) + 3600, **claims}
    return "Authorization: Bearer " + jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))


@pytest.fixture(params=["alone", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """What a policy says of Redis: nothing, so that limits hold in the process, or a server of this test's own."""
    if request.param == "alone":
        yield ""
        return
    port = servers.free_port()
    process = ServerProcess(servers.valkey(port, tmp_path_factory.mktemp("valkey")))
    await process.start()
    yield f'redis: {{url: "redis://127.0.0.1:{port}", prefix: t{uuid.uuid4().hex[:8]}, timeout: 2s}}\n'
    await process.stop()


async def statuses(ask: Ask, served: Served, count: int, *lines: str, target: str = "/a") -> list[int]:
    return [(await ask(served, *lines, target=target)).status for _ in range(count)]


STRATEGIES = ["fixed-window", "moving-window", "sliding-window-counter", "token-bucket"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_so_many_and_no_more(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str, strategy: str
) -> None:
    served = await serve(upstream.port, more=store, limits=f"{{few: {{limit: 3/1h, strategy: {strategy}}}}}")
    first = await ask(served)
    assert first.status == 200
    assert first.fields["ratelimit-policy"] == '"everything.few";q=3;w=3600'
    assert first.fields["ratelimit"].startswith('"everything.few";r=2;t=')
    assert await statuses(ask, served, 3) == [200, 200, 429]
    refused = await ask(served)
    problem = orjson.loads(refused.body)
    assert (problem["rule"], problem["status"]) == ("everything.few", 429)
    assert problem["detail"] == "more than 3 requests in 3600 s"
    longest = 4800 if strategy == "sliding-window-counter" else 3600
    assert 0 < int(refused.fields["retry-after"]) == problem["retryAfter"] <= longest
    assert refused.fields["ratelimit"].startswith('"everything.few";r=0;t=')
    assert len(application.heads) == 3
    usage = served.proxy.compiled.throttles[0].usage["everything.few"]
    assert (usage.admitted, usage.denied) == (3, 2)
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{served.proxy.admin.port}/limits")
        told = await answer.json()
    assert told["rules"] == {"everything.few": {"admitted": 3, "denied": 2, "shadowed": 0}}
    if store:
        assert told["decided_by"] == {"redis": 4, "local": 0, "remembered": 1}
    text = served.proxy.metrics.expose().decode()
    assert 'proxy_limit_decisions_total{rule="everything.few",verdict="denied"} 2.0' in text


async def test_the_rule_that_denied_is_named_and_the_others_keep_theirs(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str
) -> None:
    limits = "{wide: {limit: 100/1h}, narrow: {limit: 2/1h, key: [const:all]}}"
    served = await serve(upstream.port, more=store, limits=limits)
    assert await statuses(ask, served, 5) == [200, 200, 429, 429, 429]
    refused = await ask(served)
    assert refused.fields["ratelimit-policy"].startswith('"everything.narrow"')
    usage = served.proxy.compiled.throttles[0].usage
    assert usage["everything.wide"].admitted == 2
    assert usage["everything.narrow"].denied == 4


async def test_several_windows_of_one_rule(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str
) -> None:
    served = await serve(upstream.port, more=store, limits='{both: {limit: "2/1h, 100/1d", strategy: fixed-window}}')
    assert await statuses(ask, served, 3) == [200, 200, 429]
    assert (await ask(served)).fields["ratelimit-policy"] == '"everything.both-1h";q=2;w=3600'


@pytest.mark.parametrize(("key", "same", "other"), [
    ("ip", ["X-Forwarded-For: 192.0.2.1"], ["X-Forwarded-For: 192.0.2.2"]),
    ("ip", ["X-Forwarded-For: 2001:db8::1"], ["X-Forwarded-For: 2001:db8:1::1"]),
    ("ip/48", ["X-Forwarded-For: 2001:db8:0:1::1"], ["X-Forwarded-For: 2001:db8:1::1"]),
    ("header:x-tenant", ["X-Tenant: a"], ["X-Tenant: b"]),
    ("cookie:sid", ["Cookie: a=1; sid=one"], ["Cookie: a=1; sid=two"]),
    ("user", [token()], [token(sub="bob")]),
    ("claim:tenant", [token(tenant="a")], [token(tenant="b")]),
])  # fmt: skip
async def test_each_value_of_a_key_has_its_own(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, key: str, same: list[str],
    other: list[str],
) -> None:  # fmt: skip
    limits = f'{{one: {{limit: 1/1h, key: ["{key}"]}}}}'
    served = await serve(upstream.port, more=JWT, limits=limits, trusted="[127.0.0.0/8]")
    assert await statuses(ask, served, 2, *same) == [200, 429]
    assert await statuses(ask, served, 2, *other) == [200, 429]


async def test_neighbours_of_one_ipv6_network_share(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, limits="{one: {limit: 1/1h}}", trusted="[127.0.0.0/8]")
    assert (await ask(served, "X-Forwarded-For: 2001:db8::1")).status == 200
    assert (await ask(served, "X-Forwarded-For: 2001:db8::ffff:2")).status == 429


async def test_a_header_left_out_is_no_way_around(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, limits='{one: {limit: 1/1h, key: ["header:x-tenant"]}}')
    assert await statuses(ask, served, 2) == [200, 429]


@pytest.mark.parametrize("line", [
    token("another secret of at least 32 characters!"), token(exp=int(time.time()) - 60), token(iss="someone"),
    "Authorization: Bearer nonsense", "Authorization: Basic YTpi",
    "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmUiLCJpc3MiOiJzaW1wbGVwcm8iLCJleHAiOjk5OTk5OTk5OTk5fQ.",
])  # fmt: skip
async def test_an_unverified_token_chooses_no_bucket(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, line: str
) -> None:
    served = await serve(upstream.port, more=JWT, limits="{one: {limit: 1/1h, key: user}}")
    assert (await ask(served)).status == 200
    assert (await ask(served, line)).status == 429
    assert (await ask(served, token())).status == 200


async def test_a_token_of_a_key_file(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, tmp_path: Path
) -> None:
    key = ECKey.generate_key("P-256", private=True)
    path = tmp_path / "jwks.json"
    path.write_bytes(orjson.dumps(KeySet([key]).as_dict(private=False)))
    more = f'identity: {{jwt: {{keys_file: "{path}", algorithms: [ES256], required: true}}}}\n'
    served = await serve(upstream.port, more=more)
    signed = jwt.encode({"alg": "ES256"}, {"sub": "ada", "exp": int(time.time()) + 60}, key)
    assert (await ask(served, f"Authorization: Bearer {signed}")).status == 200
    refused = await ask(served, token())
    assert (refused.status, refused.fields["www-authenticate"]) == (401, "Bearer")


async def test_tiers_by_claim(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str
) -> None:
    limits = "{one: {limit: 1/1h, key: user, tiers: {claim: plan, limits: {premium: 3/1h}}}}"
    served = await serve(upstream.port, more=store + JWT, limits=limits)
    assert await statuses(ask, served, 2, token()) == [200, 429]
    assert await statuses(ask, served, 4, token(sub="bob", plan="premium")) == [200, 200, 200, 429]


async def test_exempt_addresses_and_other_methods(serve: Start, upstream: ScriptedUpstream, ask: Ask) -> None:
    limits = "{one: {limit: 1/1h, exempt: [127.0.0.0/8]}}"
    assert await statuses(ask, await serve(upstream.port, limits="{one: {limit: 1/1h, methods: [POST]}}"), 1) != [429]
    served = await serve(upstream.port, limits=limits)
    assert 429 not in await statuses(ask, served, 3)


async def test_costs_by_method(serve: Start, upstream: ScriptedUpstream, application: Application, store: str) -> None:
    limits = "{one: {limit: 10/1h, cost: {POST: 5, default: 1}}}"
    served = await serve(upstream.port, more=store, limits=limits)
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    assert [(await served.ask(post))[0] for _ in range(3)] == [200, 200, 429]
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 429


async def test_shadow_and_trial_are_counted_and_refuse_nobody(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str
) -> None:
    limits = "{quiet: {mode: shadow, limit: 1/1h}, loud: {limit: 100/1h, trial: 2/1h}}"
    served = await serve(upstream.port, more=store, limits=limits)
    assert await statuses(ask, served, 4) == [200] * 4
    usage = served.proxy.compiled.throttles[0].usage
    assert (usage["everything.quiet"].shadowed, usage["everything.loud.trial"].shadowed) == (3, 2)
    counted = served.proxy.listener.stats.rejections
    assert counted["everything.quiet", "rate-limited", "shadow"] == 3
    assert counted["everything.loud.trial", "rate-limited", "shadow"] == 2


async def test_only_failures_count(
    serve: Start, upstream: ScriptedUpstream, application: Application, store: str
) -> None:
    answers = iter([200, 401, 200, 401, 200, 200])

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % next(answers))

    upstream.script = script
    served = await serve(upstream.port, more=store, limits="{log-in: {limit: 2/1h, count: failures}}")
    request = b"GET /login HTTP/1.1\r\nHost: a\r\n\r\n"
    seen = []
    for _ in range(5):
        seen.append((await served.ask(request))[0])
        await settled(served)
    assert seen == [200, 401, 200, 401, 429]


async def test_the_answer_says_what_it_cost(serve: Start, upstream: ScriptedUpstream, store: str) -> None:
    costs = iter([b"X-Cost: 3\r\n", b"", b"X-Cost: many\r\n", b"X-Cost: 0\r\n"])

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % next(costs))

    upstream.script = script
    limits = "{work: {limit: 10/1h, cost: {header: x-cost, reserve: 2}, strategy: fixed-window}}"
    served = await serve(upstream.port, more=store, limits=limits)
    left = []
    for _ in range(4):
        _, fields, _ = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert "x-cost" not in fields
        left.append(fields["ratelimit"].split(";")[1])
        await settled(served)
    assert left == ["r=8", "r=5", "r=3", "r=1"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_costs_by_its_size(serve: Start, upstream: ScriptedUpstream, store: str, chunked: bool) -> None:
    upstream.script = echo
    limits = "{upload: {limit: 10/1h, cost: {body: 1KiB}, strategy: fixed-window}}"
    served = await serve(upstream.port, more=store, limits=limits)
    body = b"x" * 3000
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    seen = []
    for _ in range(4):
        seen.append((await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n%b" % (framing, framed)))[0])
        await served_idle(served)
    assert seen == [200, 200, 200, 200 if chunked else 429]
    told = (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[:2]
    assert told[0] == (429 if chunked else 200)


async def test_a_limit_counts_only_what_it_matches(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    limits = '{one: {limit: 1/1h, match: {prefixes: [/batch], headers: {x-kind: "bulk"}}}}'
    served = await serve(upstream.port, limits=limits)
    assert await statuses(ask, served, 2, "X-Kind: bulk") == [200, 200]
    assert await statuses(ask, served, 2, target="/batch/a") == [200, 200]
    assert await statuses(ask, served, 2, "X-Kind: bulk", target="/batch/a") == [200, 429]


async def test_exempt_by_address_user_and_claim(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    exempt = "{ip: [192.0.2.0/24], users: [monitor], claims: {role: [super_admin]}}"
    limits = f"{{one: {{limit: 1/1h, key: const:all, exempt: {exempt}}}}}"
    served = await serve(upstream.port, more=JWT, limits=limits, trusted="[127.0.0.0/8]")
    assert await statuses(ask, served, 2) == [200, 429]
    for line in ("X-Forwarded-For: 192.0.2.7", token(sub="monitor"), token(role="super_admin")):
        assert await statuses(ask, served, 2, line) == [200, 200]
    assert await statuses(ask, served, 1, token(role="sales")) == [429]


@pytest.mark.parametrize("keys", ["hashed", "plain"])
async def test_the_heaviest_keys_are_told(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, keys: str
) -> None:
    served = await serve(
        upstream.port, more=f"usage: {{keys: {keys}}}", limits="{all: {limit: 100/1h}}", trusted="[127.0.0.0/8]"
    )
    await statuses(ask, served, 3, "X-Forwarded-For: 192.0.2.1")
    await statuses(ask, served, 1, "X-Forwarded-For: 192.0.2.2")
    url = f"http://127.0.0.1:{served.proxy.admin.port}/limits/usage"
    async with aiohttp.ClientSession() as session:
        (rule,) = (await (await session.get(url)).json())["rules"]
        text = await (await session.get(url + "?format=csv&top=1")).text()
    assert (rule["rule"], rule["admitted"]) == ("everything.all", 4)
    assert [row["units"] for row in rule["heaviest"]] == [3, 1]
    heaviest = rule["heaviest"][0]["key"]
    assert (heaviest == "192.0.2.1") is (keys == "plain")
    assert text.splitlines() == ["rule,admitted,denied,shadowed,key,units", f"everything.all,4,0,0,{heaviest},3"]


async def settled(served: Served) -> None:
    """Until the store has answered all that it was asked."""
    limiting = served.proxy.limiting
    if limiting is not None:
        async with asyncio.timeout(5):
            while limiting.store.pending:
                await asyncio.sleep(0)


async def test_so_many_at_once(serve: Start, upstream: ScriptedUpstream, store: str) -> None:
    go = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    served = await serve(upstream.port, more=store, limits="{two: {concurrent: 2}}")
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: the-same-for-all\r\n\r\n"
    first, second = await served.connect(), await served.connect()
    first.send(request)
    second.send(request)
    async with asyncio.timeout(5):
        while served.proxy.compiled.throttles[0].usage["everything.two"].admitted < 2:
            await asyncio.sleep(0)
    assert (await served.ask(request))[0] == 429
    second.reset()
    go.set()
    assert (await first.answer())[0] == 200
    await served_idle(served)
    assert (await served.ask(request))[0] == 200


async def served_idle(served: Served) -> None:
    async with asyncio.timeout(5):
        while any(route.stats.in_flight for route in served.proxy.listener.routes.routes):
            await asyncio.sleep(0)
    await settled(served)


async def test_legacy_fields_where_asked(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, more="answers: {legacy_headers: true}", limits="{one: {limit: 5/1h}}")
    fields = (await ask(served)).fields
    assert (fields["x-ratelimit-limit"], fields["x-ratelimit-remaining"]) == ("5", "4")


async def test_the_upstreams_own_fields_stand(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    application.lines = 'RateLimit: "origin";r=1;t=5\r\n'
    answer = await ask(await serve(upstream.port, limits="{one: {limit: 5/1h}}"))
    assert answer.fields["ratelimit"] == '"origin";r=1;t=5'
    assert "ratelimit-policy" not in answer.fields


def test_the_switch_turns_all_of_it_off(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    text = GOOD.replace("web: {", "web: {limits: {a: {limit: 1/1s}}, ")
    path.write_text(text.replace("to: app", "to: app, limits: {b: {limit: 1/1s}}"))
    policy = load(path, {"RATE_LIMIT_ENABLED": "false"})
    assert policy.policies["web"].limits == policy.routes["all"].limits == {}
    assert load(path, {}).policies["web"].limits.keys() == {"a"}


@pytest.mark.parametrize(
    ("limit", "passed"),
    [("limit: 10/1h, cost: {header: x-cost, reserve: 3}", 3), ("limit: 3/1h, count: failures", 3)],
)
async def test_who_resets_before_the_answer_has_had_the_work_done(
    serve: Start, upstream: ScriptedUpstream, store: str, limit: str, passed: int
) -> None:
    asked = 0
    gone = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        gone.set()
        await reader.read()

    upstream.script = script
    served = await serve(upstream.port, more=store, limits=f"{{work: {{{limit}}}}}")
    for _ in range(passed):
        wire = await served.connect()
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await gone.wait()
        gone.clear()
        wire.reset()
        await settled(served)
    assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 429
    assert asked == passed


async def test_a_header_that_stands_twice_is_no_way_around(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, limits="{few: {limit: 2/1h, key: 'header:x-tenant'}}")
    seen = [(await ask(served, "X-Tenant: same", f"X-Tenant: {number}")).status for number in range(4)]
    assert seen == [200, 200, 429, 429], "the client's address stands in its place"
    seen = [(await ask(served, "X-Tenant: same", "Accept: a", "Accept: b")).status for _ in range(3)]
    assert seen == [200, 200, 429]


async def test_long_keys_are_not_kept(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    served = await serve(upstream.port, limits="{few: {limit: 2/1h, key: 'header:x-tenant'}}")
    for number in range(3):
        assert (await ask(served, f"X-Tenant: {number}{'x' * 5000}")).status == 200
    assert (await ask(served, "X-Tenant: short")).status == 200
    (limit,) = served.proxy.compiled.throttles[-1]._limits
    assert len(limit.known) == 1


async def test_a_trial_counts_those_of_a_tier_too(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask
) -> None:
    limits = "{few: {limit: 1/1h, trial: 2/1h, key: user, tiers: {claim: plan, limits: {premium: 9/1h}}}}"
    served = await serve(upstream.port, more=JWT, limits=limits)
    assert await statuses(ask, served, 4, token(plan="premium")) == [200] * 4
    assert served.proxy.listener.stats.rejections["everything.few.trial", "rate-limited", "shadow"] == 2


async def test_another_window_leaves_the_first_its_counter(
    serve: Start,
    upstream: ScriptedUpstream,
    application: Application,
    ask: Ask,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    port = servers.free_port()
    process = ServerProcess(servers.valkey(port, tmp_path_factory.mktemp("valkey")))
    await process.start()
    store = f'redis: {{url: "redis://127.0.0.1:{port}", timeout: 2s}}\n'
    one = await serve(upstream.port, more=store, limits="{few: {limit: 3/1h}}")
    assert await statuses(ask, one, 3) == [200] * 3
    two = await serve(upstream.port, more=store, limits='{few: {limit: "3/1h, 9/1d"}}')
    assert await statuses(ask, two, 1) == [429]
    await process.stop()


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_first_answer_says_when_its_charge_is_forgotten(
    serve: Start, upstream: ScriptedUpstream, application: Application, ask: Ask, store: str, strategy: str
) -> None:
    served = await serve(upstream.port, more=store, limits=f"{{few: {{limit: 4/1h, strategy: {strategy}}}}}")
    reset = int((await ask(served)).fields["ratelimit"].rpartition("t=")[2])
    assert 0 < reset <= 3600
    if strategy != "sliding-window-counter":
        assert reset >= (895 if strategy == "token-bucket" else 3595)


async def test_who_goes_before_the_upstream_was_asked_is_charged_nothing(
    serve: Start, upstream: ScriptedUpstream, store: str
) -> None:
    busy = asyncio.Event()

    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await busy.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    limits = "{log-in: {limit: 3/1h, count: failures}}"
    served = await serve(upstream.port, more=store, limits=limits, max_connections=1)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    first = await served.connect()
    first.send(request)
    pool = served.proxy.compiled.clusters["app"].endpoints[0].pool
    for _ in range(3):
        wire = await served.connect()
        wire.send(request)
        async with asyncio.timeout(5):
            while not pool.waiting:
                await asyncio.sleep(0.01)
        wire.reset()
        async with asyncio.timeout(5):
            while pool.waiting:
                await asyncio.sleep(0.01)
    busy.set()
    assert (await first.answer())[0] == 200
    assert (await served.ask(request))[0] == 200
