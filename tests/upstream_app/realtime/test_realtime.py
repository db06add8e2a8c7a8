"""Rooms and who may be in them, what is told to whom, over two instances."""

from __future__ import annotations

import asyncio

import pytest
from bson import ObjectId

from tests.upstream_app.conftest import Role
from tests.upstream_app.realtime.conftest import Pair, Talk
from upstream_app.app import DATABASE, REDIS
from upstream_app.events import LASTING

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = "0123456789abcdef01234567"


def as_role(pair: Pair, tokens: dict[str, str], role: str, instance: int = 0) -> Role:
    return Role(pair[instance], tokens[role])


async def user_id(pair: Pair, role: str) -> str:
    found = await pair[0].app[DATABASE]["users"].find_one({"usernameKey": role})
    assert found is not None
    return str(found["_id"])


async def a_job(pair: Pair, tokens: dict[str, str], crew: list[str]) -> str:
    """Its id; `crew` are user names, of which the first leads."""
    manager = as_role(pair, tokens, "manager")
    customer = {
        "firstName": "A", "lastName": "B", "email": f"{ObjectId()}@example.com", "phone": "+1 555 0100",
    }  # fmt: skip
    made = await manager.done("POST", "/api/customers", customer)
    job = await manager.done(
        "POST", "/api/jobs", {"customerId": made["id"], "service": "local", "scheduledDate": "2030-06-03"}
    )
    if crew:
        members = [await user_id(pair, one) for one in crew]
        await manager.done("POST", f"/api/jobs/{job['id']}/crew", {"members": members, "lead": members[0]})
    return str(job["id"])


