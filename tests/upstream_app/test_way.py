"""Lead, opportunity, estimate, job, crew, completion; by the roles that do each; and what must not happen."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from bson import ObjectId

from breaker import Breaker, Settings
from tests.upstream_app.conftest import Client, Role
from upstream_app.app import DATABASE, REDIS, Stores
from upstream_app.documents import Collection
from upstream_app.events import LASTING, Events
from upstream_app.jobs.reminders import Reminders
from upstream_app.metrics import Commands
from upstream_app.notifications.api import Notifier

pytestmark = pytest.mark.asyncio(loop_scope="session")
DAY = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()


async def a_customer(roles: Mapping[str, Any], ada: dict[str, Any], email: str = "way@example.com") -> Any:
    return await roles["sales"].done("POST", "/api/customers", ada | {"email": email})


async def a_job(roles: dict[str, Role], customer: str, **more: Any) -> Any:
    fields = {"customerId": customer, "service": "local", "scheduledDate": DAY}
    return await roles["manager"].done("POST", "/api/jobs", fields | more)


async def test_the_whole_way(opened: Client, roles: dict[str, Role], ada: dict[str, Any]) -> None:
    await the_whole_way(opened.app[REDIS], roles, ada)


async def the_whole_way(redis: Any, roles: Mapping[str, Any], ada: dict[str, Any]) -> None:
    """`roles` ask by `ask` and `done`; the application itself, or a sidecar in front of it."""
    newest = await redis.xrevrange(LASTING, count=1)
    before = newest[0][0] if newest else "0-0"
    sales, manager, dispatcher, lead = (roles[name] for name in ("sales", "manager", "dispatcher", "crew_lead"))
    customer = await a_customer(roles, ada)
    assert customer["status"] == "lead"
    opportunity = await sales.done("POST", "/api/opportunities", {"customerId": customer["id"], "title": "Move"})
    move = {
        "service": "local", "moveDate": DAY, "volume": 900, "crew": 3, "hours": 6, "piano": True,
        "pickup": {"stairs": 2}, "delivery": {"parkingFeet": 60},
    }  # fmt: skip
    links = {"customerId": customer["id"], "opportunityId": opportunity["id"]}
    calculated = await sales.done("POST", "/api/estimates/calculate", move)
    estimate = await sales.done("POST", "/api/estimates", move | links)
    assert estimate["totalPrice"] == calculated["totalPrice"]
    assert estimate["hash"] == calculated["hash"]
    assert (await sales.done("GET", f"/api/opportunities/{opportunity['id']}"))["status"] == "quoted"
    where = f"/api/estimates/{estimate['id']}"
    assert (await manager.ask("POST", f"{where}/convert"))[0] == 409
    for state in ("sent", "viewed"):
        await sales.done("PATCH", f"{where}/status", {"status": state})
    assert (await sales.ask("PATCH", f"{where}/status", {"status": "accepted"}))[0] == 403
    assert (await sales.done("GET", f"/api/customers/{customer['id']}"))["status"] != "active"
    await manager.done("PATCH", f"{where}/status", {"status": "accepted"})
    assert (await sales.ask("PATCH", f"{where}/status", {"status": "sent"}))[0] == 409
    assert (await sales.ask("POST", f"{where}/convert"))[0] == 403
    job = await manager.done("POST", f"{where}/convert", {"startTime": "07:30"})
    assert (await manager.ask("POST", f"{where}/convert"))[0] == 409
    assert job["number"].startswith(f"JOB-{datetime.now(UTC).year}-")
    assert (job["price"], job["estimateId"]) == (estimate["totalPrice"], estimate["id"])
    assert (await sales.done("GET", f"/api/opportunities/{opportunity['id']}"))["status"] == "won"
    assert (await sales.done("GET", where))["jobId"] == job["id"]
    assert (await sales.done("GET", f"/api/customers/{customer['id']}"))["status"] == "active"

    here = f"/api/jobs/{job['id']}"
    assert (await lead.ask("GET", here))[0] == 404
    suggested = await dispatcher.done("POST", f"/api/crews/suggest/{job['id']}")
    members = [one["member"] for one in suggested["crew"]]
    assert len(members) == 2
    assert (await dispatcher.ask("POST", f"{here}/crew", {"members": [customer["id"]]}))[0] == 400
    assigned = await dispatcher.done("POST", f"{here}/crew", {"members": members})
    assert [one["role"] for one in assigned["crew"]] == ["lead", "member"]
    assert (await lead.done("GET", here))["id"] == job["id"]
    me = (await lead.done("GET", "/api/auth/profile"))["id"]
    notified = await lead.done("GET", "/api/notifications?unread=true")
    assert [one["kind"] for one in notified["notifications"]] == ["job_assigned"]
    await lead.done("PATCH", f"{here}/crew/{me}/status", {"status": "checked_in"})
    assert (await lead.ask("PATCH", f"{here}/milestones/arrived", {}))[0] == 409
    started = await lead.done("PATCH", f"{here}/status", {"status": "in_progress"})
    assert started["actualStart"]
    assert (await roles["super_admin"].ask("DELETE", here))[0] == 400
    await lead.done("PATCH", f"{here}/milestones/arrived", {})
    await lead.done("POST", f"{here}/notes", {"text": "The piano is O'Brien's <b>own</b>"})
    completed = await lead.done("PATCH", f"{here}/status", {"status": "completed"})
    assert completed["actualEnd"] >= completed["actualStart"]
    assert [one["name"] for one in completed["milestones"]] == ["arrived"]
    assert (await lead.ask("PATCH", f"{here}/status", {"status": "in_progress"}))[0] == 409
    week = await dispatcher.done("GET", f"/api/jobs/calendar/week/{DAY}")
    assert job["id"] in [one["id"] for day in week["days"] for one in day["jobs"]]
    assert (await dispatcher.done("GET", f"/api/jobs/job-number/{job['number']}"))["id"] == job["id"]
    entries = (await roles["admin"].done("GET", "/api/audit?limit=100&resource=jobs"))["entries"]
    assert {one["action"] for one in entries} == {"POST", "PATCH", "DELETE"}
    kinds: list[str] = []
    async with asyncio.timeout(5):
        while "jobCompleted" not in kinds:
            told = await redis.xrange(LASTING, f"({before}")
            kinds = [orjson.loads(fields["event"])["type"] for _, fields in told]
            await asyncio.sleep(0.02)
    wanted = ["opportunityCreated", "estimateCreated", "jobCreated", "jobAssigned", "jobStatusChanged", "jobCompleted"]
    assert [kind for kind in kinds if kind in wanted] == wanted


async def test_a_failed_conversion_changes_nothing(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await a_customer(roles, ada)
    fields = {"customerId": customer["id"], "service": "local", "moveDate": DAY, "volume": 500}
    estimate = await roles["sales"].done("POST", "/api/estimates", fields)
    for state in ("sent", "accepted"):
        await roles["manager"].done("PATCH", f"/api/estimates/{estimate['id']}/status", {"status": state})
    assert (await roles["super_admin"].ask("DELETE", f"/api/customers/{customer['id']}"))[0] == 409
    await opened.app[DATABASE]["customers"].delete_one({"_id": ObjectId(customer["id"])})
    assert (await roles["manager"].ask("POST", f"/api/estimates/{estimate['id']}/convert"))[0] == 404
    assert await opened.app[DATABASE]["jobs"].count_documents({}) == 0
    assert "jobId" not in await roles["sales"].done("GET", f"/api/estimates/{estimate['id']}")


async def test_fifty_at_once_make_fifty_numbers_without_a_gap(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    made = await asyncio.gather(*(a_job(roles, customer["id"]) for _ in range(50)))
    numbers = sorted(int(job["number"].rpartition("-")[2]) for job in made)
    assert numbers == list(range(1, 51))


async def test_of_two_edits_of_one_version_one_wins(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    where, tag = f"/api/customers/{customer['id']}", {"If-Match": '"1"'}
    edits = [roles["sales"].ask("PATCH", where, {"leadScore": score}, **tag) for score in range(10)]
    statuses = sorted([status for status, _ in await asyncio.gather(*edits)])
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {409, 412}
    assert (await roles["sales"].done("GET", where))["version"] == 2


async def test_ones_own_write_is_never_read_stale(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    where, sales = f"/api/customers/{customer['id']}", roles["sales"]
    for score in range(20):
        await sales.done("GET", where)
        await sales.done("GET", "/api/customers?limit=5")
        await sales.done("PATCH", where, {"leadScore": score})
        assert (await sales.done("GET", where))["leadScore"] == score
        listed = await sales.done("GET", "/api/customers?limit=5")
        assert listed["customers"][0]["leadScore"] == score


async def test_many_estimates_at_once_for_one_opportunity_are_all_made(
    roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    customer, sales = await a_customer(roles, ada), roles["sales"]
    opportunity = await sales.done("POST", "/api/opportunities", {"customerId": customer["id"], "title": "Move"})
    fields = {
        "customerId": customer["id"], "opportunityId": opportunity["id"], "service": "local", "moveDate": DAY,
        "volume": 500,
    }  # fmt: skip
    made = await asyncio.gather(*(sales.ask("POST", "/api/estimates", fields) for _ in range(8)))
    assert [status for status, _ in made] == [201] * 8
    after = await sales.done("GET", f"/api/opportunities/{opportunity['id']}")
    assert (after["status"], after["version"]) == ("quoted", 2)


async def test_inputs_at_the_edge_are_refused_and_never_500(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    where = f"/api/customers/{customer['id']}"
    assert (await roles["sales"].ask("PATCH", where, {"leadScore": 1}, **{"If-Match": "²"}))[0] == 412
    for day in ("9999-12-31", "0001-01-01"):
        assert (await roles["dispatcher"].ask("GET", f"/api/jobs/calendar/week/{day}"))[0] in (200, 400)


async def test_sales_see_the_jobs_that_they_made(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    assert (await roles["sales"].ask("GET", f"/api/jobs/{job['id']}"))[0] == 404
    assert (await roles["sales"].done("GET", "/api/jobs"))["jobs"] == []
    assert (await roles["customer_service"].ask("GET", f"/api/jobs/{job['id']}"))[0] == 200
    fields = {"customerId": customer["id"], "service": "local", "moveDate": DAY, "volume": 500}
    own = await a_conversion(roles, fields)
    assert own["convertedBy"] == (await roles["manager"].done("GET", "/api/auth/profile"))["id"]
    assert (await roles["sales"].done("GET", f"/api/jobs/{own['id']}"))["id"] == own["id"]
    assert [one["id"] for one in (await roles["sales"].done("GET", "/api/jobs"))["jobs"]] == [own["id"]]


async def a_conversion(roles: dict[str, Role], fields: dict[str, Any]) -> Any:
    """The job of an estimate that sales made and a manager accepted."""
    estimate = await roles["sales"].done("POST", "/api/estimates", fields)
    where = f"/api/estimates/{estimate['id']}"
    await roles["sales"].done("PATCH", f"{where}/status", {"status": "sent"})
    await roles["manager"].done("PATCH", f"{where}/status", {"status": "accepted"})
    return await roles["manager"].done("POST", f"{where}/convert")


async def kinds_of(role: Role) -> list[str]:
    told = await role.done("GET", "/api/notifications?limit=100")
    return [one["kind"] for one in told["notifications"]]


async def test_each_kind_of_notification_is_sent(opened: Client, roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    opportunity = await roles["sales"].done(
        "POST", "/api/opportunities", {"customerId": customer["id"], "title": "Move"}
    )
    fields = {"customerId": customer["id"], "opportunityId": opportunity["id"], "service": "local", "moveDate": DAY,
              "volume": 500}  # fmt: skip
    job = await a_conversion(roles, fields)
    assert (await kinds_of(roles["sales"])) == ["opportunity_won", "estimate_accepted"]
    here = f"/api/jobs/{job['id']}"
    lead, member = [(await roles[one].done("GET", "/api/auth/profile"))["id"] for one in ("crew_lead", "crew_member")]
    await roles["dispatcher"].done("POST", f"{here}/crew", {"members": [lead]})
    await roles["dispatcher"].done("POST", f"{here}/crew", {"members": [lead, member]})
    await roles["dispatcher"].done("POST", f"{here}/crew", {"members": [lead]})
    assert (await kinds_of(roles["crew_member"])) == ["crew_changed", "job_assigned"]
    assert (await kinds_of(roles["crew_lead"])) == ["crew_changed", "crew_changed", "job_assigned"]
    await roles["dispatcher"].done("PATCH", f"{here}/status", {"status": "in_progress"})
    await roles["dispatcher"].done("PATCH", f"{here}/status", {"status": "completed"})
    assert (await kinds_of(roles["crew_lead"]))[:2] == ["job_completed", "job_status_changed"]
    assert (await kinds_of(roles["sales"]))[0] == "job_completed", "it was of their estimate"
    thread = await roles["sales"].done("POST", "/api/messages/threads", {"kind": "group", "members": [lead, member]})
    text = "a@crew_member.example is no mention, @crew_lead is, @nobody is nobody"
    await roles["sales"].done("POST", f"/api/messages/threads/{thread['id']}/messages", {"content": text})
    assert (await kinds_of(roles["crew_lead"]))[0] == "mention"
    assert (await kinds_of(roles["crew_member"]))[0] == "message_received"
    help_wanted = {"text": "the lift fell", "jobId": job["id"]}
    assert (await roles["crew_lead"].done("POST", "/api/crews/emergency", help_wanted))["told"] == 2
    assert (await kinds_of(roles["dispatcher"]))[0] == "emergency"
    await roles["admin"].done("POST", "/api/notifications/announce", {"text": "Down at 8", "roles": ["sales"]})
    assert (await kinds_of(roles["sales"]))[0] == "system"
    assert (await roles["admin"].ask("POST", "/api/notifications/announce", {"text": "x", "roles": ["boss"]}))[0] == 400
    other = await a_job(roles, customer["id"])
    await roles["dispatcher"].done("POST", f"/api/jobs/{other['id']}/crew", {"members": [member]})
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    await roles["manager"].done("PATCH", f"/api/jobs/{other['id']}", {"scheduledDate": tomorrow})
    database = opened.app[DATABASE]
    events = Events(opened.app[REDIS], Breaker("test", Settings()))
    stores = Stores.of(database)
    reminders = Reminders(stores.jobs, stores.estimates, Notifier(database, stores.notifications, stores.users, events))
    assert sorted(await asyncio.gather(reminders.remind(), reminders.remind())) == [0, 1], "once, whoever comes first"
    assert (await kinds_of(roles["crew_member"]))[0] == "job_reminder"


async def test_the_best_crew_is_assigned(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    suggested = await roles["dispatcher"].done("POST", f"/api/crews/suggest/{job['id']}")
    assigned = await roles["dispatcher"].done("POST", f"/api/crews/auto-assign/{job['id']}")
    assert [one["member"] for one in assigned["crew"]] == [one["member"] for one in suggested["crew"]]
    assert [one["member"] for one in assigned["job"]["crew"]] == [one["member"] for one in suggested["crew"]]
    assert assigned["job"]["crew"][0]["role"] == "lead"
    large = await a_job(roles, customer["id"], crewSize=9)
    assert (await roles["dispatcher"].ask("POST", f"/api/crews/auto-assign/{large['id']}"))[0] == 409
    assert (await roles["sales"].ask("POST", f"/api/crews/auto-assign/{job['id']}"))[0] == 403


async def test_a_job_that_begins_meanwhile_is_not_deleted(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    customer = await a_customer(roles, ada)
    for _ in range(5):
        here = f"/api/jobs/{(await a_job(roles, customer['id']))['id']}"
        begun, deleted = await asyncio.gather(
            roles["dispatcher"].ask("PATCH", f"{here}/status", {"status": "in_progress"}),
            roles["super_admin"].ask("DELETE", here),
        )
        after = (await roles["dispatcher"].ask("GET", here))[0]
        assert (begun[0], deleted[0], after) in {(200, 400, 200), (404, 200, 404), (409, 200, 404), (200, 409, 200)}


async def test_what_would_grow_too_large_is_refused(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any]
) -> None:
    customer = await a_customer(roles, ada)
    database = opened.app[DATABASE]
    large = {"$set": {"contacts": [{"note": "x" * 1024} for _ in range(5 * 1024)]}}
    await database["customers"].update_one({"_id": ObjectId(customer["id"])}, large)
    status, told = await roles["sales"].ask("PATCH", f"/api/customers/{customer['id']}", {"leadScore": 1})
    assert (status, "at most 5242880 are kept" in told["message"]) == (413, True)


async def test_an_estimate_is_not_kept_where_its_opportunity_can_not_follow(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    customer, sales = await a_customer(roles, ada), roles["sales"]
    opportunity = await sales.done("POST", "/api/opportunities", {"customerId": customer["id"], "title": "Move"})

    async def fails(*_: object) -> Any:
        raise RuntimeError("between the two writes")

    fields = {"customerId": customer["id"], "opportunityId": opportunity["id"], "service": "local", "moveDate": DAY,
              "volume": 500}  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(Collection, "insert", fails)
        assert (await sales.ask("POST", "/api/estimates", fields))[0] == 500
    assert (await sales.done("GET", f"/api/opportunities/{opportunity['id']}"))["status"] == "open"
    assert await opened.app[DATABASE]["estimates"].count_documents({}) == 0


async def test_an_answer_that_one_has_already_is_not_sent_again(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    for path in (f"/api/customers/{customer['id']}", "/api/customers", "/api/jobs", "/api/estimates"):
        first = await roles["manager"].raw("GET", path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        again = await roles["manager"].raw("GET", path, **{"If-None-Match": first.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        other = await roles["manager"].raw("GET", path, **{"If-None-Match": '"other"'})
        assert other.status == 200
    await roles["sales"].done("PATCH", f"/api/customers/{customer['id']}", {"leadScore": 7})
    changed = await roles["manager"].raw("GET", "/api/customers", **{"If-None-Match": first.headers["ETag"]})
    assert changed.status == 200


async def test_nobody_gets_anothers_list(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    """Lists are kept by how far one reaches."""
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    for _ in range(2):
        for role, seen in (("manager", 1), ("crew_lead", 0), ("sales", 0), ("dispatcher", 1), ("crew_member", 0)):
            assert (await roles[role].done("GET", "/api/jobs"))["count"] == seen
            assert (await roles[role].ask("GET", f"/api/jobs/{job['id']}"))[0] == (200 if seen else 404)
    me = (await roles["crew_lead"].done("GET", "/api/auth/profile"))["id"]
    await roles["dispatcher"].done("POST", f"/api/jobs/{job['id']}/crew", {"members": [me]})
    assert (await roles["crew_lead"].done("GET", "/api/jobs"))["count"] == 1
    assert (await roles["crew_lead"].ask("GET", f"/api/jobs/{job['id']}"))[0] == 200


async def test_slow_queries_are_told_to_who_may_see_the_system(
    roles: dict[str, Role], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upstream_app.metrics.SLOW_QUERY_SECONDS", 0.0)
    await roles["manager"].done("GET", "/api/customers?status=lead")
    told = await roles["admin"].done("GET", "/api/system/slow-queries")
    (row,) = [one for one in told["queries"] if one["command"] == "find" and one["shape"] == "customers(status)"]
    assert (row["count"], row["longestMs"] > 0) == (1, True)
    assert (await roles["manager"].ask("GET", "/api/system/slow-queries"))[0] == 403


async def test_time_off_keeps_one_out_of_a_crew(roles: dict[str, Role], ada: dict[str, Any]) -> None:
    customer = await a_customer(roles, ada)
    job = await a_job(roles, customer["id"])
    asked = await roles["crew_member"].done("POST", "/api/crews/time-off", {"first": DAY, "last": DAY})
    before = await roles["dispatcher"].done("POST", f"/api/crews/suggest/{job['id']}")
    await roles["dispatcher"].done("PATCH", f"/api/crews/time-off/{asked['id']}", {"status": "approved"})
    after = await roles["dispatcher"].done("POST", f"/api/crews/suggest/{job['id']}")
    assert (len(before["crew"]), len(after["crew"]), after["complete"]) == (2, 1, False)
    there = await roles["dispatcher"].done("GET", f"/api/crews/availability?day={DAY}")
    assert [one["available"] for one in there["members"]].count(False) == 1
    told = await roles["crew_member"].done("GET", "/api/notifications")
    assert told["notifications"][0]["kind"] == "time_off_decided"


async def test_messages_are_their_members(roles: dict[str, Role]) -> None:
    lead = (await roles["crew_lead"].done("GET", "/api/auth/profile"))["id"]
    thread = await roles["dispatcher"].done("POST", "/api/messages/threads", {"kind": "direct", "members": [lead]})
    again = await roles["dispatcher"].done("POST", "/api/messages/threads", {"kind": "direct", "members": [lead]})
    assert again["id"] == thread["id"]
    where = f"/api/messages/threads/{thread['id']}"
    for number in range(7):
        await roles["dispatcher"].done("POST", f"{where}/messages", {"content": f"number {number}"})
    page = await roles["crew_lead"].done("GET", f"{where}/messages?limit=5")
    assert [one["content"] for one in page["messages"]] == [f"number {n}" for n in (6, 5, 4, 3, 2)]
    rest = await roles["crew_lead"].done("GET", f"{where}/messages?limit=5&after={page['pagination']['next']}")
    assert [one["content"] for one in rest["messages"]] == ["number 1", "number 0"]
    assert (await roles["sales"].ask("GET", f"{where}/messages"))[0] == 404
    assert (await roles["sales"].ask("POST", f"{where}/messages", {"content": "x"}))[0] == 404
    message = page["messages"][0]["id"]
    assert (await roles["crew_lead"].ask("PATCH", f"/api/messages/{message}", {"content": "x"}))[0] == 404
    await roles["dispatcher"].done("PATCH", f"/api/messages/{message}", {"content": "changed"})
    await roles["dispatcher"].done("DELETE", f"/api/messages/{message}")
    page = await roles["crew_lead"].done("GET", f"{where}/messages?limit=1")
    assert (page["messages"][0]["removed"], page["messages"][0]["content"]) == (True, "")
    await roles["crew_lead"].done("POST", f"{where}/read")
    found = await roles["dispatcher"].done("GET", "/api/messages/threads")
    assert list(found["threads"][0]["readUpTo"]) == [lead]
    assert (await roles["dispatcher"].ask("POST", f"{where}/messages", {"content": "x" * 5001}))[0] == 400


async def test_what_one_does_not_want_is_not_told(roles: dict[str, Role]) -> None:
    lead = (await roles["crew_lead"].done("GET", "/api/auth/profile"))["id"]
    await roles["crew_lead"].done("PATCH", "/api/notifications/preferences", {"muted": ["message_received"]})
    thread = await roles["sales"].done("POST", "/api/messages/threads", {"kind": "direct", "members": [lead]})
    await roles["sales"].done("POST", f"/api/messages/threads/{thread['id']}/messages", {"content": "hello"})
    assert (await roles["crew_lead"].done("GET", "/api/notifications"))["notifications"] == []


LISTS = [
    ("manager", "/api/customers?status=lead"), ("manager", "/api/customers?type=residential"),
    ("manager", "/api/customers?source=website"), ("manager", "/api/customers/search?search=ada"),
    ("manager", "/api/opportunities?status=open"), ("manager", "/api/opportunities?customerId=ID"),
    ("manager", "/api/estimates?status=draft"), ("manager", "/api/estimates?customerId=ID"),
    ("manager", "/api/estimates?opportunityId=ID"), ("manager", "/api/jobs?status=scheduled"),
    ("manager", "/api/jobs?service=local"), ("manager", f"/api/jobs/by-date/{DAY}"),
    ("manager", "/api/jobs/customer/ID"), ("manager", "/api/jobs/crew/ID"),
    ("manager", f"/api/jobs/calendar/week/{DAY}"), ("sales", "/api/jobs"), ("crew_lead", "/api/jobs"),
    ("crew_lead", "/api/notifications?unread=true"), ("crew_lead", "/api/messages/threads"),
    ("manager", "/api/audit?resource=jobs"), ("manager", "/api/audit?user=ID"), ("dispatcher", "/api/crews"),
    ("manager", f"/api/crews/availability?day={DAY}"), ("admin", "/api/auth/users?role=sales"),
]  # fmt: skip


async def test_every_list_query_runs_over_an_index(
    opened: Client, roles: dict[str, Role], ada: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `find` that the endpoints really send is explained."""
    customer = await a_customer(roles, ada)
    await a_job(roles, customer["id"])
    sent: list[dict[str, Any]] = []
    heard = Commands.started

    def listen(self: Commands, event: Any) -> None:
        if event.command_name == "find":
            sent.append(dict(event.command))
        heard(self, event)

    monkeypatch.setattr(Commands, "started", listen)
    for role, path in LISTS:
        status, told = await roles[role].ask("GET", path.replace("ID", customer["id"]))
        assert status == 200, (path, told)
    database = opened.app[DATABASE]
    looked = set()
    for command in sent:
        which = command.get("filter") or {}
        if command["find"] in ("migrations", "preferences") or not which:
            continue
        cursor = database[command["find"]].find(which)
        if command.get("sort"):
            cursor = cursor.sort(list(command["sort"].items()))
        plan = (await cursor.limit(20).explain())["queryPlanner"]["winningPlan"]
        assert "COLLSCAN" not in str(plan), (command["find"], which, plan)
        looked.add((command["find"], *which))
    assert len(looked) >= 15, looked
