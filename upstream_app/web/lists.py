"""Pages: numbered ones near the front, a cursor for the rest, since a database must walk over what is skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from upstream_app.web.answers import json_response

MAX_SKIP = 2_000
_DIGITS = re.compile(r"[0-9]{1,9}")


def _whole(value: object) -> object:
    """Of a query, where all is text: `10.0` and `1_0` are no numbers here."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("is no whole number")
    return value


Whole = BeforeValidator(_whole)


class Page(BaseModel):
    """`after` is the id of the last item seen; with it `page` says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    page: Annotated[int, Whole, Field(ge=1, le=MAX_SKIP + 1)] = 1
    limit: Annotated[int, Whole, Field(ge=1, le=100)] = 20
    after: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")] | None = None

    @model_validator(mode="after")
    def _near(self) -> Page:
        if self.after is None and (self.page - 1) * self.limit > MAX_SKIP:
            raise ValueError(f"pages end at item {MAX_SKIP}; go on with after=<id of the last item>")
        return self

    @property
    def skip(self) -> int:
        return 0 if self.after else (self.page - 1) * self.limit


Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
"""A document's id as clients know it."""


def listed(
    name: str, items: Sequence[dict[str, Any]], total: int, page: Page, filters: dict[str, Any] | None = None
) -> web.Response:
    """A page as an answer; `next` is what `after` has to be for the following one."""
    following = str(items[-1]["id"]) if len(items) == page.limit else None
    return json_response(listing(name, items, total, page, filters or {}, following))


def filters(page: Page) -> dict[str, Any]:
    """What was asked for beside the page."""
    return page.model_dump(exclude={"page", "limit", "after"}, exclude_none=True, mode="json")


def listing(
    name: str, items: Sequence[dict[str, Any]], total: int, page: Page, filters: dict[str, Any], following: str | None
) -> dict[str, Any]:
    """The report's list shape; `total` counts all that the filters let through."""
    body: dict[str, Any] = {"success": True, name: items, "count": len(items)}
    if filters:
        body["filters"] = filters
    body["pagination"] = {
        "page": page.page,
        "limit": page.limit,
        "total": total,
        "totalPages": ceil(total / page.limit),
        "next": following,
    }
    return body