@pytest.mark.parametrize("query", [{}, {"access_token": "nonsense"}], ids=["none", "bad"])
async def test_nobody_without_a_token_comes_in(pair: Pair, query: dict[str, str]) -> None:
    answer = await pair[0].get("/realtime", params=query, headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert answer.status == 401


async def test_what_is_no_handshake_is_told_so(pair: Pair, tokens: dict[str, str]) -> None:
    answer = await pair[0].get("/realtime", params={"access_token": tokens["sales"]})
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    for bad in ({"resume": "yesterday"}, {"rooms": ",".join(f"job:{n}" for n in range(60))}):
        answer = await pair[0].get("/realtime", params={"access_token": tokens["sales"], **bad})
        assert answer.status == 400


async def test_jobs_are_followed_by_those_who_may_see_them(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    job = await a_job(pair, tokens, ["crew_lead"])
    lead, member, service = await talk("crew_lead"), await talk("crew_member", 1), await talk("customer_service", 1)
    admin = await talk("admin")
    assert await lead.done("subscribeToJob", jobId=job) == {"room": f"job:{job}"}
    assert await service.done("subscribeToJob", jobId=job)
    assert await member.refused("subscribeToJob", jobId=job) == 404, "it is another crew's"
    assert await admin.refused("subscribeToJob", jobId=job) == 403, "the role has no jobs:read"
    assert await lead.refused("subscribeToJob", jobId=NOBODY) == 404
    assert await lead.refused("subscribeToJob", jobId="x") == 400
    await as_role(pair, tokens, "manager", 1).done("PATCH", f"/api/jobs/{job}/status", {"status": "confirmed"})
    for one in (lead, service):
        told = await one.until("jobStatusChanged")
        assert (told["data"]["jobId"], told["data"]["status"]) == (job, "confirmed")
        assert "jobStatusChanged" not in await one.silent(), "once, though one is in three of its rooms"
    assert "jobStatusChanged" not in await member.silent()
    await service.done("unsubscribeFromJob", jobId=job)
    await as_role(pair, tokens, "manager").done("POST", f"/api/jobs/{job}/notes", {"text": "x"})
    assert await lead.until("jobUpdate")
    assert "jobUpdate" not in await service.silent()


async def test_a_crew_tells_where_it_is(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    job = await a_job(pair, tokens, ["crew_lead"])
    lead, member = await talk("crew_lead"), await talk("crew_member")
    dispatcher, service = await talk("dispatcher", 1), await talk("customer_service", 1)
    await service.done("subscribeToJob", jobId=job)
    await lead.done("locationUpdate", latitude=59.27, longitude=15.2, jobId=job)
    assert (await dispatcher.until("crewLocationUpdate"))["data"]["latitude"] == 59.27
    assert (await service.until("jobLocationUpdate"))["data"]["jobId"] == job
    assert await member.refused("locationUpdate", latitude=1, longitude=1, jobId=job) == 404
    assert await service.refused("locationUpdate", latitude=1, longitude=1) == 403
    assert await lead.refused("locationUpdate", latitude=91, longitude=1) == 400
    await lead.done("statusUpdate", status="break")
    assert (await member.until("teamStatusUpdate"))["data"]["status"] == "break"
    assert (await dispatcher.until("crewStatusUpdate"))["data"]["user"] == await user_id(pair, "crew_lead")
    assert await lead.refused("statusUpdate", status="asleep") == 400


async def test_a_thread_is_its_members(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    sales = as_role(pair, tokens, "sales")
    other = await user_id(pair, "manager")
    thread = (await sales.done("POST", "/api/messages/threads", {"kind": "direct", "members": [other]}))["id"]
    writer, reader, stranger = await talk("sales"), await talk("manager", 1), await talk("dispatcher", 1)
    assert await stranger.refused("thread.subscribe", threadId=thread) == 404
    assert await stranger.refused("message.send", threadId=thread, content="x") == 404
    assert await stranger.refused("typing.start", threadId=thread) == 404
    await reader.done("thread.subscribe", threadId=thread)
    await writer.done("thread.subscribe", threadId=thread)
    await writer.done("typing.start", threadId=thread)
    assert (await reader.until("user.typing"))["data"]["threadId"] == thread
    assert (await reader.until("user.stopped_typing"))["data"]["threadId"] == thread, "by itself"
    sent = await writer.done("message.send", threadId=thread, content="Hello")
    assert (await reader.until("message.created"))["data"]["content"] == "Hello"
    assert (await reader.until("notification.created"))["data"]["kind"] == "message_received"
    await reader.done("message.read", threadId=thread)
    assert (await writer.until("message.read_receipt"))["data"]["user"] == other
    assert await reader.refused("message.edit", messageId=sent["id"], content="Mine") == 404, "not the reader's"
    await writer.done("message.edit", messageId=sent["id"], content="Hello!")
    assert (await reader.until("message.edited"))["data"]["content"] == "Hello!"
    await writer.done("message.delete", messageId=sent["id"])
    assert (await reader.until("message.deleted"))["data"]["messageId"] == sent["id"]
    assert await writer.refused("message.send", threadId=thread, content="x" * 5_001) == 400
    _, found = await as_role(pair, tokens, "super_admin").ask("GET", "/api/audit")
    assert {"message.send", "message.edit", "message.delete"} <= {one["action"] for one in found["entries"]}


async def test_messages_that_pass(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    job = await a_job(pair, tokens, ["crew_lead"])
    manager, lead, member = await talk("manager"), await talk("crew_lead", 1), await talk("crew_member", 1)
    sales = await talk("sales", 1)
    await manager.done("sendMessage", to="job", id=job, content="Mind the piano")
    assert (await lead.until("newMessage"))["data"]["content"] == "Mind the piano"
    await manager.done("sendMessage", to="crew", content="Rain at noon")
    for one in (lead, member):
        assert (await one.until("newMessage"))["data"]["content"] == "Rain at noon"
    await manager.done("sendMessage", to="crew", id=await user_id(pair, "crew_member"), content="You")
    assert (await member.until("newMessage"))["data"]["content"] == "You"
    await sales.done("sendMessage", to="user", id=await user_id(pair, "manager"), content="Won!")
    assert (await manager.until("newMessage"))["data"]["content"] == "Won!"
    assert await sales.refused("sendMessage", to="user", id=NOBODY, content="x") == 404
    assert await sales.refused("sendMessage", to="user", content="x") == 400
    assert await sales.refused("sendMessage", to="crew", content="x") == 403
    assert await sales.refused("sendMessage", to="broadcast", content="x") == 403
    await manager.done("sendMessage", to="broadcast", content="Fire drill")
    assert (await sales.until("broadcast"))["data"]["content"] == "Fire drill"
    assert "newMessage" not in await sales.silent()


async def test_help_is_heard(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    member, dispatcher, sales = await talk("crew_member"), await talk("dispatcher", 1), await talk("sales", 1)
    assert (await member.done("emergencyAlert", text="Truck on fire"))["told"] >= 2
    assert (await dispatcher.until("emergencyAlert"))["data"]["text"] == "Truck on fire"
    assert (await dispatcher.until("notification.created"))["data"]["kind"] == "emergency"
    assert "emergencyAlert" not in await sales.silent()


async def test_who_is_there(pair: Pair, talk: Talk) -> None:
    dispatcher = await talk("dispatcher")
    assert dispatcher.welcome["online"] == [await user_id(pair, "dispatcher")]
    sales = await user_id(pair, "sales")
    first = await talk("sales", 1)
    await dispatcher.until("userOnline")
    assert (await dispatcher.until("userOnline"))["data"] == {"user": sales, "username": "sales"}
    assert "online" not in first.welcome, "who does not lead is not told"
    second = await talk("sales", 1)
    await first.close()
    assert "userOffline" not in await dispatcher.silent()
    await second.close()
    assert (await dispatcher.until("userOffline"))["data"]["user"] == sales


async def test_statistics_are_for_those_who_see_reports(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    manager, other, sales = await talk("manager"), await talk("admin", 1), await talk("sales")
    assert await sales.refused("subscribeToAnalytics") == 403
    await manager.done("subscribeToAnalytics")
    await other.done("subscribeToAnalytics")
    for one in (manager, other):
        assert (await one.until("analyticsUpdate"))["data"]["online"] == 3, "from one instance to the other"
    await manager.done("unsubscribeFromAnalytics")


async def test_what_a_client_says_wrong(talk: Talk) -> None:
    talker = await talk("sales")
    for text in ("no JSON", "[]", "{}", '{"type":1}', '{"type":"typing.start","ref":{}}', '{"type":"x","data":[]}'):
        await talker.ws.send_str(text)
        assert (await talker.until("error"))["data"]["status"] == 400
    await talker.ws.send_bytes(b"x")
    assert "text" in (await talker.until("error"))["data"]["message"]
    told = await talker.ask("thread.subscribe", threadId=NOBODY, more=1)
    assert told["data"]["validation"] == [{"field": "more", "message": "unknown field"}]
    await talker.ws.send_str("x" * 70_000)
    assert await talker.closed() == 1009


async def test_a_session_that_ends_closes_its_sockets(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    here, there, other = await talk("sales"), await talk("sales", 1), await talk("manager", 1)
    await as_role(pair, tokens, "sales").done("POST", "/api/auth/logout")
    assert await here.closed() == 4401
    assert await there.closed() == 4401
    assert await other.silent() is not None


async def test_rooms_that_are_ones_own_no_more_are_left(
    pair: Pair, tokens: dict[str, str], talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upstream_app.realtime.api.RECHECK_EVERY", 0.05)
    job = await a_job(pair, tokens, ["crew_lead"])
    lead = await talk("crew_lead", 1)
    await lead.done("subscribeToJob", jobId=job)
    members = [await user_id(pair, "crew_member")]
    await as_role(pair, tokens, "manager").done(
        "POST", f"/api/jobs/{job}/crew", {"members": members, "lead": members[0]}
    )
    assert (await lead.until("unsubscribed"))["data"] == {"room": f"job:{job}"}


async def test_what_was_missed_is_told_from_either_instance(pair: Pair, tokens: dict[str, str], talk: Talk) -> None:
    job = await a_job(pair, tokens, ["crew_lead"])
    manager = as_role(pair, tokens, "manager")
    lead = await talk("crew_lead")
    await lead.done("subscribeToJob", jobId=job)
    await manager.done("POST", f"/api/jobs/{job}/notes", {"text": "0"})
    last = (await lead.until("jobUpdate"))["seq"]
    await lead.close()
    for text in ("1", "2", "3"):
        await manager.done("POST", f"/api/jobs/{job}/notes", {"text": text})
    other = await talk("sales")
    await manager.done("POST", "/api/messages/threads", {"kind": "direct", "members": [await user_id(pair, "sales")]})
    back = await talk("crew_lead", 1, resume=last, rooms=f"job:{job},job:{NOBODY}")
    replayed = [one for one in back.heard if "seq" in one]
    assert [one["type"] for one in replayed] == ["jobUpdate"] * 3
    assert back.welcome["replayed"] == 3
    assert (back.welcome["resumed"], back.welcome["lost"]) == (False, [f"job:{NOBODY}"])
    again = await talk("crew_lead", 0, resume=back.welcome["seq"], rooms=f"job:{job}")
    assert (again.welcome["resumed"], again.welcome["replayed"]) == (True, 0)
    assert again.welcome["seq"] == back.welcome["seq"]
    ancient = await talk("crew_lead", 0, resume="5-0")
    assert ancient.welcome["resumed"] is True, "nothing was ever trimmed here"
    assert other.welcome["rooms"]


async def test_what_is_no_more_known_is_told(pair: Pair, talk: Talk) -> None:
    manager = await talk("manager")
    for text in ("1", "2", "3"):
        await manager.done("sendMessage", to="broadcast", content=text)
    seqs = [one["seq"] for one in await manager.heard_of("broadcast", 3)]
    await pair[0].app[REDIS].xtrim(LASTING, maxlen=1, approximate=False)
    back = await talk("manager", 1, resume=seqs[0])
    assert back.welcome["resumed"] is False
    assert (await talk("manager", 1, resume=seqs[-1])).welcome["resumed"] is True
    assert (await talk("manager", 1, resume="99999999999999-0")).welcome["resumed"] is False


async def test_a_restart_is_told(pair: Pair, talk: Talk) -> None:
    talkers = [await talk("manager", 1), await talk("sales", 1)]
    closing = asyncio.ensure_future(pair[1].server.close())
    for one in talkers:
        assert (await one.until("serverShutdown"))["data"]["reconnectInMs"] > 0
        assert await one.closed() == 1012
    await closing
