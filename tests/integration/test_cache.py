"""The edge cache over real connections, section by section of RFC 9111, and what else a shared cache owes its users."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field

import pytest

from proxy.cache.store import Purge
from tests.conftest import Served, Start
from tests.wire import Reader, ScriptedUpstream, Wire, Writer, read_request

CACHE = "{cache: {unkeyed: pass}}"


def http_date(offset: float = 0.0) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + offset))


@dataclass
class Origin:
    """Answers each request by the next of `answers`, the last one again and again; each with its number as body."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    go: asyncio.Event | None = None

    def then(self, status: int = 200, **fields: str) -> Origin:
        self.answers.append((status, {name.replace("_", "-"): value for name, value in fields.items()}))
        return self

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            self.requests.append(head)
            number = len(self.requests)
            if self.go is not None:
                await self.go.wait()
            status, fields = self.answers[min(number, len(self.answers)) - 1]
            body = self.bodies[min(number, len(self.bodies)) - 1] if self.bodies else b"body %d" % number
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            if status == 304:
                writer.write(f"HTTP/1.1 304 X\r\n{lines}\r\n".encode("latin-1"))
                continue
            if "Content-Length" not in fields:
                lines += f"Content-Length: {len(body)}\r\n"
            writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1"))
            writer.write(b"" if head.startswith(b"HEAD") else body)

    @property
    def count(self) -> int:
        return len(self.requests)


class Client:
    def __init__(self, served: Served, origin: Origin) -> None:
        self.served = served
        self.origin = origin

    async def __call__(
        self, path: str = "/", method: str = "GET", body: str = "", **fields: str
    ) -> tuple[int, dict[str, str], bytes]:
        wire = await self.served.connect()
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        if body:
            lines += f"Content-Length: {len(body)}\r\n"
        wire.send(f"{method} {path} HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n{body}".encode("latin-1"))
        answer = await wire.answer(head_only=method == "HEAD")
        wire.close()
        return answer

    def later(self, seconds: float) -> None:
        """All that is kept is so much older."""
        edges = self.served.proxy.shared.edges
        assert edges is not None
        for entry in edges.store.entries():
            entry.at -= seconds

    async def twice(self, first: dict[str, str] | None = None, **second: str) -> tuple[int, dict[str, str], bytes]:
        await self(**(first or {}))
        return await self(**second)


@pytest.fixture
async def origin(upstream: ScriptedUpstream) -> Origin:
    made = Origin()
    upstream.script = made
    return made


@pytest.fixture
async def client(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> Client:
    return Client(await serve(upstream.port, policies=CACHE), origin)


FRESH = "max-age=3600"
HIT, MISS, REVALIDATED = "hit", "miss", "revalidated"


def told(fields: dict[str, str]) -> str:
    """What Cache-Status says (RFC 9211)."""
    said = fields.get("cache-status", "")
    if "fwd-status=304" in said:
        return REVALIDATED
    return HIT if "; hit" in said else MISS


# 3 storing, 4.2 freshness, 5.2.2 directives of answers

KEPT: list[tuple[str, dict[str, str], str]] = [
    ("max-age", {"Cache-Control": "max-age=60"}, HIT),
    ("max-age 0", {"Cache-Control": "max-age=0"}, MISS),
    ("no number", {"Cache-Control": "max-age=abc"}, MISS),
    ("negative", {"Cache-Control": "max-age=-60"}, MISS),
    ("decimal", {"Cache-Control": "max-age=60.5"}, MISS),
    ("quoted", {"Cache-Control": 'max-age="60"'}, HIT),
    ("a very large number", {"Cache-Control": "max-age=99999999999"}, HIT),
    ("upper case", {"Cache-Control": "MaX-AgE=60"}, HIT),
    ("space before the sign", {"Cache-Control": "max-age =60"}, HIT),
    ("s-maxage before max-age", {"Cache-Control": "max-age=0, s-maxage=60"}, HIT),
    ("s-maxage 0", {"Cache-Control": "max-age=60, s-maxage=0"}, MISS),
    ("max-age within another's quotes", {"Cache-Control": 'a="b, max-age=60"'}, MISS),
    ("an open quote", {"Cache-Control": 'max-age=60, a="b'}, MISS),
    ("a name that ends so", {"Cache-Control": "x-max-age=60"}, MISS),
    ("no-store", {"Cache-Control": "max-age=60, no-store"}, MISS),
    ("no-store among strangers", {"Cache-Control": "max-age=60, foo=bar, no-store"}, MISS),
    ("private", {"Cache-Control": "max-age=60, private"}, MISS),
    ("private for a field", {"Cache-Control": 'max-age=60, private="x-secret"'}, HIT),
    ("no-cache", {"Cache-Control": "max-age=60, no-cache"}, MISS),
    ("no-cache for a field", {"Cache-Control": 'max-age=60, no-cache="x-secret"'}, HIT),
    ("must-understand", {"Cache-Control": "max-age=60, no-store, must-understand"}, HIT),
    ("Expires", {"Expires": http_date(600)}, HIT),
    ("Expires past", {"Expires": http_date(-600)}, MISS),
    ("Expires 0", {"Expires": "0"}, MISS),
    ("Expires of no date", {"Expires": "tomorrow"}, MISS),
    ("Expires of another zone", {"Expires": http_date(600).replace("GMT", "EST")}, MISS),
    ("Expires by asctime", {"Expires": time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(time.time() + 600))}, HIT),
    ("Expires by RFC 850", {"Expires": time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(time.time() + 600))},
     HIT),
    ("Expires in lower case", {"Expires": http_date(600).lower()}, HIT),
    ("max-age before Expires", {"Cache-Control": "max-age=60", "Expires": http_date(-600)}, HIT),
    ("a broken max-age before Expires", {"Cache-Control": "max-age=x", "Expires": http_date(600)}, MISS),
    ("Expires against Date", {"Expires": http_date(-10), "Date": http_date(-100)}, MISS),
    ("Date past", {"Cache-Control": "max-age=60", "Date": http_date(-100)}, MISS),
    ("Age", {"Cache-Control": "max-age=60", "Age": "100"}, MISS),
    ("Age below", {"Cache-Control": "max-age=60", "Age": "30"}, HIT),
    ("Age of no number", {"Cache-Control": "max-age=60", "Age": "abc"}, HIT),
    ("Age negative", {"Cache-Control": "max-age=60", "Age": "-100"}, HIT),
    ("Age twice", {"Cache-Control": "max-age=60", "Age": "100, 0"}, MISS),
    ("nothing said", {}, MISS),
    ("only Last-Modified", {"Last-Modified": http_date(-86400)}, MISS),
    ("Vary *", {"Cache-Control": "max-age=60", "Vary": "*"}, MISS),
    ("Vary * among others", {"Cache-Control": "max-age=60", "Vary": "accept, *"}, MISS),
    ("Set-Cookie", {"Cache-Control": "max-age=60", "Set-Cookie": "a=b"}, MISS),
    ("Pragma where nothing else speaks", {"Pragma": "no-cache", "Expires": http_date(600)}, MISS),
    ("targeted", {"Cache-Control": "no-store", "CDN-Cache-Control": "max-age=60"}, HIT),
    ("targeted no-store", {"Cache-Control": "max-age=60", "CDN-Cache-Control": "no-store"}, MISS),
    ("targeted that can't be read", {"Cache-Control": "max-age=60", "CDN-Cache-Control": "max-age=60,"}, HIT),
    ("targeted of another type", {"Cache-Control": "max-age=60", "CDN-Cache-Control": 'max-age="60"; x, A=1'}, HIT),
    ("targeted beside Expires", {"Expires": http_date(600), "CDN-Cache-Control": "max-age=0"}, MISS),
    ("targeted text for a number", {"Cache-Control": "no-store", "CDN-Cache-Control": 'max-age="60"'}, MISS),
    ("empty targeted", {"Cache-Control": "max-age=60", "CDN-Cache-Control": ""}, HIT),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in KEPT], ids=[row[0] for row in KEPT])
