"""Every role at every endpoint: what the table grants is let through, everything else is 403, and nobody is 401."""

from __future__ import annotations

import re

import pytest

from tests.upstream_app.conftest import Client, Role
from upstream_app.app import ENDPOINTS
from upstream_app.auth.permissions import ROLES
from upstream_app.web.endpoint import ANY_USER, ANYBODY

pytestmark = pytest.mark.asyncio(loop_scope="session")
GRANTED = {
    "admin": {
        "system_settings:read", "system_settings:update", "users:create", "users:read", "users:update",
        "users:delete", "reports:read",
    },
    "manager": {
        "customers:create", "customers:read", "customers:update", "opportunities:create", "opportunities:read",
        "opportunities:update", "estimates:create", "estimates:read", "estimates:update", "jobs:create", "jobs:read",
        "jobs:update", "jobs:assign", "crews:read", "crews:assign", "reports:read",
    },
    "dispatcher": {"jobs:read", "jobs:update", "jobs:assign", "crews:read", "crews:assign", "customers:read"},
    "sales": {
        "customers:create", "customers:read", "customers:update", "opportunities:create", "opportunities:read",
        "opportunities:update", "estimates:create", "estimates:read", "estimates:update", "jobs:read",
    },
    "crew_lead": {"jobs:read", "jobs:update"},
    "crew_member": {"jobs:read"},
    "customer_service": {"customers:read", "customers:update", "opportunities:read", "jobs:read", "estimates:read"},
}  # fmt: skip
"""Written out once more, of what endpoints ask for: a change of the table has to be meant."""


async def test_the_whole_matrix(opened: Client, roles: dict[str, Role]) -> None:
    endpoints = opened.app[ENDPOINTS]
    asked = {one.permission for one in endpoints} - {ANY_USER, ANYBODY}
    checked = 0
    for endpoint in endpoints:
        if endpoint.path in ("/api/auth/logout",):
            continue
        path = re.sub(r"\{date\}", "2030-01-01", endpoint.path)
        path = re.sub(r"\{\w+\}", "0123456789abcdef01234567", path)
        nobody = await opened.request(endpoint.method, path, json={})
        if endpoint.permission == ANYBODY:
            assert nobody.status != 403
            continue
        assert nobody.status == 401, (endpoint.method, endpoint.path)
        for role, asks in roles.items():
            status, _ = await asks.ask(endpoint.method, path, {})
            granted = role == "super_admin" or endpoint.permission == ANY_USER or endpoint.permission in GRANTED[role]
            assert (status != 403) is granted, (role, endpoint.method, endpoint.path, status)
            assert status != 500, (role, endpoint.method, endpoint.path)
            checked += 1
    assert checked > 400
    for role in GRANTED:
        assert {one for one in asked if one in ROLES[role]} == {one for one in GRANTED[role] if one in asked}
