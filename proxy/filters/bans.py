"""Who is kept out for a time: whoever was refused too often, scans, or walks into a honeypot; longer each time.

A ban is a fact on a board that all sidecars share: told to all at once, read from this process's mirror. It is
remembered for a while after its end, so that the next one is longer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from proxy.addresses import Networks, holder
from proxy.exchange import Exchange, Response
from proxy.filter import Mode, Rule, RuleFilter
from proxy.fleet.board import Board
from proxy.rejection import Banned
from proxy.throttle.charge import Charge, Decision, Limiter, Quota

MAX_KNOWN = 10_000
SCANNERS = re.compile(
    rb"sqlmap|nikto|nmap|nessus|openvas|burp|zaproxy|owasp[ _]?zap|\bzap/|acunetix|netsparker|dirbuster|gobuster|wfuzz"
    rb"|ffuf|nuclei|masscan|wpscan|arachni|w3af|havij|feroxbuster|whatweb|jaeles|hydra",
    re.IGNORECASE,
)
"""User agents that say what they are."""


@dataclass(frozen=True, slots=True)
class Ban:
    """`seconds` are those left; `level` counts the bans that this subject had lately."""

    subject: str
    seconds: float
    level: int
    reason: str


class BanList:
    """Bans by subject (`ip:192.0.2.7`, `user:ada`) on their board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.added = 0

    @property
    def empty(self) -> bool:
        return not self._board.facts

    def left(self, subject: str) -> float:
        """Seconds for which the subject is still banned; 0 where it is not."""
        fact = self._board.get(subject)
        if fact is None:
            return 0.0
        return max(0.0, self._board.left(fact) - _read(fact.value)[1])

    def ban(self, subject: str, reason: str, first: float, most: float, memory: float) -> float:
        """Twice as long as the last time that is remembered, from `first` to `most` seconds."""
        fact = self._board.get(subject)
        level = _read(fact.value)[0] + 1 if fact is not None else 1
        seconds = min(most, first * 2.0 ** min(level - 1, 60))
        self._board.put(subject, f"{level} {memory:g} {reason}", seconds + memory)
        self.added += 1
        return seconds

    def lift(self, subject: str) -> bool:
        """End the ban and forget it; whether there was one."""
        return self._board.drop(subject)

    def __iter__(self) -> Iterator[Ban]:
        for subject, fact, left in self._board.live():
            level, memory, reason = _read(fact.value)
            if left > memory:
                yield Ban(subject, left - memory, level, reason)


def _read(value: str) -> tuple[int, float, str]:
    """Level, seconds that it is remembered after its end, reason; whatever else was written bans all the same."""
    try:
        level, memory, reason = value.split(" ", 2)
        return int(level), float(memory), reason
    except ValueError:
        return 1, 0.0, value


def subject_of(client: str) -> str:
    return f"ip:{holder(client)}"


@dataclass(frozen=True, slots=True)
class BanTerms:
    """Seconds: of a first ban, of the longest, and how long one is remembered."""

    first: float
    most: float
    memory: float


class Bans(RuleFilter):
    """`strikes` is the quota of refusals (`counted`: reasons, or statuses) that one address may have."""

    __slots__ = ("_allow", "_bans", "_counted", "_honeypots", "_known", "_limiter", "_scanners", "_strikes",
                 "_terms")  # fmt: skip

    def __init__(
        self,
        rule: Rule,
        bans: BanList,
        limiter: Limiter,
        strikes: Quota,
        counted: frozenset[str],
        terms: BanTerms,
        honeypots: frozenset[bytes],
        allow: Networks,
        *,
        scanners: bool,
    ) -> None:
        super().__init__(rule)
        self._bans = bans
        self._limiter = limiter
        self._strikes = strikes
        self._counted = counted
        self._terms = terms
        self._honeypots = honeypots
        self._allow = allow
        self._scanners = scanners
        self._known: dict[str, Charge] = {}

    def on_request(self, exchange: Exchange) -> None:
        client = exchange.client
        if not self._bans.empty and (left := self._bans.left(subject_of(client))) and client not in self._allow:
            self._rule.refuse(exchange, banned(left))
        if exchange.path in self._honeypots and exchange.headers.index.get(b"sec-fetch-site") != b"cross-site":
            self._ban(exchange, "honeypot")
        elif self._scanners and (agent := exchange.headers.index.get(b"user-agent")) and SCANNERS.search(agent):
            self._ban(exchange, "scanner")

    def on_still_open(self, exchange: Exchange) -> None:
        if self._bans.empty or self._rule.mode is not Mode.ENFORCE or exchange.client in self._allow:
            return
        if left := self._bans.left(subject_of(exchange.client)):
            self._rule.refuse(exchange, banned(left))

    def _ban(self, exchange: Exchange, reason: str) -> None:
        """At once; where the rule only shadows, nobody is banned."""
        if exchange.client in self._allow:
            return
        seconds = self._terms.first
        if self._rule.mode is Mode.ENFORCE:
            terms = self._terms
            seconds = self._bans.ban(subject_of(exchange.client), reason, terms.first, terms.most, terms.memory)
        self._rule.refuse(exchange, banned(seconds))

    def on_response(self, exchange: Exchange, response: Response) -> None:
        if exchange.rejection == Banned.reason:
            return
        if exchange.rejection in self._counted or (not response.own and str(response.status) in self._counted):
            self._strike(exchange)

    def _strike(self, exchange: Exchange) -> None:
        client = exchange.client
        if client in self._allow:
            return
        charge = self._known.get(client)
        if charge is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            charge = self._known[client] = Charge(self._strikes, identity_of(subject_of(client)))

        def decided(decision: Decision) -> None:
            subject = subject_of(client)
            if not decision.admitted and self._bans.left(subject) == 0 and self._rule.enforces(exchange):
                terms = self._terms
                self._bans.ban(subject, "refused-too-often", terms.first, terms.most, terms.memory)

        self._limiter.decide([charge], "-", decided)


class UserBans(RuleFilter):
    """Bans of users, by hand; runs once it is known who asks."""

    __slots__ = ("_bans",)

    def __init__(self, rule: Rule, bans: BanList) -> None:
        super().__init__(rule)
        self._bans = bans

    def on_request(self, exchange: Exchange) -> None:
        if exchange.user and not self._bans.empty and (left := self._bans.left(f"user:{exchange.user}")):
            self._rule.refuse(exchange, banned(left))

    def on_still_open(self, exchange: Exchange) -> None:
        if self._rule.mode is Mode.ENFORCE:
            self.on_request(exchange)


def banned(left: float, clock: Callable[[], float] = time.time) -> Banned:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock() + left))
    return Banned(f"kept out until {ends}", retry_after=left)


def identity_of(client: str) -> str:
    """A hash, as every key of a limit has."""
    return blake2b(b"strikes\x00" + client.encode(), digest_size=12).hexdigest()
