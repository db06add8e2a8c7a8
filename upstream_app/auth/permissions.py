"""Who may do what: a permission is `resource:action`, and how far it reaches. What is not listed is denied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bson import ObjectId

Scope = Literal["all", "own", "assigned"]
"""`own`: what the user created; `assigned`: jobs whose crew the user is in."""
RESOURCES = (
    "users", "system_settings", "reports", "customers", "opportunities", "estimates", "jobs", "crews", "inventory",
)  # fmt: skip
ACTIONS = ("create", "read", "update", "delete", "approve", "assign")


def _grants(*texts: str, scope: Scope = "all") -> dict[str, Scope]:
    """`customers:create,read` to permissions."""
    granted: dict[str, Scope] = {}
    for text in texts:
        resource, _, actions = text.partition(":")
        granted |= dict.fromkeys((f"{resource}:{action}" for action in actions.split(",")), scope)
    return granted


ROLES: Mapping[str, Mapping[str, Scope]] = {
    "super_admin": _grants(*(f"{resource}:{','.join(ACTIONS)}" for resource in RESOURCES)),
    "admin": _grants("users:create,read,update,delete", "system_settings:read,update", "reports:read"),
    "manager": _grants(
        "customers:create,read,update", "opportunities:create,read,update", "estimates:create,read,update,approve",
        "jobs:create,read,update,assign", "crews:read,assign", "reports:read",
    ),
    "dispatcher": _grants("jobs:read,update,assign", "crews:read,assign", "customers:read"),
    "sales": _grants(
        "customers:create,read,update", "opportunities:create,read,update", "estimates:create,read,update",
    ) | _grants("jobs:read", scope="own"),
    "crew_lead": _grants("jobs:read,update", scope="assigned") | _grants("inventory:read,update"),
    "crew_member": _grants("jobs:read", scope="assigned") | _grants("inventory:read"),
    "customer_service": _grants("customers:read,update", "opportunities:read", "jobs:read", "estimates:read"),
}  # fmt: skip
CREW = ("crew_lead", "crew_member")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, by a token that was verified and whose session lives."""

    user: ObjectId
    username: str
    role: str
    session: str
    name: str = ""

    def scope(self, permission: str) -> Scope | None:
        """How far the permission reaches for this user; None where it is not granted."""
        return ROLES.get(self.role, {}).get(permission)


def within(actor: Actor, scope: Scope) -> dict[str, Any]:
    """The filter that keeps a query to what the scope reaches."""
    if scope == "own":
        return {"createdBy": actor.user}
    if scope == "assigned":
        return {"crew.member": actor.user}
    return {}
