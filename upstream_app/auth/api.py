"""/api/auth: log-in, refresh, log-out, profile, sessions, users, roles."""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web
from bson import ObjectId

from upstream_app.auth.model import (
    Credentials,
    NewUser,
    PasswordChange,
    ProfileChanges,
    RefreshToken,
    UserChanges,
    UserQuery,
)
from upstream_app.auth.passwords import Passwords
from upstream_app.auth.permissions import ROLES, Actor
from upstream_app.auth.sessions import Sessions
from upstream_app.auth.store import UserStore
from upstream_app.auth.tokens import ACCESS_SECONDS, Tokens
from upstream_app.documents import NotFound
from upstream_app.mongo import MAX_TIME_MS, Document
from upstream_app.web.answers import success
from upstream_app.web.endpoint import ANY_USER, ANYBODY, Call, Endpoint, shown
from upstream_app.web.errors import ApiError, header
from upstream_app.web.lists import listed

_CHALLENGE = {"WWW-Authenticate": "Bearer"}
WRONG = "The user name or the password is wrong"


class AuthApi:
    def __init__(self, users: UserStore, sessions: Sessions, tokens: Tokens, passwords: Passwords) -> None:
        self._users = users
        self._sessions = sessions
        self._tokens = tokens
        self._passwords = passwords

    def endpoints(self) -> list[Endpoint]:
        auth = "/api/auth"
        return [
            Endpoint("POST", f"{auth}/login", self.login, ANYBODY, "Log in", Credentials),
            Endpoint("POST", f"{auth}/refresh", self.refresh, ANYBODY, "A new pair of tokens", RefreshToken),
            Endpoint("POST", f"{auth}/logout", self.logout, ANY_USER, "End this session"),
            Endpoint("POST", f"{auth}/change-password", self.change_password, ANY_USER, "New password", PasswordChange),
            Endpoint("GET", f"{auth}/profile", self.profile, ANY_USER, "Oneself"),
            Endpoint("PATCH", f"{auth}/profile", self.change_profile, ANY_USER, "Change oneself", ProfileChanges),
            Endpoint("GET", f"{auth}/sessions", self.sessions, ANY_USER, "One's sessions"),
            Endpoint("DELETE", f"{auth}/sessions/{{id}}", self.end_session, ANY_USER, "End one of one's sessions"),
            Endpoint("GET", f"{auth}/roles", self.roles, "users:read", "Roles and what they may"),
            Endpoint("GET", f"{auth}/users", self.find, "users:read", "Users", query=UserQuery),
            Endpoint("POST", f"{auth}/users", self.create, "users:create", "Make a user", NewUser, status=201),
            Endpoint("GET", f"{auth}/users/{{id}}", self.get, "users:read", "One user"),
            Endpoint("PATCH", f"{auth}/users/{{id}}", self.change, "users:update", "Change a user", UserChanges),
            Endpoint("DELETE", f"{auth}/users/{{id}}", self.remove, "users:delete", "Remove a user"),
        ]  # fmt: skip

    async def authenticate(self, request: web.Request) -> Actor | None:
        """Who asks, by the application's own verification, whatever stands in front of it."""
        given = request.headers.get("Authorization")
        if given is None:
            return None
        scheme, _, token = given.partition(" ")
        actor, _ = await self._bearer(token.strip() if scheme.lower() == "bearer" else "")
        return actor

    async def identify(self, request: web.Request) -> tuple[Actor, float]:
        """Who opens a WebSocket, and to when their token is good; browsers can give it in the query alone."""
        token = request.query.get("access_token", "")
        if "Authorization" in request.headers:
            scheme, _, given = request.headers["Authorization"].partition(" ")
            token = given.strip() if scheme.lower() == "bearer" else ""
        return await self._bearer(token)

    async def _bearer(self, token: str) -> tuple[Actor, float]:
        claims = self._tokens.read("access", token)
        if claims is None:
            raise ApiError(401, "The access token is not valid, or has expired", headers=_CHALLENGE)
        if not await self._sessions.lives(str(claims["sessionId"])):
            raise ApiError(401, "This session was ended; log in again", headers=_CHALLENGE)
        actor = Actor(
            ObjectId(claims["sub"]), claims["username"], claims["role"], claims["sessionId"], claims.get("name", "")
        )
        return actor, float(claims["exp"])

    async def login(self, call: Call) -> web.Response:
        given = call.body(Credentials)
        user = await self._users.named(given.username)
        if not await self._right(user, given.username, given.password) or user is None or not user["active"]:
            raise ApiError(401, WRONG, headers=_CHALLENGE)
        session, subject = secrets.token_hex(16), str(user["_id"])
        pair, refresh = self._pair(user, session)
        await self._sessions.begin(session, subject, refresh, header(call.request, "User-Agent"))
        if not await self._is_as_it_was(user):
            await self._sessions.end(session, subject)
            raise ApiError(401, WRONG, headers=_CHALLENGE)
        return success({**pair, "user": self._users.shown(user)}, "Logged in")

    async def _right(self, user: Document | None, named: str, password: str) -> bool:
        """Whether it is the user's password. Tries count for whoever is meant, by name or e-mail address, here and
        where it is changed, until one is right. Raises ApiError 429."""
        whom = f"id:{user['_id']}" if user else named
        locked = await self._sessions.begin_try(whom)
        if locked:
            raise ApiError(429, "Too many failed log-ins; try again later", headers={"Retry-After": str(locked)})
        try:
            good = await self._passwords.verify(user["password"] if user else None, password)
        except BaseException:
            await self._sessions.end_try(whom, good=False)
            raise
        if good:
            await self._sessions.end_try(whom, good=True)
        return good

    async def _is_as_it_was(self, user: Document) -> bool:
        """Who was switched off, or got another role, while the password was checked has no session that outlives it."""
        found = await self._users.raw.find_one({"_id": user["_id"]}, max_time_ms=MAX_TIME_MS)
        return found is not None and all(found[name] == user[name] for name in ("active", "role", "password"))

    def _pair(self, user: Document, session: str) -> tuple[dict[str, Any], str]:
        subject = str(user["_id"])
        claims = {
            "username": user["username"], "email": user["email"], "role": user["role"],
            "name": f"{user['firstName']} {user['lastName']}",
            "permissions": sorted(ROLES[user["role"]]) if user["role"] != "super_admin" else ["*:*"],
        }  # fmt: skip
        access, _ = self._tokens.issue("access", subject, session, claims)
        refresh, identity = self._tokens.issue("refresh", subject, session, {})
        return {"access_token": access, "refresh_token": refresh, "expiresIn": ACCESS_SECONDS}, identity

    async def refresh(self, call: Call) -> web.Response:
        claims = self._tokens.read("refresh", call.body(RefreshToken).refresh_token)
        if claims is None:
            raise ApiError(401, "The refresh token is not valid, or has expired", headers=_CHALLENGE)
        user = await self._users.raw.find_one({"_id": ObjectId(claims["sub"])}, max_time_ms=MAX_TIME_MS)
        if user is None or not user["active"]:
            raise ApiError(401, "This user may no longer log in", headers=_CHALLENGE)
        pair, after = self._pair(user, claims["sessionId"])
        if not await self._sessions.rotate(claims["sessionId"], claims["sub"], claims["jti"], after):
            raise ApiError(401, "This session is over; log in again", headers=_CHALLENGE)
        if not await self._is_as_it_was(user):
            await self._sessions.end(claims["sessionId"], claims["sub"])
            raise ApiError(401, "This session is over; log in again", headers=_CHALLENGE)
        return success(pair, "Refreshed")

    async def logout(self, call: Call) -> web.Response:
        await self._sessions.end(call.actor.session, str(call.actor.user))
        return success({}, "Logged out")

    async def change_password(self, call: Call) -> web.Response:
        given, actor = call.body(PasswordChange), call.actor
        user = await self._users.get(actor.user)
        if not await self._right(user, user["username"], given.currentPassword):
            raise ApiError(401, "The current password is wrong")
        hashed = await self._passwords.hash(given.newPassword)
        await self._users.change(actor.user, lambda document: document | {"password": hashed})
        ended = await self._sessions.end_all(str(actor.user), but=actor.session)
        return success({"endedSessions": ended}, "Password changed; other sessions were ended")

    async def profile(self, call: Call) -> web.Response:
        return shown(self._users.shown(await self._users.get(call.actor.user)))

    async def change_profile(self, call: Call) -> web.Response:
        changes = call.body(ProfileChanges).model_dump(exclude_unset=True)
        return shown(await self._users.change(call.actor.user, lambda document: document | changes, call.expected))

    async def sessions(self, call: Call) -> web.Response:
        found = await self._sessions.of(str(call.actor.user))
        return success({"sessions": found, "current": call.actor.session})

    async def end_session(self, call: Call) -> web.Response:
        if not await self._sessions.end(call.request.match_info["id"], str(call.actor.user)):
            raise NotFound("session")
        return success({}, "Session ended")

    async def roles(self, call: Call) -> web.Response:
        return success({"roles": [{"name": name, "permissions": dict(granted)} for name, granted in ROLES.items()]})

    async def find(self, call: Call) -> web.Response:
        asked = call.query(UserQuery)
        found, total = await self._users.find({"role": asked.role} if asked.role else {}, asked)
        return listed("users", found, total, asked)

    async def create(self, call: Call) -> web.Response:
        fields = call.body(NewUser).model_dump()
        if fields["role"] == "super_admin" and call.actor.role != "super_admin":
            raise ApiError(403, "Only a super_admin makes another")
        fields["password"] = await self._passwords.hash(fields["password"])
        made = await self._users.insert(fields | {"active": True})
        return shown(made, "User created", 201, "/api/auth/users")

    async def get(self, call: Call) -> web.Response:
        return shown(self._users.shown(await self._users.get(call.id(noun="user"))))

    async def change(self, call: Call) -> web.Response:
        changes, actor = call.body(UserChanges).model_dump(exclude_unset=True), call.actor
        given = {"role", "active"} & changes.keys()
        differs = False

        def edit(document: Document) -> Document:
            nonlocal differs
            differs = any(document.get(name) != changes[name] for name in given)
            if document["_id"] == actor.user and differs:
                raise ApiError(409, "Nobody changes the own role, or switches oneself off: ask another")
            if actor.role != "super_admin" and "super_admin" in (document["role"], changes.get("role")):
                raise ApiError(403, "Only a super_admin changes one, or makes one")
            return document | changes

        changed = await self._users.change(call.id(noun="user"), edit, call.expected)
        if differs:
            await self._sessions.end_all(changed["id"])
        return shown(changed, "User updated")

    async def remove(self, call: Call) -> web.Response:
        user = call.id(noun="user")
        if user == call.actor.user:
            raise ApiError(409, "Nobody removes oneself")
        if call.actor.role != "super_admin" and (await self._users.get(user))["role"] == "super_admin":
            raise ApiError(403, "Only a super_admin removes one")
        await self._users.remove(user, call.expected)
        await self._sessions.end_all(str(user))
        return success({}, "User removed")
