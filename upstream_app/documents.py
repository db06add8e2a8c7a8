"""One MongoDB collection of versioned documents: what every part of the domain does with its own.

A change is made to the version that was read, and to no other (by `_id` and `version`, and what that matched).
Lists sort by `_id`, newest first, over an index; nothing that a client wrote is ever an operator.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import bson
import structlog
from bson import ObjectId
from pymongo import DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError
from pymongo.read_preferences import SecondaryPreferred

from upstream_app.mongo import MAX_TIME_MS, Database, Document
from upstream_app.web.lists import Page

log = structlog.get_logger("simplepro.documents")
MAX_COUNT = 10_000
"""Counting stops here: a total beyond it is of no use to a reader and costs the database a walk."""
BATCH = 500
MAX_TRIES = 8
PAUSE_SECONDS = 0.01
"""Before an edit is made again, twice as long each time, with jitter."""
MAX_DOCUMENT, WARN_SHARE = 5 * 1024 * 1024, 0.7
"""Bytes of one document, of the report; what comes near is told in the log."""
Edit = Callable[[Document], Document]
Done = TypeVar("Done")
Session = AsyncClientSession | None
Versions = frozenset[int] | None
"""Which a client expects to change; None for whatever is there."""


class NotFound(Exception):
    """There is no such document, or none that the asker may see."""

    def __init__(self, noun: str) -> None:
        super().__init__(f"There is no such {noun}")


class Duplicate(Exception):
    """Another document has that value in a field that is unique."""

    def __init__(self, noun: str, field: str) -> None:
        super().__init__(f"Another {noun} has this {field}")
        self.field = field


class Conflict(Exception):
    """The document has changed since the version that was read. `expected` where the client had named it."""

    def __init__(self, noun: str, *, expected: bool) -> None:
        super().__init__(f"The {noun} has changed meanwhile; read it again")
        self.expected = expected


class TooLarge(Exception):
    """The document would be larger than any may be."""

    def __init__(self, noun: str, size: int) -> None:
        super().__init__(f"This {noun} would have {size} bytes; at most {MAX_DOCUMENT} are kept of one")


class Collection:
    """`unique` maps an index's name to the field that clients know; `hidden` fields are never shown; `derive` gives
    what is computed from a document each time that it is written."""

    def __init__(
        self,
        database: Database,
        name: str,
        noun: str,
        indexes: Sequence[IndexModel],
        *,
        unique: Mapping[str, str] | None = None,
        hidden: Sequence[str] = (),
        derive: Callable[[Document], Document] = lambda document: {},
    ) -> None:
        self.raw = database[name]
        self.noun = noun
        self.indexes = list(indexes)
        self._unique = unique or {}
        self._hidden = frozenset({"_id", *hidden})
        self._projection = dict.fromkeys(hidden, 0)
        self._derive = derive

    @property
    def lagging(self) -> AsyncCollection[Document]:
        """For sums and counts, which may be a moment old: a secondary's, where there is one."""
        return self.raw.with_options(read_preference=SecondaryPreferred())

    async def prepare(self) -> None:
        """Create what is missing of collection and indexes."""
        if self.indexes:
            await self.raw.create_indexes(self.indexes)

    async def insert(self, fields: Mapping[str, Any], session: Session = None) -> Document:
        """Raises Duplicate."""
        at = now()
        document: Document = {"_id": fresh(), **fields, "version": 1, "createdAt": at, "updatedAt": at}
        document |= self._derive(document)
        self._weigh(document)
        try:
            await self.raw.insert_one(document, session=session)
        except DuplicateKeyError as error:
            raise self._duplicate(error) from None
        return self.shown(document)

    async def insert_all(self, many: Sequence[Mapping[str, Any]]) -> list[Document]:
        """In few commands; for documents that have nothing unique."""
        at = now()
        made: list[Document] = [{"_id": fresh(), **one, "version": 1, "createdAt": at, "updatedAt": at} for one in many]
        for start in range(0, len(made), BATCH):
            await self.raw.insert_many(made[start : start + BATCH], ordered=False)
        return [self.shown(one) for one in made]

    async def get(
        self, identity: ObjectId, which: Mapping[str, Any] | None = None, session: Session = None
    ) -> Document:
        """Raises NotFound; also where the document is none of `which`."""
        found = await self.raw.find_one({"_id": identity, **(which or {})}, max_time_ms=MAX_TIME_MS, session=session)
        if found is None:
            raise NotFound(self.noun)
        return found

    async def change(
        self,
        identity: ObjectId,
        edit: Edit,
        expected: Versions = None,
        *,
        which: Mapping[str, Any] | None = None,
        session: Session = None,
    ) -> Document:
        """The document after `edit`, as it is shown; nothing is written where `edit` gives back the very one.

        Where no version is expected and nobody else's transaction runs, an edit that came too late is made again on
        what is there then. Raises NotFound, Conflict, Duplicate, and what `edit` raises.
        """
        if session is not None:
            return await self._change(identity, edit, expected, which, session)
        return await again(lambda: self._change(identity, edit, expected, which, session))

    async def _change(
        self,
        identity: ObjectId,
        edit: Edit,
        expected: Versions,
        which: Mapping[str, Any] | None,
        session: Session,
    ) -> Document:
        found = await self.get(identity, which, session)
        if expected is not None and found["version"] not in expected:
            raise Conflict(self.noun, expected=True)
        edited = edit(found)
        if edited is found:
            return self.shown(found)
        after = edited | {"_id": identity, "version": found["version"] + 1, "updatedAt": now()}
        after |= self._derive(after)
        self._weigh(after)
        try:
            result = await self.raw.replace_one({"_id": identity, "version": found["version"]}, after, session=session)
        except DuplicateKeyError as error:
            raise self._duplicate(error) from None
        if not result.matched_count:
            raise Conflict(self.noun, expected=expected is not None)
        return self.shown(after)

    async def remove(
        self,
        identity: ObjectId,
        expected: Versions = None,
        may: Callable[[Document], None] = lambda document: None,
        session: Session = None,
    ) -> Document:
        """Of the version that `may` looked at: what it was. Raises NotFound, Conflict, and what `may` raises."""

        async def once() -> Document:
            found = await self.get(identity, session=session)
            if expected is not None and found["version"] not in expected:
                raise Conflict(self.noun, expected=True)
            may(found)
            seen = {"_id": identity, "version": found["version"]}
            if not (await self.raw.delete_one(seen, session=session)).deleted_count:
                raise Conflict(self.noun, expected=expected is not None)
            return found

        return await (once() if session is not None else again(once))

    async def find(self, which: Mapping[str, Any], page: Page) -> tuple[list[Document], int]:
        """One page, newest first, and how many there are in all (up to MAX_COUNT)."""
        total = await self.raw.count_documents(which, limit=MAX_COUNT, maxTimeMS=MAX_TIME_MS)
        paged = {**which, "_id": {"$lt": ObjectId(page.after)}} if page.after else dict(which)
        cursor = self.raw.find(paged, self._projection or None, max_time_ms=MAX_TIME_MS)
        found = await cursor.sort("_id", DESCENDING).skip(page.skip).limit(page.limit).to_list(page.limit)
        return [self.shown(one) for one in found], total

    async def all(self, which: Mapping[str, Any], limit: int = 500) -> list[Document]:
        """Bounded; for what is small by nature."""
        found = await self.raw.find(which, max_time_ms=MAX_TIME_MS).limit(limit).to_list(limit)
        return [self.shown(one) for one in found]

    def shown(self, document: Mapping[str, Any]) -> Document:
        """As clients see it: `id` first, ids as text, nothing that is derived."""
        fields = {key: _text(value) for key, value in document.items() if key not in self._hidden}
        return {"id": str(document["_id"]), **fields}

    def _weigh(self, document: Document) -> None:
        """Raises TooLarge; a document near its bound is logged."""
        size = len(bson.encode(document))
        if size > MAX_DOCUMENT:
            raise TooLarge(self.noun, size)
        if size > WARN_SHARE * MAX_DOCUMENT:
            log.warning("document is large", noun=self.noun, id=str(document["_id"]), bytes=size)

    def _duplicate(self, error: DuplicateKeyError) -> Duplicate:
        text = str(error.details or error)
        field = next((field for index, field in self._unique.items() if index in text), "value")
        return Duplicate(self.noun, field)


