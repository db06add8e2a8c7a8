"""Rooms, and what becomes of clients that do not keep up."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from bson import ObjectId

from upstream_app.auth.permissions import Actor
from upstream_app.realtime.feed import Told
from upstream_app.realtime.hub import MAX_ROOMS, Hub, Socket


class Client:
    """In place of aiohttp's: reads nothing until `reading` is set."""

    def __init__(self) -> None:
        self.closed = False
        self.code = 0
        self.heard: list[str] = []
        self.reading = asyncio.Event()

    async def send_str(self, text: str) -> None:
        await self.reading.wait()
        self.heard.append(text)

    async def close(self, *, code: int, message: bytes) -> bool:
        self.closed, self.code = True, code
        return True


def socket(client: Client) -> Socket:
    return Socket(Actor(ObjectId(), "ada", "sales", "s"), cast("Any", client), 0.0)


def told(seq: int, *rooms: str) -> Told:
    return Told(f"{seq}-0", rooms, f"{seq}")


async def test_each_member_is_told_once_in_order() -> None:
    hub, clients = Hub(), [Client(), Client(), Client()]
    sockets = [socket(client) for client in clients]
    hub.add(sockets[0], ["a", "b"])
    hub.add(sockets[1], ["b"])
    hub.add(sockets[2], ["c"])
    writing = [asyncio.create_task(one.write()) for one in sockets]
    for number in range(1, 20):
        hub.deliver(told(number, "a", "b"))
    for client in clients:
        client.reading.set()
    await asyncio.gather(*(one.flushed(2) for one in sockets))
    assert [client.heard for client in clients] == [[str(n) for n in range(1, 20)]] * 2 + [[]]
    hub.remove(sockets[0])
    assert (hub.members("a"), hub.members("b"), sockets[0].rooms) == (0, 1, set())
    for task in writing:
        task.cancel()


async def test_who_does_not_keep_up_is_closed_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upstream_app.realtime.hub.SEND_SECONDS", 0.05)
    hub, stuck, flooded = Hub(), Client(), Client()
    first, second = socket(stuck), socket(flooded)
    hub.add(first, ["a"])
    writing = asyncio.create_task(first.write())
    hub.deliver(told(1, "a"))
    await asyncio.wait_for(writing, 2)
    await first.ended()
    assert stuck.code == 1013
    hub.add(second, ["b"])
    for number in range(2, 700):
        hub.deliver(told(number, "b"))
    await second.ended()
    assert flooded.code == 1013


async def test_what_happens_while_one_catches_up_comes_after_and_once() -> None:
    hub, client = Hub(), Client()
    client.reading.set()
    one = socket(client)
    one.hold()
    hub.add(one, ["a"])
    for number in range(1, 6):
        hub.deliver(told(number, "a"))
    one.deliver(Told("", ("a",), "typing"))
    one.send("missed 3")
    await one.release("3-0")
    hub.deliver(told(6, "a"))
    writing = asyncio.create_task(one.write())
    await one.flushed(2)
    assert client.heard == ["missed 3", "4", "5", "typing", "6"]
    writing.cancel()


async def test_a_socket_that_can_not_catch_up_is_closed() -> None:
    hub, client = Hub(), Client()
    one = socket(client)
    one.hold()
    hub.add(one, ["a"])
    for number in range(2_500):
        hub.deliver(told(number, "a"))
    await one.ended()
    assert client.code == 1013


async def test_rooms_are_bounded() -> None:
    hub, one = Hub(), socket(Client())
    assert [hub.join(one, f"job:{n}") for n in range(MAX_ROOMS + 1)] == [True] * MAX_ROOMS + [False]
    assert hub.join(one, "job:0"), "it is in that one"
