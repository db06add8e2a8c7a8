"""What clients write about users, sessions and passwords."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from upstream_app.customers.model import Email, Text, Written
from upstream_app.web.lists import Page

Role = Literal["super_admin", "admin", "manager", "dispatcher", "sales", "crew_lead", "crew_member", "customer_service"]
Username = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,39}$")]


def _strong(password: str) -> str:
    """At least 8 characters with lower, upper, digit and one of @$!%*?&#."""
    rules = (r"[a-z]", r"[A-Z]", r"[0-9]", r"[@$!%*?&#]")
    if not 8 <= len(password) <= 128 or not all(re.search(rule, password) for rule in rules):
        raise ValueError(
            "needs 8 to 128 characters with a lower-case and an upper-case letter, a digit and one of @$!%*?&#"
        )
    return password


Password = Annotated[str, AfterValidator(_strong)]


class Credentials(Written):
    username: Annotated[str, Field(min_length=1, max_length=254)]
    password: Annotated[str, Field(min_length=1, max_length=128)]


class RefreshToken(Written):
    refresh_token: Annotated[str, Field(min_length=20, max_length=4096)]


class PasswordChange(Written):
    currentPassword: Annotated[str, Field(min_length=1, max_length=128)]
    newPassword: Password


class NewUser(Written):
    username: Username
    email: Email
    password: Password
    role: Role
    firstName: Text
    lastName: Text
    skills: Annotated[list[Text], Field(max_length=20, default_factory=list)]


class UserChanges(Written):
    email: Email | None = None
    role: Role | None = None
    firstName: Text | None = None
    lastName: Text | None = None
    active: bool | None = None
    skills: Annotated[list[Text], Field(max_length=20)] | None = None
    rating: Annotated[float, Field(ge=0, le=5)] | None = None

    @model_validator(mode="after")
    def _some(self) -> UserChanges:
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("give what changes, and no nulls")
        return self


class ProfileChanges(Written):
    """Of oneself: never the role."""

    email: Email | None = None
    firstName: Text | None = None
    lastName: Text | None = None

    @model_validator(mode="after")
    def _some(self) -> ProfileChanges:
        if not self.model_fields_set or any(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("give what changes, and no nulls")
        return self


class UserQuery(Page):
    role: Role | None = None
