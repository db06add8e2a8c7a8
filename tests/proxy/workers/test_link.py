"""A worker's link to a parent that answers late."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

from proxy.throttle.charge import Charge, Decision, Quota, Strategy
from proxy.workers.counts import memory
from proxy.workers.frames import Channel
from proxy.workers.link import Link, Worker


async def test_what_the_parent_holds_after_the_share_refused_is_given_back(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    parent = Channel(heard.put_nowait, lambda: None)
    await asyncio.get_running_loop().create_connection(lambda: parent, sock=ours)
    link = Link(Worker(0, 2, 1, theirs.detach(), memory(2), 0, 2, "", str(tmp_path / "policy"), {}), lambda: None)
    await link.start()
    charge = Charge(Quota("at-once", Strategy.CONCURRENT, 2, 0), "1" * 24)
    decisions: asyncio.Queue[Decision] = asyncio.Queue()
    asked = []
    for reservation in ("a", "b"):
        link.decide([charge], reservation, decisions.put_nowait)
        kind, number, *_ = await heard.get()
        assert kind == "decide"
        asked.append(number)
    async with asyncio.timeout(5):
        alone = [await decisions.get() for _ in asked]
    assert [one.admitted for one in alone] == [True, False], "two workers, two at once: one each"
    for number in asked:
        parent.send("decided", number, True, [(True, 2, 0, 0)])
    async with asyncio.timeout(5):
        kind, rows, reservation = await heard.get()
    assert (kind, reservation, [taken for _, taken in rows]) == ("settle", "b", [0])
    await link.close()
    parent.close()
    assert heard.empty()


async def test_what_was_said_last_arrives_whole_however_long(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    heard: list[tuple[Any, ...]] = []
    ended = asyncio.Event()
    parent = Channel(heard.append, ended.set)
    await asyncio.get_running_loop().create_connection(lambda: parent, sock=ours)
    link = Link(Worker(0, 1, 1, theirs.detach(), memory(1), 0, 1, "", str(tmp_path / "policy"), {}), lambda: None)
    await link.start()
    link.last("x" * 5_000_000)
    await link.close()
    async with asyncio.timeout(5):
        await ended.wait()
    assert [(kind, len(page)) for kind, page in heard] == [("last", 5_000_000)]
