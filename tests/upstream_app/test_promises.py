"""Promises of the domain that break at its edges: odd input, races, states that are over, what is of others."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
from bson import ObjectId
from pymongo.errors import NetworkTimeout

from breaker import Breaker, Settings
from tests.upstream_app.conftest import Client, Role
from tests.upstream_app.test_way import DAY, a_customer, a_job
from upstream_app import seed
from upstream_app.app import DATABASE, REDIS, Stores
from upstream_app.documents import fresh
from upstream_app.events import Events
from upstream_app.jobs.planning import slot_of
from upstream_app.jobs.reminders import Reminders
from upstream_app.notifications.api import Notifier

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def me(role: Role) -> str:
    return str((await role.done("GET", "/api/auth/profile"))["id"])


# input


@pytest.mark.parametrize(
    "query",
    ["page=100000000000000000000", "page=100000000000000000000&after=" + "0" * 24, "limit=10.0", "limit=1_0", "page=-1",
     "page= 1", "limit=%2B5"],
)  # fmt: skip
async def test_odd_pages_are_refused(roles: dict[str, Role], query: str) -> None:
    for path in ("customers", "jobs", "opportunities", "estimates", "notifications", "audit"):
        role = roles["admin"] if path == "audit" else roles["manager"]
        assert (await role.ask("GET", f"/api/{path}?{query}"))[0] == 400, path


async def test_bytes_that_are_no_text_are_no_failure(opened: Client, users: dict[str, str]) -> None:
    given = {"username": "manager", "password": seed.PASSWORD}
    port = opened.server.port
    for password, status, said in ((seed.PASSWORD, b"200", b""), ("wrong", b"401", b'"requestId":"??"')):
        body = orjson.dumps(given | {"password": password})
        fields = b"".join(b"%b: \xff\xfe\r\n" % name for name in (b"User-Agent", b"X-Request-ID", b"X-Correlation-ID"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)
        )
        answered = await reader.read()
        writer.close()
        assert answered.split(b" ")[1] == status, answered
        assert said in answered
    token = {"Authorization": f"Bearer {users['manager']}"}
    answer = await opened.post("/api/customers", data=b"no gzip", headers=token | {
        "Content-Type": "application/json", "Content-Encoding": "gzip"})  # fmt: skip
    assert answer.status == 400


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("customers", {"leadScore": "50"}),
        ("customers", {"leadScore": True}),
        ("jobs", {"scheduledDate": 0}),
        ("jobs", {"scheduledDate": "0001-01-01"}),
        ("jobs", {"scheduledDate": "2026-W01-1"}),
        ("jobs", {"crewSize": "2"}),
        ("estimates", {"packing": "yes"}),
        ("estimates", {"moveDate": 1_830_297_600}),
        ("opportunities", {"moveDate": "2026-02-31"}),
    ],
)
async def test_types_are_those_of_the_document(
    roles: dict[str, Role], ada: dict[str, Any], path: str, changes: dict[str, Any]
) -> None:
    customer = await a_customer(roles, ada)
    good: dict[str, dict[str, Any]] = {
        "customers": ada | {"email": "b@example.com"},
        "jobs": {"customerId": customer["id"], "service": "local", "scheduledDate": DAY},
        "estimates": {"customerId": customer["id"], "service": "local", "moveDate": DAY, "volume": 500},
        "opportunities": {"customerId": customer["id"], "title": "Move", "expectedValue": "1E+3"},
    }
    made = await roles["manager"].done("POST", f"/api/{path}", good[path])
    assert path != "opportunities" or made["expectedValue"] == "1000.00"
    assert (await roles["manager"].ask("POST", f"/api/{path}", good[path] | changes))[0] == 400
    assert (await roles["manager"].ask("GET", "/api/jobs/by-date/2026-W01-1"))[0] == 400


async def test_if_match_may_list_versions(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    where, change = f"/api/customers/{customer['id']}", {"leadScore": 5}
    for tag, status in (('"7", "1"', 200), ('W/"2"', 412), ('"1"', 412), ('"nothing"', 412), ("*", 200)):
        assert (await roles["sales"].ask("PATCH", where, change, **{"If-Match": tag}))[0] == status, tag


# who may


async def test_nobody_is_locked_out_of_an_account_twice_over(opened: Client, users: dict[str, str]) -> None:
    async def enter(name: str, password: str) -> int:
        return (await opened.post("/api/auth/login", json={"username": name, "password": password})).status

    user = await Stores.of(opened.app[DATABASE]).users.named("sales")
    assert user is not None
    statuses = [await enter(name, "wrong") for name in ("sales", user["email"], "SALES", user["email"], "sales")]
    assert statuses == [401] * 5
    assert await enter(user["email"], seed.PASSWORD) == 429, "name and address are one account"
    token = {"Authorization": f"Bearer {users['manager']}"}
    body = {"currentPassword": "wrong", "newPassword": seed.PASSWORD + "x"}
    statuses = [(await opened.post("/api/auth/change-password", json=body, headers=token)).status for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_good_log_ins_at_once_lock_nobody_out(opened: Client, users: dict[str, str]) -> None:
    given = {"username": "sales", "password": seed.PASSWORD}
    answers = await asyncio.gather(*(opened.post("/api/auth/login", json=given) for _ in range(12)))
    assert [answer.status for answer in answers] == [200] * 12
    assert await opened.app[REDIS].keys("simplepro-app:tries:*") == []


async def test_a_log_in_under_way_does_not_outlive_a_deactivation(
    opened: Client, roles: dict[str, Role], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = Stores.of(opened.app[DATABASE])
    user = await stores.users.named("sales")
    assert user is not None
    verify = "upstream_app.auth.passwords.Passwords.verify"

    async def meanwhile(self: Any, hashed: str | None, given: str) -> bool:
        await roles["admin"].done("PATCH", f"/api/auth/users/{user['_id']}", {"active": False})
        return True

    monkeypatch.setattr(verify, meanwhile)
    answer = await opened.post("/api/auth/login", json={"username": "sales", "password": seed.PASSWORD})
    assert answer.status == 401
    assert await opened.app[REDIS].smembers(f"simplepro-app:sessions:{user['_id']}") == set()


async def test_nobody_switches_oneself_off(roles: dict[str, Role]) -> None:
    own = f"/api/auth/users/{await me(roles['super_admin'])}"
    for change in ({"active": False}, {"role": "sales"}):
        assert (await roles["super_admin"].ask("PATCH", own, change))[0] == 409
    assert (await roles["super_admin"].ask("PATCH", own, {"active": True, "firstName": "Eve"}))[0] == 200


async def test_a_crew_member_is_at_work_and_says_so(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    lead, member = await me(roles["crew_lead"]), await me(roles["crew_member"])
    here = f"/api/jobs/{job['id']}/crew"
    assert (await roles["crew_member"].ask("PATCH", f"{here}/{member}/status", {"status": "confirmed"}))[0] == 404
    await roles["dispatcher"].done("POST", here, {"members": [lead, member]})
    for role, of, state, status in (
        ("crew_member", member, "confirmed", 200), ("crew_member", lead, "confirmed", 403),
        ("crew_lead", member, "checked_in", 200), ("sales", lead, "confirmed", 403),
        ("customer_service", lead, "confirmed", 403), ("dispatcher", lead, "confirmed", 200),
    ):  # fmt: skip
        assert (await roles[role].ask("PATCH", f"{here}/{of}/status", {"status": state}))[0] == status, (role, state)
    assert (await roles["crew_member"].ask("PATCH", f"/api/jobs/{job['id']}", {"priority": "high"}))[0] == 403


async def test_help_is_called_only_to_a_job_that_one_sees(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    job = await a_job(roles, (await a_customer(roles, ada))["id"])
    call = {"text": "help", "jobId": job["id"]}
    assert (await roles["crew_member"].ask("POST", "/api/crews/emergency", call))[0] == 404
    assert (await roles["crew_member"].ask("POST", "/api/crews/emergency", {"text": "help"}))[0] == 201
    assert (await roles["dispatcher"].ask("POST", "/api/crews/emergency", call))[0] == 201


# crews


async def test_slots() -> None:
    assert slot_of({"startTime": "07:30", "hours": 2.5, "number": "J"}) == (450, 600, "J")
    assert slot_of({}).shown == "08:00-12:00"
    late = slot_of({"startTime": "20:00", "hours": 12})
    assert (late.shown, late.later(-1).shown) == ("20:00-24:00", "00:00-08:00")


async def test_nobody_is_at_two_jobs_at_once(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    jobs = [await a_job(roles, customer["id"]) for _ in range(4)]
    assigning = [roles["dispatcher"].ask("POST", f"/api/crews/auto-assign/{job['id']}") for job in jobs]
    statuses = sorted([status for status, _ in await asyncio.gather(*assigning)])
    assert statuses == [200, 409, 409, 409]
    later = await a_job(roles, customer["id"], startTime="12:00")
    assert (await roles["dispatcher"].ask("POST", f"/api/crews/auto-assign/{later['id']}"))[0] == 200
    member = await me(roles["crew_member"])
    crewed = await roles["dispatcher"].done("GET", "/api/jobs")
    free = next(job for job in crewed["jobs"] if not job["crew"])
    status, told = await roles["dispatcher"].ask("POST", f"/api/jobs/{free['id']}/crew", {"members": [member]})
    assert (status, [one["member"] for one in told["details"]["notFree"]]) == (409, [member])
    forced = {"members": [member], "force": True}
    assert (await roles["dispatcher"].ask("POST", f"/api/jobs/{free['id']}/crew", forced))[0] == 200
    moved = {"scheduledDate": DAY, "startTime": "11:00"}
    assert (await roles["manager"].ask("PATCH", f"/api/jobs/{later['id']}", moved))[0] == 409
    assert (await roles["manager"].ask("PATCH", f"/api/jobs/{later['id']}", moved | {"startTime": "13:00"}))[0] == 200
    there = await roles["dispatcher"].done("GET", f"/api/crews/availability?day={DAY}")
    assert "13:00-17:00" in {slot for one in there["members"] for slot in one["busy"]}


async def test_a_night_is_one_place_too(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    lead, after = await me(roles["crew_lead"]), (date.fromisoformat(DAY) + timedelta(days=1)).isoformat()
    night = await a_job(roles, customer["id"], startTime="20:00", hours=12)
    morning = await a_job(roles, customer["id"], scheduledDate=after, startTime="01:00")
    noon = await a_job(roles, customer["id"], scheduledDate=after, startTime="12:00")
    for job, status in ((morning, 200), (night, 409), (noon, 200)):
        path = f"/api/jobs/{job['id']}/crew"
        assert (await roles["dispatcher"].ask("POST", path, {"members": [lead]}))[0] == status
    await roles["manager"].done("PATCH", f"/api/jobs/{morning['id']}/status", {"status": "cancelled"})
    await roles["dispatcher"].done("POST", f"/api/jobs/{night['id']}/crew", {"members": [lead]})
    there = await roles["dispatcher"].done("GET", f"/api/crews/availability?day={after}")
    assert next(one["busy"] for one in there["members"] if one["member"] == lead) == ["00:00-08:00", "12:00-16:00"]
    early = {"scheduledDate": after, "startTime": "07:30", "hours": 1}
    assert (await roles["manager"].ask("PATCH", f"/api/jobs/{noon['id']}", early))[0] == 409


async def test_a_draft_takes_its_crews_time_when_it_is_scheduled(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer, lead = await a_customer(roles, ada), await me(roles["crew_lead"])
    draft = await a_job(roles, customer["id"], status="draft")
    real = await a_job(roles, customer["id"])
    for job in (draft, real):
        await roles["dispatcher"].done("POST", f"/api/jobs/{job['id']}/crew", {"members": [lead]})
    where = f"/api/jobs/{draft['id']}/status"
    assert (await roles["manager"].ask("PATCH", where, {"status": "scheduled"}))[0] == 409
    assert (await roles["manager"].ask("PATCH", where, {"status": "scheduled"}, **{"If-Match": '"1"'}))[0] == 412
    assert (await roles["manager"].ask("PATCH", where, {"status": "scheduled", "force": True}))[0] == 200
    again = {"scheduledDate": DAY, "startTime": "08:00", "description": "the same time"}
    assert (await roles["manager"].ask("PATCH", f"/api/jobs/{draft['id']}", again))[0] == 200, "nothing gets worse"
    same = await roles["dispatcher"].ask("POST", f"/api/jobs/{draft['id']}/crew", {"members": [lead]})
    assert same[0] == 200


async def test_who_is_chosen_while_others_choose_is_somebody_else(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    password = seed.PASSWORD
    for number in range(6):
        fields = {"username": f"mover{number}", "email": f"m{number}@example.com", "password": password,
                  "role": "crew_member", "firstName": "M", "lastName": "O"}  # fmt: skip
        await roles["admin"].done("POST", "/api/auth/users", fields)
    customer = await a_customer(roles, ada)
    jobs = [await a_job(roles, customer["id"]) for _ in range(3)]
    assigning = [roles["dispatcher"].ask("POST", f"/api/crews/auto-assign/{job['id']}") for job in jobs]
    told = await asyncio.gather(*assigning)
    assert [status for status, _ in told] == [200] * 3
    assert len({one["member"] for _, body in told for one in body["data"]["crew"]}) == 6


async def test_the_same_question_has_the_same_answer(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    job = await a_job(roles, (await a_customer(roles, ada))["id"], crewSize=1)
    chosen = [(await roles["dispatcher"].done("POST", f"/api/crews/auto-assign/{job['id']}"))["crew"] for _ in range(2)]
    assert chosen[0] == chosen[1], "its own crew is no load"
    await roles["admin"].done("PATCH", f"/api/auth/users/{chosen[0][0]['member']}", {"rating": 0.0})
    again = await roles["dispatcher"].done("POST", f"/api/crews/suggest/{job['id']}")
    assert again["crew"][0]["member"] != chosen[0][0]["member"]


async def test_time_off_is_ones_own_to_see_and_to_take_back(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    member, path = roles["crew_member"], "/api/crews/time-off"
    asked = await member.done("POST", path, {"first": DAY, "last": DAY})
    assert (await member.ask("POST", path, {"first": DAY, "last": DAY}))[0] == 409
    assert (await member.ask("POST", path, {"first": "2020-01-01", "last": DAY}))[0] == 400
    assert [one["id"] for one in (await member.done("GET", path))["requests"]] == [asked["id"]]
    assert (await roles["crew_lead"].done("GET", path))["count"] == 0
    assert (await roles["dispatcher"].done("GET", path))["count"] == 1
    job = await a_job(roles, (await a_customer(roles, ada))["id"])
    await roles["dispatcher"].done("POST", f"/api/jobs/{job['id']}/crew", {"members": [await me(member)]})
    decided = await roles["dispatcher"].done("PATCH", f"{path}/{asked['id']}", {"status": "approved"})
    assert decided["jobs"] == [job["number"]], "who decides sees what it touches"
    other = await a_job(roles, job["customerId"])
    refused = await roles["dispatcher"].ask("POST", f"/api/jobs/{other['id']}/crew", {"members": [await me(member)]})
    assert refused[0] == 409
    assert (await roles["crew_lead"].ask("DELETE", f"{path}/{asked['id']}"))[0] == 404
    await member.done("DELETE", f"{path}/{asked['id']}")
    assert (await member.done("GET", path))["count"] == 0


async def test_a_job_that_is_over_is_changed_no_more(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    job = await a_job(roles, (await a_customer(roles, ada))["id"])
    here, lead = f"/api/jobs/{job['id']}", await me(roles["crew_lead"])
    await roles["dispatcher"].done("POST", f"{here}/crew", {"members": [lead]})
    await roles["manager"].done("PATCH", f"{here}/status", {"status": "cancelled"})
    for path, body in (("", {"scheduledDate": DAY}), ("", {"priority": "high"}),
                       (f"/crew/{lead}/status", {"status": "checked_in"})):  # fmt: skip
        assert (await roles["manager"].ask("PATCH", here + path, body))[0] == 409, path
    done = await a_job(roles, job["customerId"])
    where = f"/api/jobs/{done['id']}"
    await roles["dispatcher"].done("POST", f"{where}/crew", {"members": [lead]})
    await roles["crew_lead"].done("PATCH", f"{where}/crew/{lead}/status", {"status": "checked_in"})
    for state in ("in_progress", "completed"):
        await roles["manager"].done("PATCH", f"{where}/status", {"status": state})
    await roles["crew_lead"].done("PATCH", f"{where}/crew/{lead}/status", {"status": "checked_out"})


async def test_the_first_jobs_of_a_year_have_numbers(opened: Client) -> None:
    database = opened.app[DATABASE]
    for _ in range(4):
        await database["counters"].delete_many({})
        numbers = await asyncio.gather(*(Stores.of(database).jobs.next_number() for _ in range(30)))
        assert sorted(int(one.rpartition("-")[2]) for one in numbers) == list(range(1, 31))


# estimates


async def accepted(roles: dict[str, Role], customer: str, **links: str) -> dict[str, Any]:
    fields = {"customerId": customer, "service": "local", "moveDate": DAY, "volume": 500, **links}
    made: dict[str, Any] = await roles["manager"].done("POST", "/api/estimates", fields)
    for state in ("sent", "accepted"):
        made = await roles["manager"].done("PATCH", f"/api/estimates/{made['id']}/status", {"status": state})
    return made


async def test_one_estimate_makes_one_job_whoever_asks_at_once(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    estimate = await accepted(roles, (await a_customer(roles, ada))["id"])
    where = f"/api/estimates/{estimate['id']}"
    assert (await roles["manager"].ask("POST", f"{where}/convert", {}, **{"If-Match": '"1"'}))[0] == 412
    asking = [roles["manager"].ask("POST", f"{where}/convert") for _ in range(6)]
    told = await asyncio.gather(*asking)
    assert sorted(status for status, _ in told) == [201] + [409] * 5
    job = next(body["data"] for status, body in told if status == 201)
    await roles["super_admin"].done("DELETE", f"/api/jobs/{job['id']}")
    assert "jobId" not in await roles["manager"].done("GET", where)
    again = await roles["manager"].done("POST", f"{where}/convert")
    drawn = [int(number.rpartition("-")[2]) for number in (job["number"], again["number"])]
    assert drawn[1] == drawn[0] + 1, "who comes too late draws none"


async def test_an_opportunity_is_won_once_and_only_while_it_can_be(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = (await a_customer(roles, ada))["id"]
    first, second, third = [
        await roles["sales"].done("POST", "/api/opportunities", {"customerId": customer, "title": "Move"})
        for _ in range(3)
    ]
    one, two = [await accepted(roles, customer, opportunityId=first["id"]) for _ in range(2)]
    await roles["manager"].done("POST", f"/api/estimates/{one['id']}/convert")
    assert (await roles["manager"].ask("POST", f"/api/estimates/{two['id']}/convert"))[0] == 409
    for opportunity, state in ((second, "cancelled"), (third, "lost")):
        estimate = await accepted(roles, customer, opportunityId=opportunity["id"])
        await roles["sales"].done("PATCH", f"/api/opportunities/{opportunity['id']}/status", {"status": state})
        assert (await roles["manager"].ask("POST", f"/api/estimates/{estimate['id']}/convert"))[0] == 409
        left = await roles["sales"].done("GET", f"/api/opportunities/{opportunity['id']}")
        assert left["status"] == state
    assert (await roles["manager"].done("GET", "/api/jobs"))["count"] == 1


async def test_an_estimate_is_revised_as_often_as_needed_and_expires(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    customer = (await a_customer(roles, ada))["id"]
    details = {"service": "local", "moveDate": DAY, "volume": 700}
    made = await roles["sales"].done("POST", "/api/estimates", details | {"customerId": customer})
    where = f"/api/estimates/{made['id']}"
    assert made["validUntil"] == (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
    await roles["sales"].done("PATCH", f"{where}/status", {"status": "sent"})
    for volume in (800, 900):
        revised = await roles["sales"].done("PATCH", where, details | {"volume": volume})
        assert revised["status"] == "revised"
    assert (await roles["sales"].ask("PATCH", f"{where}/status", {"status": "revised"}))[0] == 400
    await roles["sales"].done("PATCH", f"{where}/status", {"status": "sent"})
    stores, database = Stores.of(opened.app[DATABASE]), opened.app[DATABASE]
    over = {"$set": {"validUntil": (date.today() - timedelta(days=2)).isoformat()}}
    await stores.estimates.raw.update_one({"_id": ObjectId(made["id"])}, over)
    assert (await roles["manager"].ask("PATCH", f"{where}/status", {"status": "accepted"}))[0] == 409
    notifier = Notifier(
        database, stores.notifications, stores.users, Events(opened.app[REDIS], Breaker("test", Settings()))
    )
    assert await Reminders(stores.jobs, stores.estimates, notifier).expire() == 1
    found = await roles["sales"].done("GET", where)
    assert (found["status"], found["history"][-1]["to"]) == ("expired", "expired")
    assert (await roles["sales"].done("PATCH", where, details))["status"] == "revised"


# what is written


async def test_a_customer_of_whom_there_is_something_is_not_deleted(
    roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    where = f"/api/customers/{customer['id']}"
    status, told = await roles["super_admin"].ask("DELETE", where)
    assert (status, told["details"]) == (409, {"has": "job"})
    await roles["super_admin"].done("DELETE", f"/api/jobs/{job['id']}")
    await roles["super_admin"].done("DELETE", where)


async def test_a_write_whose_answer_is_lost_is_read_all_the_same(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await a_customer(roles, ada)
    where = f"/api/customers/{customer['id']}"
    assert (await roles["sales"].done("GET", where))["leadScore"] == 0
    change = "upstream_app.documents.Collection._change"
    real = Stores.of(opened.app[DATABASE]).customers._change.__func__  # type: ignore[attr-defined]

    async def lost(self: Any, *args: Any) -> Any:
        await real(self, *args)
        raise NetworkTimeout("the answer never came")

    with monkeypatch.context() as patched:
        patched.setattr(change, lost)
        assert (await roles["sales"].ask("PATCH", where, {"leadScore": 77}))[0] == 503
    assert (await roles["sales"].done("GET", where))["leadScore"] == 77


async def test_many_notes_at_once_are_all_there(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    job = await a_job(roles, (await a_customer(roles, ada))["id"])
    noting = [
        roles["manager"].ask("POST", f"/api/jobs/{job['id']}/notes", {"text": f"note {number}"}) for number in range(12)
    ]
    assert [status for status, _ in await asyncio.gather(*noting)] == [201] * 12


# messages


async def test_ids_sort_by_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number in range(1000):
        monkeypatch.setattr("upstream_app.documents._PROCESS", bytes((255 - number % 2, 0, 0)))
        made.append(fresh())
        await asyncio.sleep(0.00005 if number % 50 == 0 else 0)
    assert sorted(made, key=lambda one: one.binary[:6]) == made, "whichever process makes them"
    assert len(set(made)) == 1000
    assert abs(made[0].generation_time - datetime.now(UTC)) < timedelta(seconds=2)


async def test_what_is_made_is_where_it_is_said_to_be(roles: dict[str, Role]) -> None:
    opening = {"kind": "direct", "members": [await me(roles["sales"])]}
    answers = await asyncio.gather(*(roles["manager"].ask("POST", "/api/messages/threads", opening) for _ in range(6)))
    assert sorted(status for status, _ in answers) == [200] * 5 + [201]
    thread = answers[0][1]["data"]["id"]
    assert (await roles["sales"].done("GET", f"/api/messages/threads/{thread}"))["id"] == thread
    assert (await roles["crew_lead"].ask("GET", f"/api/messages/threads/{thread}"))[0] == 404
    message = await roles["sales"].done("POST", f"/api/messages/threads/{thread}/messages", {"content": "hello"})
    assert (await roles["manager"].done("GET", f"/api/messages/{message['id']}"))["content"] == "hello"
    assert (await roles["crew_lead"].ask("GET", f"/api/messages/{message['id']}"))[0] == 404