def _text(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, list):
        return [_text(one) for one in value]
    if isinstance(value, dict):
        return {key: _text(one) for key, one in value.items()}
    return value


def identity(text: str, noun: str = "document") -> ObjectId:
    """Raises NotFound where the text is no id: nothing has it."""
    if len(text) != 24 or not ObjectId.is_valid(text):
        raise NotFound(noun)
    return ObjectId(text)


_PROCESS = os.urandom(3)
_made = itertools.count(int.from_bytes(os.urandom(3)))


def fresh() -> ObjectId:
    """An id that sorts by its time to 15 µs, whichever instance makes it: seconds, their 65,536ths, process, counter.
    An ObjectId as drivers make it sorts by seconds alone where there are several processes."""
    at = time.time_ns() * 65_536 // 1_000_000_000
    return ObjectId(at.to_bytes(6) + _PROCESS + (next(_made) & 0xFFFFFF).to_bytes(3))


async def again(work: Callable[[], Awaitable[Done]]) -> Done:
    """Until it meets no change of another's, MAX_TRIES times at most; once where a client expects a version."""
    for tries in range(1, MAX_TRIES + 1):
        try:
            return await work()
        except Conflict as error:
            if error.expected or tries == MAX_TRIES:
                raise
            await asyncio.sleep(PAUSE_SECONDS * 2**tries * random.random())  # noqa: S311  # jitter
    raise AssertionError("the last try returns or raises")


def now() -> datetime:
    """MongoDB keeps milliseconds; what is answered must be what is kept."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
