"""What a customer is, as clients write it."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from upstream_app.web.lists import Page

Kind = Literal["residential", "commercial"]
Status = Literal["lead", "prospect", "active", "inactive"]
Source = Literal["website", "referral", "advertising", "social_media", "partner", "other"]
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$")
]
_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)
_WORD = re.compile(r"[^\W_]+")
MAX_TOKENS = 24
LONGEST_PREFIX = 10


def _email(value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise ValueError("not an e-mail address")
    return text


Email = Annotated[str, BeforeValidator(_email)]
Phone = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^\+?[0-9][0-9 ().x-]{5,24}$")]


class Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Address(Written):
    street: Text
    city: Text
    state: Text
    zipCode: Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9 -]{3,12}$")]


class NewCustomer(Written):
    firstName: Text
    lastName: Text
    email: Email
    phone: Phone
    address: Address | None = None
    type: Kind = "residential"
    status: Status = "lead"
    source: Source = "other"
    leadScore: Annotated[int, Field(ge=0, le=100)] = 0


class CustomerChanges(Written):
    """Only what is given changes; `address: null` removes it."""

    firstName: Text | None = None
    lastName: Text | None = None
    email: Email | None = None
    phone: Phone | None = None
    address: Address | None = None
    type: Kind | None = None
    status: Status | None = None
    source: Source | None = None
    leadScore: Annotated[int, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _some(self) -> CustomerChanges:
        if not self.model_fields_set:
            raise ValueError("nothing to change was given")
        cleared = [name for name in self.model_fields_set - {"address"} if getattr(self, name) is None]
        if cleared:
            raise ValueError(f"{', '.join(sorted(cleared))} may not be null")
        return self


class Contact(Written):
    channel: Literal["phone", "email", "sms", "visit", "other"]
    note: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class CustomerQuery(Page):
    """Filters of a list; `search` matches the beginnings of words in name, e-mail, phone and city."""

    type: Kind | None = None
    status: Status | None = None
    source: Source | None = None
    search: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)] | None = None


def words(*texts: str) -> list[str]:
    """Lower-case words without accents, each once: what search compares, in the database and in the question."""
    found: dict[str, None] = {}
    for text in texts:
        plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        stripped = "".join(char for char in plain if not unicodedata.combining(char))
        found.update(dict.fromkeys(word[:32] for word in _WORD.findall(stripped)))
    return list(found)[:MAX_TOKENS]


def prefixes(*texts: str) -> list[str]:
    """How their words begin, up to LONGEST_PREFIX characters: what an index answers by equality, on every server."""
    found: dict[str, None] = {}
    for word in words(*texts):
        found.update(dict.fromkeys(word[:length] for length in range(1, min(len(word), LONGEST_PREFIX) + 1)))
    return list(found)
