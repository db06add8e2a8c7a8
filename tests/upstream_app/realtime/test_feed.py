"""Events through a real store: once each, in order, through its restarts, losses and lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from redis.exceptions import RedisError

from breaker import Breaker, Consecutive, OpenTime
from breaker import Settings as BreakerSettings
from stack import servers
from stack.process import ServerProcess
from upstream_app import redis, settings
from upstream_app.auth.permissions import Actor
from upstream_app.events import LASTING, Events
from upstream_app.realtime.feed import Feed, Told, place
from upstream_app.realtime.presence import LEASES, Presence
from upstream_app.redis import Client


class Store:
    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        command = servers.valkey(self.port, folder, "--appendonly", "yes", "--appendfsync", "always")
        self.process = ServerProcess(command)
        self.clients: list[Client] = []
        self.closing: list[Events | Feed | Presence] = []

    def client(self) -> Client:
        made = redis.connect(settings.read({"REDIS_URL": f"redis://127.0.0.1:{self.port}"}))
        self.clients.append(made)
        return made

    def events(self) -> Events:
        made = Events(self.client(), Breaker("redis", BreakerSettings(Consecutive(5), open_time=OpenTime(0.1, 0.2))))
        made.start()
        self.closing.append(made)
        return made

    async def feed(self) -> tuple[Feed, list[Told]]:
        heard: list[Told] = []
        made = Feed(self.client(), heard.append)
        made.start()
        self.closing.append(made)
        await until(lambda: made.ready)
        return made, heard


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.01)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path)
    await made.process.start()
    yield made
    for one in made.closing:
        await one.close()
    for client in made.clients:
        await client.aclose()
    await made.process.stop()


def numbers(heard: list[Told]) -> list[int]:
    return [int(one.text.split('"n":')[1].split("}")[0]) for one in heard]


async def test_all_readers_hear_all_in_one_order(store: Store) -> None:
    first, second = await store.feed(), await store.feed()
    writers = [store.events(), store.events()]
    for number in range(300):
        writers[number % 2].publish("x", ["job:1", "user:2"], {"n": number})
    await until(lambda: len(first[1]) == 300 and len(second[1]) == 300)
    seqs = [one.seq for one in first[1]]
    assert seqs == [one.seq for one in second[1]] == sorted(seqs, key=place)
    for parity in (0, 1):
        assert [n for n in numbers(first[1]) if n % 2 == parity] == list(range(parity, 300, 2))
    assert first[1][0].rooms == ("job:1", "user:2")


async def test_while_the_store_is_away_events_wait(store: Store) -> None:
    (feed, heard), events = await store.feed(), store.events()
    for number in range(20):
        events.publish("x", ["a"], {"n": number})
    await until(lambda: len(heard) == 20)
    await store.process.stop()
    for number in range(20, 60):
        events.publish("x", ["a"], {"n": number})
    events.publish("typing", ["a"], {"n": 99}, passing=True)
    await asyncio.sleep(0)
    await store.process.start()
    await until(lambda: len(heard) >= 60)
    assert [n for n in numbers(heard) if n != 99] == list(range(60)), "each once, in order"
    assert feed.rewound == 0


async def test_an_answer_that_was_lost_tells_nothing_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, heard), events = await store.feed(), store.events()
    asked = 0
    whole: Any = type(events._redis).eval

    async def loses(self: Client, *arguments: object) -> object:
        nonlocal asked
        asked += 1
        answer = await whole(self, *arguments)
        if asked % 2:
            raise RedisError("the answer was lost")
        return answer

    monkeypatch.setattr(type(events._redis), "eval", loses)
    for number in range(100):
        events.publish("x", ["a"], {"n": number})
        await asyncio.sleep(0)
    await until(lambda: events.published == 100)
    await until(lambda: len(heard) >= 100)
    assert numbers(heard) == list(range(100))


async def test_a_store_that_lost_its_newest_writes_is_followed(store: Store) -> None:
    """As after a failover to a replica that was behind, with a clock behind, too."""
    (feed, heard), events, client = await store.feed(), store.events(), store.client()
    events.publish("x", ["a"], {"n": 1})
    await until(lambda: len(heard) == 1)
    await client.delete(LASTING)
    await client.xadd(LASTING, {"rooms": "a", "event": '{"type":"x","data":{"n":2}}'}, id="5-1")
    await store.process.stop()
    await store.process.start()
    await until(lambda: feed.rewound == 1)
    await client.xadd(LASTING, {"rooms": "a", "event": '{"type":"x","data":{"n":3}}'}, id="6-1")
    await until(lambda: len(heard) == 2)
    assert numbers(heard) == [1, 3]


async def test_what_is_no_event_is_passed_over(store: Store) -> None:
    (_, heard), events, client = await store.feed(), store.events(), store.client()
    await client.xadd(LASTING, {"somebody": "else's"})
    events.publish("x", ["a"], {"n": 1})
    await until(lambda: len(heard) == 1)


async def test_a_killed_instance_loses_its_users(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upstream_app.realtime.presence.EVERY", 0.05)
    (_, heard), client = await store.feed(), store.client()
    killed, living = Presence(client, store.events()), Presence(client, store.events())
    living.start()
    store.closing.append(living)
    ada, bob = Actor(ObjectId(), "ada", "sales", "s"), Actor(ObjectId(), "bob", "sales", "s")
    for presence, actor in ((killed, ada), (living, ada), (killed, bob), (killed, bob)):
        await presence.enter(actor)
    assert await living.online() == sorted([str(ada.user), str(bob.user)])
    await killed.leave(bob)
    assert str(bob.user) in await living.online(), "with another socket"
    for member in [str(one) for one in await client.zrange(LEASES, 0, -1)]:
        if member.endswith(killed._instance):
            await client.zadd(LEASES, {member: 1.0})
    await until(lambda: any("userOffline" in one.text for one in heard))
    assert await living.online() == [str(ada.user)]
    offline = [one for one in heard if "userOffline" in one.text]
    assert len(offline) == 1
    assert str(bob.user) in offline[0].text
    await living.leave(ada)
    assert await living.online() == []