async def test_what_an_answer_says_of_itself(
    fields: dict[str, str], expected: str, client: Client, origin: Origin
) -> None:
    origin.then(200, **fields)
    status, second, body = await client.twice()
    assert status == 200
    assert told(second) in (expected, HIT if expected == HIT else REVALIDATED)
    assert body == (b"body 1" if expected == HIT else b"body 2")
    assert origin.count == (1 if expected == HIT else 2)
    if expected == HIT:
        assert int(second["age"]) >= 0


STATUSES = [200, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599]


@pytest.mark.parametrize("status", STATUSES)
async def test_any_status_is_kept_as_long_as_it_says(status: int, client: Client, origin: Origin) -> None:
    origin.then(status, Cache_Control=FRESH)
    first = await client()
    second = await client()
    assert (first[0], second[0], origin.count) == (status, status, 1)
    client.later(4000)
    await client()
    assert origin.count == 2


@pytest.mark.parametrize(("status", "count"), [(200, 1), (599, 2), (299, 2), (404, 1)])
async def test_must_understand(status: int, count: int, client: Client, origin: Origin) -> None:
    origin.then(status, Cache_Control="max-age=60, must-understand")
    await client.twice()
    assert origin.count == count


async def test_what_has_gone_stale_is_asked_for_anew(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60")
    await client()
    client.later(59)
    assert (await client())[2] == b"body 1"
    client.later(2)
    assert (await client())[2] == b"body 2"
    assert (await client())[2] == b"body 2"


async def test_age_grows_and_begins_with_what_it_was(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=600", Age="100", Date=http_date(-30))
    await client()
    client.later(50)
    _, fields, _ = await client()
    assert 150 <= int(fields["age"]) <= 152
    assert fields["date"] == origin.answers[0][1]["Date"]


async def test_fields_are_kept_but_those_of_the_connection_and_those_that_are_named(
    client: Client, origin: Origin
) -> None:
    origin.then(
        200, Cache_Control='max-age=60, private="x-mine", no-cache="x-once"', X_Mine="1", X_Once="1", X_Hop="1",
        X_Kept="1", Connection="x-hop, close", Keep_Alive="x", Proxy_Authenticate="x", Surrogate_Key="a b",
        X_Request_Id="old", RateLimit_Policy="x", Content_Type="text/plain",
    )  # fmt: skip
    _, first, _ = await client()
    assert "surrogate-key" not in first
    assert (first["x-mine"], first["x-once"]) == ("1", "1")
    _, fields, _ = await client()
    assert told(fields) == HIT
    assert (fields["x-kept"], fields["content-type"], fields["content-length"]) == ("1", "text/plain", "6")
    assert not {"x-mine", "x-once", "x-hop", "keep-alive", "proxy-authenticate", "surrogate-key"} & set(fields)
    assert fields.get("x-request-id") != "old"
    assert "ratelimit-policy" not in fields


# 4.1 Vary


async def test_variants(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH, Vary="Foo, Accept-Language")
    await client(Foo="1", Accept_Language="en")
    assert (await client(Foo="1", Accept_Language="en"))[2] == b"body 1"
    assert (await client(Foo="2", Accept_Language="en"))[2] == b"body 2"
    assert (await client(Foo="1", Accept_Language="de"))[2] == b"body 3"
    assert (await client())[2] == b"body 4"
    assert (await client(Foo="2", Accept_Language="EN"))[2] == b"body 2"
    assert (await client(Foo="3", Accept_Language="en, de;q=0.5"))[2] == b"body 5"
    assert (await client(Foo="3", Accept_Language="de; q=0.5,en"))[2] == b"body 5"
    assert (await client(Foo="1", Accept_Language="en"))[2] == b"body 1"
    assert origin.count == 5


async def test_variants_are_bounded(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(upstream.port, policies=CACHE, more="cache: {variants: 3}")
    client = Client(served, origin.then(200, Cache_Control=FRESH, Vary="foo"))
    for number in range(10):
        await client(Foo=str(number))
    edges = served.proxy.shared.edges
    assert edges is not None
    assert len(edges.store) == 3
    assert (await client(Foo="9"))[2] == b"body 10"


# 3.5 Authorization

AUTHORIZED = [("max-age=60", 2), ("max-age=60, public", 1), ("s-maxage=60", 1), ("max-age=60, must-revalidate", 1)]


@pytest.mark.parametrize(("control", "count"), AUTHORIZED)
async def test_answers_to_credentials(control: str, count: int, client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=control)
    await client.twice({"Authorization": "Basic YTpi"}, Authorization="Basic YTpi")
    assert origin.count == count


# 4.3 validation


async def test_a_stale_answer_is_found_good(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60", ETag='"a"', Last_Modified=http_date(-1000), X_Old="1", X_New="0")
    origin.then(304, Cache_Control="max-age=120", ETag='"a"', X_New="1", Content_Length="99", Content_Type="x/y")
    await client()
    client.later(100)
    status, fields, body = await client()
    assert (status, body, told(fields)) == (200, b"body 1", REVALIDATED)
    request = origin.requests[1].lower()
    assert b'if-none-match: "a"\r\n' in request
    assert b"if-modified-since: " in request
    assert (fields["x-old"], fields["x-new"], fields["content-length"]) == ("1", "1", "6")
    assert fields["content-type"] == "x/y"
    client.later(100)
    assert told((await client())[1]) == HIT


async def test_a_304_for_another_answer_is_none_for_this(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60", ETag='"a"').then(304, ETag='"b"').then(200, Cache_Control=FRESH)
    await client()
    client.later(100)
    assert (await client())[2] == b"body 3", "asked again, without conditions"
    assert b"if-none-match" not in origin.requests[2].lower()
    assert told((await client())[1]) == HIT


async def test_what_is_asked_each_time(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="no-cache", ETag='"a"').then(304)
    await client()
    for _ in range(3):
        status, _, body = await client()
        assert (status, body) == (200, b"body 1")
    assert origin.count == 4


CONDITIONS = [
    ("the same", {"If-None-Match": '"a"'}, 304),
    ("weak", {"If-None-Match": 'W/"a"'}, 304),
    ("another", {"If-None-Match": '"b"'}, 200),
    ("one of many", {"If-None-Match": '"b", "a"'}, 304),
    ("any", {"If-None-Match": "*"}, 304),
    ("without quotes", {"If-None-Match": "a"}, 200),
    ("since then", {"If-Modified-Since": http_date(-500)}, 304),
    ("since before", {"If-Modified-Since": http_date(-5000)}, 200),
    ("no date", {"If-Modified-Since": "yesterday"}, 200),
    ("the tag before the date", {"If-None-Match": '"b"', "If-Modified-Since": http_date(-500)}, 200),
]


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in CONDITIONS], ids=[row[0] for row in CONDITIONS])
async def test_conditions_of_clients(fields: dict[str, str], expected: int, client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH, ETag='"a"', Last_Modified=http_date(-1000), X_More="1")
    await client()
    status, told_fields, _ = await client(**fields)
    assert (status, origin.count) == (expected, 1)
    if status == 304:
        assert told_fields["etag"] == '"a"'
        assert "x-more" not in told_fields
        assert "age" in told_fields


async def test_conditions_go_on_where_nothing_is_kept(client: Client, origin: Origin) -> None:
    origin.then(304, ETag='"a"').then(200, Cache_Control=FRESH)
    assert (await client(If_None_Match='"a"'))[0] == 304
    assert b'if-none-match: "a"' in origin.requests[0].lower()
    assert (await client())[2] == b"body 2"


# 4.3.5 HEAD, 3.3 ranges


async def test_head_is_answered_from_get(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client()
    status, fields, _ = await client(method="HEAD")
    assert (status, fields["content-length"], origin.count) == (200, "6", 1)


async def test_head_is_not_kept_for_get_but_tells_that_it_has_changed(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60", ETag='"a"').then(200, Cache_Control="max-age=60", ETag='"b"')
    await client()
    await client(method="HEAD", Cache_Control="no-cache")
    assert (await client())[2] == b"body 3"


RANGES = [
    ("bytes=0-1", 206, b"bo", "bytes 0-1/6"),
    ("bytes=2-", 206, b"dy 1", "bytes 2-5/6"),
    ("bytes=-2", 206, b" 1", "bytes 4-5/6"),
    ("bytes=3-100", 206, b"y 1", "bytes 3-5/6"),
    ("bytes=100-", 416, b"", "bytes */6"),
    ("bytes=2-1", 200, b"body 1", None),
    ("bytes=0-0,2-3", 200, b"body 1", None),
    ("lines=0-1", 200, b"body 1", None),
]


@pytest.mark.parametrize(("wanted", "status", "body", "said"), RANGES)
async def test_a_part_of_the_whole(
    wanted: str, status: int, body: bytes, said: str | None, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control=FRESH, ETag='"a"')
    await client()
    assert (await client(Range=wanted))[0::2] == (status, body)
    _, fields, _ = await client(Range=wanted)
    assert fields.get("content-range") == said
    assert (await client(Range="bytes=0-1", If_Range='"b"'))[0] == 200
    assert (await client(Range="bytes=0-1", If_Range='"a"'))[0] == 206
    assert origin.count == 1


async def test_a_part_from_the_origin_is_not_kept(client: Client, origin: Origin) -> None:
    origin.then(206, Cache_Control=FRESH, Content_Range="bytes 0-5/9").then(200, Cache_Control=FRESH)
    assert (await client(Range="bytes=0-5"))[0] == 206
    assert (await client())[0::2] == (200, b"body 2")


# 4.4 invalidation


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"])
@pytest.mark.parametrize(("status", "count"), [(200, 3), (204, 3), (302, 3), (404, 2), (500, 2)])
async def test_what_is_written_is_forgotten(
    method: str, status: int, count: int, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control=FRESH).then(status).then(200, Cache_Control=FRESH)
    await client("/a?b=1")
    await client("/a?b=1", method=method, body="x")
    await client("/a?b=1")
    assert origin.count == count


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize(
    ("where", "count"),
    [("/other", 3), ("http://a.example/other", 3), ("http://b.example/other", 2), ("other", 3), ("/another", 2)],
)
async def test_what_a_write_names_is_forgotten(
    name: str, where: str, count: int, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control=FRESH).then(201, **{name: where}).then(200, Cache_Control=FRESH)
    await client("/other")
    await client("/form", method="POST", body="x")
    await client("/other")
    assert origin.count == count


async def test_post_is_never_kept(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client(method="POST", body="x")
    await client(method="POST", body="x")
    assert origin.count == 2


# 5.2.1 directives of requests

ASKED = [
    ("no-cache", 0, 2), ("no-store", 0, 1), ("max-age=0", 1, 2), ("max-age=100", 50, 1), ("max-age=10", 50, 2),
    ("min-fresh=10", 0, 1), ("min-fresh=3000", 1000, 2), ("max-stale", 5000, 1), ("max-stale=2000", 5000, 1),
    ("max-stale=10", 5000, 2), ("only-if-cached", 0, 1), ("only-if-cached", 5000, 1),
]  # fmt: skip


@pytest.mark.parametrize(("control", "later", "count"), ASKED)
async def test_what_clients_ask_for(control: str, later: int, count: int, client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client()
    client.later(later)
    status, _, _ = await client(Cache_Control=control)
    assert origin.count == count
    assert status == (504 if control == "only-if-cached" and later else 200)


async def test_only_if_cached_asks_nobody(client: Client, origin: Origin) -> None:
    assert (await client(Cache_Control="only-if-cached"))[0] == 504
    assert origin.count == 0


async def test_clients_are_not_heard_where_the_policy_says_so(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(upstream.port, policies="{cache: {client_control: false}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    await client()
    await client(Cache_Control="no-cache", Pragma="no-cache")
    assert origin.count == 1


# RFC 5861: stale


async def test_stale_while_it_is_asked_for_anew(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60, stale-while-revalidate=100")
    await client()
    client.later(100)
    _, fields, body = await client()
    assert (body, told(fields)) == (b"body 1", HIT)
    async with asyncio.timeout(5):
        while (await client())[2] != b"body 2":
            await asyncio.sleep(0.01)
    assert origin.count == 2
    client.later(1000)
    assert (await client())[2] == b"body 3"


ERRORS = [
    ("max-age=60, stale-if-error=100", 100, 200), ("max-age=60, stale-if-error=10", 100, 503),
    ("max-age=60, stale-if-error=100, must-revalidate", 100, 503), ("max-age=60", 100, 503),
    ("s-maxage=60, stale-if-error=100", 100, 503),
]  # fmt: skip


@pytest.mark.parametrize(("control", "later", "status"), ERRORS)
async def test_stale_where_there_is_an_error(
    control: str, later: int, status: int, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control=control).then(503)
    await client()
    client.later(later)
    assert (await client())[0] == status
    assert origin.count == 2


async def test_stale_where_the_origin_is_gone(client: Client, origin: Origin, upstream: ScriptedUpstream) -> None:
    origin.then(200, Cache_Control="max-age=60, stale-if-error=1000")
    await client()
    client.later(100)
    await upstream.__aexit__(None, None, None)
    status, fields, body = await client()
    assert (status, body) == (200, b"body 1")
    assert "detail=stale-if-error" in fields["cache-status"]


# one for many


async def test_many_who_ask_at_once_make_one_request(client: Client, origin: Origin) -> None:
    origin.go = asyncio.Event()
    origin.then(200, Cache_Control=FRESH)
    asking = [asyncio.create_task(client()) for _ in range(1000)]
    async with asyncio.timeout(5):
        while not origin.count or client.served.proxy.listener.open_connections < 1000:
            await asyncio.sleep(0.01)
    origin.go.set()
    answers = await asyncio.gather(*asking)
    assert {answer[2] for answer in answers} == {b"body 1"}
    assert origin.count == 1


async def test_a_leader_that_goes_away_fails_nobody(client: Client, origin: Origin) -> None:
    origin.go = asyncio.Event()
    origin.then(200, Cache_Control=FRESH)
    leader = await client.served.connect()
    leader.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
    async with asyncio.timeout(5):
        while not origin.count:
            await asyncio.sleep(0.01)
    asking = [asyncio.create_task(client()) for _ in range(10)]
    async with asyncio.timeout(5):
        while client.served.proxy.listener.open_connections < 11:
            await asyncio.sleep(0.01)
    leader.reset()
    async with asyncio.timeout(5):
        while origin.count < 2:
            await asyncio.sleep(0.01)
    origin.go.set()
    answers = await asyncio.gather(*asking)
    assert {answer[0] for answer in answers} == {200}
    assert origin.count == 2


async def test_nobody_waits_for_what_is_not_kept(client: Client, origin: Origin) -> None:
    origin.go = asyncio.Event()
    origin.then(200, Cache_Control="no-store")
    asking = [asyncio.create_task(client()) for _ in range(5)]
    async with asyncio.timeout(5):
        while not origin.count:
            await asyncio.sleep(0.01)
    origin.go.set()
    answers = await asyncio.gather(*asking)
    assert len({answer[2] for answer in answers}) == 5, "each its own"
    assert (await client())[1]["cache-status"] == 'simplepro-proxy; fwd=uri-miss; detail="not kept: no-store"'


async def test_who_waits_has_waited_enough(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(upstream.port, policies="{cache: {wait: 100ms}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    origin.go = asyncio.Event()
    asking = [asyncio.create_task(client()) for _ in range(3)]
    async with asyncio.timeout(5):
        while origin.count < 3:
            await asyncio.sleep(0.01)
    origin.go.set()
    await asyncio.gather(*asking)


# what nobody may steer


@pytest.fixture
async def strict(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> Client:
    cache = "{cache: {key: {headers: [accept-encoding], query: [page]}}}"
    return Client(await serve(upstream.port, policies=cache), origin)


async def test_what_is_in_no_key_does_not_reach_the_origin(strict: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await strict(
        "/a?page=1&evil=%3Cscript%3E", X_Forwarded_Host="evil.example", X_Original_URL="/admin", User_Agent="evil",
        Accept_Encoding="gzip", Accept_Language="xx", X_Http_Method_Override="POST", Forwarded="host=evil",
    )  # fmt: skip
    request = origin.requests[0]
    assert request.startswith(b"GET /a?page=1 HTTP/1.1\r\n")
    assert b"evil" not in request
    assert b"/admin" not in request
    assert b"override" not in request.lower()
    assert b"accept-encoding: gzip\r\n" in request
    assert (await strict("/a?page=1&other=2", Accept_Encoding="gzip"))[2] == b"body 1"
    assert (await strict("/a?page=2", Accept_Encoding="gzip"))[2] == b"body 2"
    assert (await strict("/a?page=1", Accept_Encoding="br"))[2] == b"body 3"


@pytest.mark.parametrize("path", ["/a;x.css", "/a/..%2fb", "/A", "/a/", "/a%3Fpage=1"])
async def test_paths_that_are_not_the_same_are_not_the_same(path: str, strict: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await strict("/a")
    status, fields, _ = await strict(path)
    assert status == 400 or told(fields) == MISS


async def test_cookies_pass_it_by(strict: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await strict()
    await strict(Cookie="session=1")
    assert origin.count == 2
    assert b"session=1" in origin.requests[1]
    assert (await strict(Cookie="session=1"))[1]["cache-status"] == "simplepro-proxy; fwd=bypass; detail=cookie"
    assert (await strict(method="POST", body="x"))[1]["cache-status"] == "simplepro-proxy; fwd=method"


async def test_named_cookies_make_keys(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(upstream.port, policies="{cache: {key: {cookies: [theme]}}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    await client(Cookie="session=1; theme=dark")
    assert b"cookie: theme=dark\r\n" in origin.requests[0]
    assert (await client(Cookie="theme=dark; session=2"))[2] == b"body 1"
    assert (await client(Cookie="theme=light"))[2] == b"body 2"
    assert (await client())[2] == b"body 3"


@pytest.mark.parametrize("name", ["X-Api-Key", "X-Auth-Token", "Proxy-Authorization"])
async def test_credentials_that_are_not_verified_pass_it_by(name: str, client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client()
    assert (await client(**{name: "mine"}))[2] == b"body 2"


async def test_a_body_with_a_nonce_is_not_kept(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            origin.requests.append(head)
            nonce = head.partition(b"x-csp-nonce: ")[2].partition(b"\r\n")[0]
            body = b"<script nonce=%b>" % nonce
            kept = b"Cache-Control: max-age=60\r\nContent-Type: text/html\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (kept, len(body), body))

    upstream.script = script
    served = await serve(
        upstream.port, policies="{cache: {}, security_headers: {preset: helmet, csp: {script-src: ['{nonce}']}}}"
    )
    client = Client(served, origin)
    pages = {(await client())[2] for _ in range(3)}
    assert (len(pages), origin.count) == (3, 3)


async def test_every_policy_still_rules(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(
        upstream.port, limits="{few: {limit: 3/1h}}",
        policies="{cache: {}, security_headers: {preset: helmet}, cors: {origins: ['https://a.example']}}",
    )  # fmt: skip
    granted = {"Access-Control-Allow-Origin": "https://evil.example", "Access-Control-Allow-Credentials": "true"}
    client = Client(served, origin.then(200, Cache_Control=FRESH, **granted))
    answers = [await client(Origin="https://a.example") for _ in range(4)]
    assert [answer[0] for answer in answers] == [200, 200, 200, 429]
    for _, fields, _ in answers:
        assert fields["x-content-type-options"] == "nosniff"
    assert told(answers[1][1]) == HIT
    assert answers[1][1]["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in answers[1][1], "what the policy does not grant"
    assert "origin" in answers[1][1]["vary"].lower()
    assert len({answer[1]["x-request-id"] for answer in answers}) == 4
    assert origin.count == 1


async def test_in_shadow_nothing_changes_and_what_would_be_wrong_is_counted(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(upstream.port, policies="{cache: {mode: shadow}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH, Surrogate_Key="a"))
    origin.bodies = [b"a", b"a", b"b"]
    answers = [await client(User_Agent="x") for _ in range(3)]
    assert [answer[2] for answer in answers] == [b"a", b"a", b"b"]
    assert not any("cache-status" in answer[1] for answer in answers)
    assert all(answer[1]["surrogate-key"] == "a" for answer in answers)
    assert all(b"user-agent: x" in request.lower() for request in origin.requests)
    edges = served.proxy.shared.edges
    assert edges is not None
    (stats,) = edges.stats.values()
    assert (stats.same, stats.wrong) == (1, 1)


# bounds


async def test_what_is_too_large_passes_and_is_not_kept(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(upstream.port, policies="{cache: {max_body: 1KiB}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    origin.bodies = [b"x" * 2000]
    assert [len((await client())[2]) for _ in range(2)] == [2000, 2000]
    assert origin.count == 2


async def test_an_answer_that_breaks_off_is_not_kept(
    client: Client, origin: Origin, upstream: ScriptedUpstream
) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        origin.requests.append(b"")
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhalf")

    upstream.script = script
    for _ in range(2):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client()
    assert origin.count == 2


async def test_memory_stays_under_its_bound(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(upstream.port, policies="{cache: {}}", more="cache: {memory: 256KiB}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    origin.bodies = [b"x" * 10_000]
    edges = served.proxy.shared.edges
    assert edges is not None
    for number in range(100):
        await client(f"/{number}")
        assert edges.store.size + edges.store.pending <= 256 * 1024
    assert edges.store.stats.evictions > 50
    await client("/99")
    assert origin.count == 100


# purging


async def test_purges_by_tag_url_and_prefix(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH, Surrogate_Key="all customers")
    edges = client.served.proxy.shared.edges
    assert edges is not None
    admin = client.served.proxy.admin

    async def purge(what: str) -> int:
        wire = await Wire.connect(admin.port)
        wire.send(f"POST /cache/purge?{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())
        status, _, _ = await wire.answer()
        wire.close()
        return status

    before = origin.count
    for what, path in (
        ("tag=customers", "/a"), ("url=a.example/a?x=1", "/a?x=1"), ("prefix=/a/", "/a/b"), ("all=1", "/c"),
        ("url=/a", "/a"),
    ):  # fmt: skip
        await client(path)
        assert told((await client(path))[1]) == HIT
        assert await purge(what) == 200
        assert told((await client(path))[1]) == MISS, what
    assert origin.count > before
    await client("/other")
    assert await purge("tag=nothing") == 200
    assert told((await client("/other"))[1]) == HIT
    assert await purge("") == 400
    assert await purge("tag=a&url=b") == 400


async def test_an_answer_that_was_on_its_way_when_it_was_purged_is_not_kept(client: Client, origin: Origin) -> None:
    origin.go = asyncio.Event()
    origin.then(200, Cache_Control=FRESH, Surrogate_Key="a")
    asking = asyncio.create_task(client())
    async with asyncio.timeout(5):
        while not origin.count:
            await asyncio.sleep(0.01)
    edges = client.served.proxy.shared.edges
    assert edges is not None
    await edges.purge(Purge("tag", "a"))
    origin.go.set()
    await asking
    await client()
    assert origin.count == 2


async def test_a_soft_purge_leaves_it_to_be_served_stale(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60, stale-while-revalidate=100", Surrogate_Key="a")
    await client()
    edges = client.served.proxy.shared.edges
    assert edges is not None
    await edges.purge(Purge("tag", "a", soft=True))
    assert (await client())[2] == b"body 1"
    async with asyncio.timeout(5):
        while (await client())[2] != b"body 2":
            await asyncio.sleep(0.01)


async def test_a_body_whose_end_can_not_be_told_is_not_kept(
    client: Client, origin: Origin, upstream: ScriptedUpstream
) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        origin.requests.append(b"")
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nhalf or all")
        await writer.drain()
        writer.close()

    upstream.script = script
    for _ in range(2):
        assert (await client())[2] == b"half or all"
    assert origin.count == 2


async def test_http_and_https_are_two_keys(serve: Start, upstream: ScriptedUpstream, origin: Origin) -> None:
    served = await serve(upstream.port, policies="{cache: {}}", trusted="[127.0.0.0/8]")
    client = Client(served, origin.then(301, Cache_Control=FRESH, Location="https://a.example/"))
    await client(X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="http")
    assert told((await client(X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="https"))[1]) == MISS
    assert told((await client(X_Forwarded_For="192.0.2.2", X_Forwarded_Proto="http"))[1]) == HIT


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since"])
async def test_preconditions_are_the_origins_to_judge(name: str, strict: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH, ETag='"a"')
    await strict()
    _, fields, _ = await strict(**{name: '"a"'})
    assert fields["cache-status"] == "simplepro-proxy; fwd=bypass; detail=precondition"
    assert name.lower().encode() in origin.requests[1].lower()


async def test_a_range_goes_on_and_what_else_a_client_says_does_not(strict: Client, origin: Origin) -> None:
    origin.then(206, Cache_Control=FRESH, Content_Range="bytes 0-5/9").then(200, Cache_Control=FRESH)
    assert (await strict(Range="bytes=0-5", Via="1.1 evil", Pragma="evil", Cache_Control="evil"))[0] == 206
    assert b"range: bytes=0-5" in origin.requests[0].lower()
    assert b"evil" not in origin.requests[0]
    assert (await strict())[0] == 200
    assert told((await strict())[1]) == HIT


async def test_a_cache_that_a_policy_no_longer_has_is_empty(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client()
    proxy = client.served.proxy
    policy = proxy.policy
    await proxy.apply(
        policy.model_copy(update={"policies": {}, "defaults": policy.defaults.model_copy(update={"use": []})})
    )
    edges = proxy.shared.edges
    assert edges is not None
    assert not len(edges.store)
    assert "cache-status" not in (await client())[1]


async def test_a_clients_condition_says_nothing_of_what_is_kept(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60, stale-if-error=100").then(200, Cache_Control=FRESH, ETag='"new"')
    await client()
    client.later(70)
    assert (await client(If_None_Match='"new"'))[0::2] == (200, b"body 2")
    assert b"if-none-match" not in origin.requests[1].lower()


async def test_what_is_said_to_this_cache_goes_no_further(client: Client, origin: Origin) -> None:
    targeted = {"Cache-Control": "private", "CDN-Cache-Control": "max-age=60", "ETag": '"a"', "Surrogate-Key": "k"}
    origin.then(200, **targeted).then(304, ETag='"a"').then(200, **targeted)
    answers = [await client(), await client()]
    client.later(100)
    answers.append(await client())
    client.later(30)
    answers.append(await client())
    assert [told(fields) for _, fields, _ in answers] == [MISS, HIT, REVALIDATED, HIT]
    answers.append(await client(method="POST", body="x"))
    for _, fields, _ in answers:
        assert not {"cdn-cache-control", "surrogate-key"} & set(fields)
        assert fields["cache-control"] == "private"


async def test_a_limit_may_count_only_what_the_cache_has_not(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(upstream.port, policies="{cache: {}}", limits="{few: {limit: 2/1h, count: uncached}}")
    client = Client(served, origin.then(200, Cache_Control=FRESH))
    assert [(await client("/a"))[0] for _ in range(6)] == [200] * 6
    assert (await client("/b"))[0] == 200
    assert (await client("/c"))[0] == 429
    assert (await client("/a"))[0] == 429, "who asks is not known to hit before the limit is asked"


async def test_a_breaker_that_is_open_serves_what_is_kept(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(
        upstream.port, policies="{cache: {stale_if_error: 1h}}", max_waiting="64, breaker: {consecutive: 5}"
    )
    client = Client(served, origin.then(200, Cache_Control="max-age=60"))
    await client()
    client.later(100)
    wire = await Wire.connect(served.proxy.admin.port)
    wire.send(b"POST /breakers?name=app&state=open HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    status, _, said = await wire.answer()
    wire.close()
    assert status == 200, said
    status, fields, body = await client()
    assert (status, body) == (200, b"body 1")
    assert "stale-if-error" in fields["cache-status"]
    assert (await client("/never"))[0] == 503
    assert origin.count == 1


# found by fresh eyes: each failed before


@pytest.mark.parametrize("control", ["no-cache", "max-age=0"])
async def test_who_waited_for_what_is_not_for_him_waits_no_second_time(
    control: str, client: Client, origin: Origin
) -> None:
    """Each answer has to be validated for each client: they are led one after the other no more than once."""
    origin.then(200, Cache_Control=control, ETag='"a"')
    origin.go = asyncio.Event()
    asking = [asyncio.create_task(client()) for _ in range(12)]
    async with asyncio.timeout(3):
        while not origin.count:
            await asyncio.sleep(0.01)
        origin.go.set()
        assert [one[0] for one in await asyncio.gather(*asking)] == [200] * 12


async def test_who_waits_for_a_failing_origin_has_the_stale_answer_too(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=1, stale-if-error=600").then(503)
    await client()
    client.later(2)
    origin.go = asyncio.Event()
    asking = [asyncio.create_task(client()) for _ in range(8)]
    async with asyncio.timeout(3):
        while origin.count < 2:
            await asyncio.sleep(0.01)
        origin.go.set()
        answers = await asyncio.gather(*asking)
    assert [(one[0], one[2]) for one in answers] == [(200, b"body 1")] * 8


@pytest.mark.parametrize("parameters", ["[page]", "[]"])
async def test_a_write_forgets_whatever_else_the_first_reader_had_said(
    parameters: str, serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    client = Client(await serve(upstream.port, policies=f"{{cache: {{key: {{query: {parameters}}}}}}}"), origin)
    origin.then(200, Cache_Control=FRESH)
    await client("/a?page=1&utm=x")
    assert told((await client("/a?page=1"))[1]) == HIT
    await client("/a?page=1", method="PUT", body="x")
    assert told((await client("/a?page=1"))[1]) == MISS
    edges = client.served.proxy.shared.edges
    assert edges is not None
    assert edges.store.purge(Purge("url", "a.example/a?utm=y&page=1")) == 1


KEYS = """
identity: {api_keys: {header: x-partner-key, keys: {one: {sha256: %s}, two: {sha256: %s}}}}
"""


@pytest.mark.parametrize("unkeyed", ["pass", "strip"])
async def test_an_answer_to_a_known_key_is_shared_only_where_it_says_so(
    unkeyed: str, serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in ("key of one", "key of two"))
    served = await serve(upstream.port, policies=f"{{cache: {{unkeyed: {unkeyed}}}}}", more=KEYS % digests)
    client = Client(served, origin)
    origin.then(200, Cache_Control=FRESH)
    for key in ("key of one", "key of two", "nobody's"):
        assert told((await client(X_Partner_Key=key))[1]) == MISS
    assert b"key of one" in origin.requests[0]
    assert told((await client())[1]) == MISS
    origin.answers[:] = [(200, {"Cache-Control": "public, max-age=60"})]
    await client("/shared", X_Partner_Key="key of one")
    assert told((await client("/shared", X_Partner_Key="key of two"))[1]) == HIT


async def test_nothing_hangs_on_what_is_said_of_the_client(
    serve: Start, upstream: ScriptedUpstream, origin: Origin
) -> None:
    served = await serve(upstream.port, policies="{cache: {}}", trusted="[127.0.0.0/8]")
    client = Client(served, origin)
    origin.then(200, Cache_Control=FRESH)
    await client(X_Forwarded_For="192.0.2.7", X_Forwarded_Host="evil.example", X_Forwarded_Proto="https")
    assert b"evil" not in origin.requests[0]
    assert b"192.0.2.7" not in origin.requests[0]
    assert b"x-forwarded-proto: https" in origin.requests[0]
    assert told((await client())[1]) == MISS, "the scheme is in the key"
    assert told((await client(X_Forwarded_Proto="https"))[1]) == HIT
    origin.answers[:] = [(200, {"Cache-Control": FRESH, "Vary": "X-Forwarded-For"})]
    await client("/by-address")
    assert told((await client("/by-address"))[1]) == MISS


async def test_a_304_tells_whose_it_is_and_how_old(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=1", ETag='"a"', Date=http_date(-600), Vary="Accept")
    origin.then(
        304, Cache_Control='max-age=60, private="x-mine"', X_Mine="bob-secret", ETag='"a"', Vary="Accept-Language"
    )
    await client(Accept_Language="en")
    client.later(2)
    assert told((await client(Accept_Language="en"))[1]) == REVALIDATED
    _, fields, _ = await client(Accept_Language="en")
    assert told(fields) == HIT, "without a Date it is as old as it came"
    assert "x-mine" not in fields
    assert told((await client(Accept_Language="de"))[1]) != HIT
    origin.answers[:] = [(200, {"Cache-Control": "max-age=1", "ETag": '"a"'}), (304, {"Age": "100", "ETag": '"a"'})]
    origin.requests.clear()
    await client("/old")
    client.later(2)
    await client("/old")
    assert told((await client("/old"))[1]) != HIT


@pytest.mark.parametrize(("status", "control"), [(404, ""), (410, ""), (200, "no-store"), (200, "private"), (301, "")])
async def test_what_the_origin_has_withdrawn_is_not_served(
    status: int, control: str, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control="max-age=1, stale-if-error=600", ETag='"a"')
    origin.then(status, **({"Cache_Control": control} if control else {})).then(503)
    await client()
    client.later(2)
    assert (await client())[2] == b"body 2"
    assert (await client())[0] == 503


@pytest.mark.parametrize("status", [201, 302, 403, 500, 503])
async def test_a_validator_alone_does_not_make_every_status_one_to_keep(
    status: int, client: Client, origin: Origin
) -> None:
    origin.then(status, ETag='"a"')
    await client.twice()
    assert b"if-none-match" not in origin.requests[1].lower()


async def test_a_number_that_nobody_can_read_ends_nothing(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control=FRESH)
    await client()
    for name in ("max-age", "min-fresh", "max-stale"):
        assert (await client(Cache_Control=f"{name}={'9' * 4400}"))[0] == 200


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("?b=1", "/d/a?b=1"), ("../x", "/x"), ("./x", "/d/x"), ("/d/../x", "/x"), ("/%7Ex", "/~x"),
        ("http://a.example:80/x", "/x"), ("HTTP://A.example/x", "/x"),
    ],
)  # fmt: skip
async def test_where_a_location_leads_is_read_as_a_reference(
    location: str, path: str, client: Client, origin: Origin
) -> None:
    origin.then(200, Cache_Control=FRESH, Location=location)
    await client(path)
    await client("/d/a", method="POST", body="x")
    assert told((await client(path))[1]) == MISS


async def test_min_fresh_is_not_met_by_what_is_stale(client: Client, origin: Origin) -> None:
    origin.then(200, Cache_Control="max-age=60, stale-while-revalidate=600")
    await client()
    assert told((await client(Cache_Control="min-fresh=1000"))[1]) == MISS


async def test_several_lines_of_conditions_are_one_list_and_weak_dates_choose_no_part(
    client: Client, origin: Origin
) -> None:
    now = http_date()
    origin.then(200, Cache_Control=FRESH, ETag='"a"', Last_Modified=now, Date=now)
    await client()
    assert (await client(If_None_Match='"a"\r\nIf-None-Match: "b"'))[0] == 304
    assert (await client(Range="bytes=0-1", If_Range=now))[0] == 200
    assert (await client(Range="bytes=0-1", If_Range='"a"'))[0] == 206


async def test_a_slow_older_answer_does_not_take_a_newer_ones_place(serve: Start, upstream: ScriptedUpstream) -> None:
    """Two answers under way at once: the one whose head came first is whole last."""
    heads, slow = asyncio.Event(), asyncio.Event()

    async def origin(reader: Reader, writer: Writer) -> None:
        while True:
            head, _ = await read_request(reader)
            late = b"x-late: 1" in head.lower()
            writer.write(b"HTTP/1.1 200 X\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\n")
            if late:
                heads.set()
                await slow.wait()
            writer.write(b"older" if late else b"newer")

    upstream.script = origin
    served = await serve(upstream.port, policies=CACHE)
    client = Client(served, Origin())
    first = asyncio.create_task(client(X_Late="1", Cache_Control="no-cache"))
    await heads.wait()
    edges = served.proxy.shared.edges
    assert edges is not None
    edges.flights.clear()
    assert (await client(Cache_Control="no-cache"))[2] == b"newer"
    slow.set()
    assert (await first)[2] == b"older"
    assert (await client())[2] == b"newer"
