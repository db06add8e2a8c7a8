"""Who is on time off, and when."""

from __future__ import annotations

from datetime import date

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel

from upstream_app.documents import Collection
from upstream_app.mongo import MAX_TIME_MS, Database

INDEXES = [
    IndexModel([("user", ASCENDING), ("_id", DESCENDING)], name="user"),
    IndexModel([("status", ASCENDING), ("to", ASCENDING)], name="until"),
]
MAX_AWAY = 2_000


class TimeOffStore(Collection):
    def __init__(self, database: Database) -> None:
        super().__init__(database, "time_off", "time-off request", INDEXES)

    async def away_on(self, day: date) -> set[ObjectId]:
        """Users whose time off was approved."""
        text = day.isoformat()
        not_over = {"status": "approved", "to": {"$gte": text}}
        found = self.raw.find(not_over, {"user": 1, "from": 1}, max_time_ms=MAX_TIME_MS).limit(MAX_AWAY)
        return {one["user"] for one in await found.to_list(MAX_AWAY) if one["from"] <= text}

    async def overlaps(self, user: ObjectId, first: date, last: date) -> bool:
        """Whether the user asked for any of these days already, and was not denied."""
        mine = {"user": user, "to": {"$gte": first.isoformat()}}
        found = await self.raw.find(mine, max_time_ms=MAX_TIME_MS).limit(MAX_AWAY).to_list(MAX_AWAY)
        return any(one["status"] != "denied" and one["from"] <= last.isoformat() for one in found)
