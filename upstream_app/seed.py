"""Something to look at: 200 customers and what belongs to them, and one user a role. Never in production."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId

from upstream_app.auth.passwords import Passwords
from upstream_app.auth.permissions import ROLES
from upstream_app.auth.store import UserStore
from upstream_app.customers.store import CustomerStore
from upstream_app.documents import Collection, Duplicate
from upstream_app.estimates.api import priced
from upstream_app.estimates.model import MoveDetails, valid_until
from upstream_app.jobs.store import JobStore

PASSWORD = "SimplePro1!"  # noqa: S105  # everybody's, for evaluation; the README says it
CUSTOMERS = 200
FIRST = ("Ada", "Alan", "Grace", "Edsger", "Barbara", "Donald", "Radia", "Tim", "Karen", "Leslie", "Frances", "Ken")
LAST = ("Lovelace", "Turing", "Hopper", "Dijkstra", "Liskov", "Knuth", "Perlman", "Lee", "O'Brien", "Lamport", "Allen")
CITIES = (("Springfield", "IL"), ("Portland", "OR"), ("Austin", "TX"), ("Boston", "MA"), ("Denver", "CO"))
SKILLS = ("piano", "packing", "driving", "assembly")


async def users(store: UserStore, passwords: Passwords) -> list[str]:
    """One a role, called as the role is; those that are there already stay as they are."""
    hashed, made = await passwords.hash(PASSWORD), []
    for number, role in enumerate(ROLES):
        fields: dict[str, Any] = {
            "username": role, "email": f"{role}@simplepro.example", "password": hashed, "role": role,
            "firstName": FIRST[number], "lastName": LAST[number], "active": True,
            "skills": list(SKILLS[: 2 + number % 3]) if role.startswith("crew") else [],
        }  # fmt: skip
        try:
            await store.insert(fields)
        except Duplicate:
            continue
        made.append(role)
    return made


async def everything(
    customers: CustomerStore, opportunities: Collection, estimates: Collection, jobs: JobStore, users: UserStore
) -> int:
    """The same each time; how many customers were made. Nothing where there are customers already."""
    if await customers.raw.find_one({}, {"_id": 1}):
        return 0
    chance = random.Random(200)  # noqa: S311  # the same data each time, no secrets
    sales = await users.named("sales")
    author: ObjectId = sales["_id"] if sales else ObjectId()
    today = datetime.now(UTC).date()
    for number in range(CUSTOMERS):
        city, state = chance.choice(CITIES)
        customer = await customers.insert(
            {
                "firstName": chance.choice(FIRST), "lastName": chance.choice(LAST),
                "email": f"customer{number}@example.com", "phone": f"+1 555 {number:04d} 00",
                "address": {"street": f"{number} Main", "city": city, "state": state, "zipCode": str(10_000 + number)},
                "type": chance.choice(("residential", "commercial")),
                "status": chance.choice(("lead", "prospect", "active", "inactive")),
                "source": chance.choice(("website", "referral", "advertising", "partner", "other")),
                "leadScore": chance.randrange(101), "createdBy": author,
            }
        )  # fmt: skip
        if number % 2:
            continue
        link = ObjectId(customer["id"])
        opportunity = await opportunities.insert(
            {
                "customerId": link, "title": f"Move to {chance.choice(CITIES)[0]}", "service": "local",
                "status": chance.choice(("open", "contacted", "quoted")), "expectedValue": "900.00",
                "expectedCents": 90_000, "notes": "", "createdBy": author, "history": [],
            }
        )  # fmt: skip
        when = today + timedelta(days=chance.randrange(1, 60))
        details = MoveDetails.model_validate(
            {
                "service": "local",
                "moveDate": when,
                "volume": chance.randrange(300, 2000),
                "crew": chance.randrange(2, 5),
            }
        )
        await estimates.insert(
            {
                "customerId": link, "opportunityId": ObjectId(opportunity["id"]), "notes": "",
                "details": details.model_dump(mode="json"), **priced(details), "status": "draft",
                "createdBy": author, "history": [], "validUntil": valid_until(),
            }
        )  # fmt: skip
        if number % 4 == 0:
            fields = {
                "customerId": link, "service": "local", "scheduledDate": when.isoformat(), "startTime": "08:00",
                "hours": 4.0, "crewSize": 2, "requiredSkills": [], "description": "",
            }  # fmt: skip
            await jobs.create(fields, author)
    return CUSTOMERS
