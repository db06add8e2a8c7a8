"""Limits: what a request charges to whom, the refusal where it is too much, and the fields that tell the client.

All quotas of a request are decided at once, and all or none of them are charged. RateLimit fields are those of the
IETF's draft 11: on success the tightest quota's, on a refusal the one's that refused.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil

from proxy.exchange import Exchange, Response
from proxy.filter import Deferred, Filter, Rule
from proxy.rejection import RateLimited
from proxy.throttle.charge import Charge, Decision, Limiter, Outcome, Quota
from proxy.throttle.heavy import Fullest, HeavyKeys

MAX_KNOWN = 10_000
MAX_KNOWN_LENGTH = 256
"""Bytes of a key's parts; what is longer, which is the client's to choose, is made again each time."""
MAX_COST = 1_000
RENEW_EVERY = 0.5
"""Seconds; which holds are due is looked at so often."""
FROM_CACHE = frozenset({"hit", "stale", "stale-if-error"})
KeyPart = Callable[[Exchange], bytes | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule: `quotas` are its rates (and its trial's, which shadow); `tiers` replace them by a claim's value.

    `counts` says by the answer's status whether a reserved charge is taken; None where every request counts. A body
    costs a unit for each `body_unit` bytes begun; an answer says in the field `cost_header` what it came to.
    """

    rule: Rule
    trial: Rule
    """Speaks for the quotas that shadow."""
    quotas: tuple[Quota, ...]
    key: tuple[KeyPart, ...]
    scope: bytes
    costs: Mapping[bytes, int]
    exempts: Callable[[Exchange], bool] | None = None
    matches: Callable[[Exchange], bool] | None = None
    tier_claim: str = ""
    tiers: Mapping[str, tuple[Quota, ...]] = field(default_factory=dict)
    counts: Callable[[int], bool] | None = None
    uncached: bool = False
    """What the route's cache answers without the upstream costs nothing."""
    body_unit: int = 0
    cost_header: bytes = b""
    plain_labels: bool = False
    """Whether statistics show whom they speak of, or a hash."""
    known: dict[tuple[object, ...], list[Charge]] = field(default_factory=dict)
    """Charges of clients that came before, bounded by MAX_KNOWN; a hash and a key need not be made again."""

    @property
    def all_quotas(self) -> list[Quota]:
        return [*self.quotas, *(quota for tier in self.tiers.values() for quota in tier)]

    def charges(self, exchange: Exchange) -> list[Charge]:
        cost = self.costs.get(exchange.method, self.costs[b""])
        if not cost or (self.matches and not self.matches(exchange)) or (self.exempts and self.exempts(exchange)):
            return []
        if self.body_unit:
            cost = self.body_cost(exchange.body_length)
        quotas = self.quotas
        if self.tiers and exchange.claims is not None:
            quotas = self.tiers.get(str(exchange.claims.get(self.tier_claim)), quotas)
        parts = [part(exchange) for part in self.key]
        if None in parts:
            parts.append(exchange.client.encode())
        who = (id(quotas), cost, *parts)
        made = self.known.get(who)
        if made is None:
            identity = self._identity(parts)
            label = b" ".join([part or b"-" for part in parts]).decode("latin-1")[:80] if self.plain_labels else ""
            made = [Charge(quota, identity, cost, label) for quota in quotas]
            if sum([len(part) for part in parts if part]) <= MAX_KNOWN_LENGTH:
                if len(self.known) >= MAX_KNOWN:
                    self.known.clear()
                self.known[who] = made
        return made

    def body_cost(self, length: int) -> int:
        """A body of unknown length costs one unit until it is known."""
        return min(MAX_COST, max(1, -(-length // self.body_unit)))

    def _identity(self, parts: list[bytes | None]) -> str:
        """A hash: no address, name or token is written to the store. A part that is missing is the client's address,
        so that leaving a header out is no way around."""
        digest = blake2b(self.scope, digest_size=12)
        for one in parts:
            digest.update(b"\x00" if one is None else b"\x01%d:%b" % (len(one), one))
        return digest.hexdigest()


@dataclass(slots=True)
class Usage:
    """What one rule charged, refused, or would have refused; what another rule's refusal kept it from charging is in
    none of them."""

    admitted: int = 0
    denied: int = 0
    shadowed: int = 0
    heavy: HeavyKeys = field(default_factory=HeavyKeys)
    fullest: Fullest = field(default_factory=Fullest)

    def see(self, charge: Charge, outcome: Outcome, now: float) -> None:
        """One decision; `now` is seconds of the loop's clock."""
        self.heavy.add(charge.label, charge.cost, now)
        used = 1.0 - (outcome.remaining - charge.cost) / charge.quota.amount if outcome.admitted else 1.0
        fullest = self.fullest
        if used > fullest.share or now >= fullest.ends:
            fullest.see(used, charge.label, now)
        if outcome.admitted:
            self.admitted += 1
        elif charge.quota.shadow:
            self.shadowed += 1
        else:
            self.denied += 1


class Throttled:
    """What one exchange charged, kept on it."""

    __slots__ = ("charges", "decision", "limits", "renew_at", "reservation", "taken")

    def __init__(self, limits: list[Limit], charges: list[Charge], reservation: str) -> None:
        self.reservation = reservation
        self.limits = limits
        self.charges = charges
        self.decision: Decision | None = None
        self.renew_at = 0.0
        """Loop time; what is held has a third of its lease behind it then."""
        self.taken: list[int] | None = None
        """What each charge came to; None where none of them is reserved, or no answer has come."""

    def held(self) -> list[Charge]:
        if self.decision is None:
            return []
        pairs = zip(self.charges, self.decision.outcomes, strict=True)
        return [charge for charge, outcome in pairs if charge.holds and outcome.admitted]


class Waiting(Deferred):
    """For the decision; `begun` once the hook has returned without it. No closure: one that knows itself is garbage
    that only the collector finds, on every request."""

    __slots__ = ("_exchange", "_state", "_throttle", "begun")

    def __init__(self, throttle: Throttle, exchange: Exchange, state: Throttled) -> None:
        super().__init__()
        self._throttle = throttle
        self._exchange = exchange
        self._state = state
        self.begun = False

    def decided(self, decision: Decision) -> None:
        state, throttle = self._state, self._throttle
        state.decision = decision
        if not self.begun:
            return
        if self.done:
            throttle.forget(state)
            return
        try:
            throttle.judge(self._exchange, state)
        except RateLimited as refusal:
            self.end(refusal)
        else:
            self.end()


class Throttle(Filter):
    __slots__ = (
        "_cost_headers",
        "_held",
        "_legacy",
        "_limiter",
        "_limits",
        "_loop",
        "_made",
        "_name",
        "_renew_every",
        "_renewer",
        "_told",
        "usage",
    )

    def __init__(
        self,
        limits: tuple[Limit, ...],
        limiter: Limiter,
        loop: asyncio.AbstractEventLoop,
        usage: defaultdict[str, Usage],
        *,
        legacy: bool = False,
    ) -> None:
        """`usage` is by quota, over all routes that have it."""
        self._limits = limits
        self._limiter = limiter
        self._loop = loop
        self._legacy = legacy
        self._name = os.urandom(6).hex()
        self._made = 0
        self._held: dict[str, Throttled] = {}
        """Exchanges that run, by the name of what they hold."""
        leases = [quota.lease for limit in limits for quota in limit.all_quotas]
        self._renew_every = min([RENEW_EVERY, *(lease / 6000 for lease in leases)])
        self._renewer: asyncio.TimerHandle | None = None
        self._cost_headers = frozenset(limit.cost_header for limit in limits if limit.cost_header)
        """For us alone: they go no further."""
        self._told = {id(quota): _told(quota) for limit in limits for quota in limit.all_quotas}
        """By identity: a quota's own hash is made of all its fields, each time. The limits keep them alive."""
        self.usage = usage

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(limit.rule for limit in self._limits)

    def on_request(self, exchange: Exchange) -> Deferred | None:
        limits: list[Limit] = []
        charges: list[Charge] = []
        for limit in self._limits:
            made = limit.charges(exchange)
            if made:
                charges += made
                limits += [limit] * len(made)
        if not charges:
            return None
        exchange.throttled = state = Throttled(limits, charges, self._reservation(charges))
        waiting = Waiting(self, exchange, state)
        self._limiter.decide(charges, state.reservation, waiting.decided)
        if state.decision is not None:
            self.judge(exchange, state)
            return None
        waiting.begun = True
        return waiting

    def _reservation(self, charges: list[Charge]) -> str:
        """A name that nobody else has, where one is needed; a request id is the client's to choose."""
        for charge in charges:
            if charge.holds:
                self._made += 1
                return f"{self._name}.{self._made}"
        return "-"

    def judge(self, exchange: Exchange, state: Throttled) -> None:
        """Count, and refuse through the rule that denied; of several, the one that denies for longest."""
        decision = state.decision
        if decision is None:
            return
        denied: tuple[Limit, Charge, Outcome] | None = None
        now = self._loop.time()
        for limit, charge, outcome in zip(state.limits, state.charges, decision.outcomes, strict=True):
            if outcome.admitted:
                if decision.admitted:
                    self.usage[charge.quota.name].see(charge, outcome, now)
                continue
            self.usage[charge.quota.name].see(charge, outcome, now)
            if charge.quota.shadow:
                limit.trial.refuse(exchange, RateLimited("this would be refused"))
            elif denied is None or outcome.retry > denied[2].retry:
                denied = (limit, charge, outcome)
        if denied is None:
            if state.reservation != "-":
                self._hold(state, now)
            return
        limit, charge, outcome = denied
        quota = charge.quota
        what = "requests at once" if not quota.window else f"requests in {quota.window / 1000:g} s"
        refusal = RateLimited(
            f"more than {quota.amount} {what}",
            remedy=f"Try again in {max(1, ceil(outcome.retry / 1000))} s.",
            retry_after=outcome.retry / 1000,
            headers=self._fields(charge, outcome, 0),
        )
        limit.rule.refuse(exchange, refusal)

    def _hold(self, state: Throttled, now: float) -> None:
        held = state.held()
        if not held:
            return
        state.renew_at = now + _third(held)
        self._held[state.reservation] = state
        if self._renewer is None:
            self._renewer = self._loop.call_later(self._renew_every, self._renew)

    def _renew(self) -> None:
        """What an exchange holds is held as long as it runs: a WebSocket outlives every lease."""
        self._renewer = None
        now = self._loop.time()
        for reservation, state in self._held.items():
            if state.renew_at <= now:
                held = state.held()
                state.renew_at = now + _third(held)
                self._limiter.renew(held, reservation)
        if self._held:
            self._renewer = self._loop.call_later(self._renew_every, self._renew)

    @property
    def holds(self) -> bool:
        """Whether an exchange still has something that is to be renewed."""
        return bool(self._held)

    def close(self) -> None:
        if self._renewer is not None:
            self._renewer.cancel()

    def on_response(self, exchange: Exchange, response: Response) -> None:
        state = exchange.throttled
        if state is None or state.decision is None:
            return
        if state.reservation != "-":
            state.taken = [
                0 if of.uncached and exchange.cached in FROM_CACHE else _taken(one, of, response)
                for one, of in zip(state.charges, state.limits, strict=True)
            ]
            if not self._cost_headers.isdisjoint(response.headers.index):
                response.headers.remove(self._cost_headers)
        if not state.decision.admitted or state.decision.source == "none" or b"ratelimit" in response.headers.index:
            return
        tightest: tuple[float, Charge, Outcome, int] | None = None
        for charge, outcome in zip(state.charges, state.decision.outcomes, strict=True):
            if charge.quota.shadow:
                continue
            left = max(0, outcome.remaining - charge.cost)
            share = left / charge.quota.amount
            if tightest is None or share < tightest[0]:
                tightest = (share, charge, outcome, left)
        if tightest is not None:
            _, charge, outcome, left = tightest
            response.blocks.append(b"".join([b"%b: %b\r\n" % pair for pair in self._fields(charge, outcome, left)]))

    def _fields(self, charge: Charge, outcome: Outcome, left: int) -> tuple[tuple[bytes, bytes], ...]:
        quota = charge.quota
        seconds = -(-max(outcome.reset, outcome.retry) // 1000)
        name, policy = self._told[id(quota)]
        fields = ((b"ratelimit-policy", policy), (b"ratelimit", b"%b;r=%d;t=%d" % (name, left, seconds)))
        if not self._legacy:
            return fields
        return (
            *fields,
            (b"x-ratelimit-limit", b"%d" % quota.amount),
            (b"x-ratelimit-remaining", b"%d" % left),
            (b"x-ratelimit-reset", b"%d" % seconds),
        )

    def on_complete(self, exchange: Exchange) -> None:
        """Without an answer, what was reserved is taken where the upstream was asked: who resets the connection before
        it answers has had the work done."""
        state = exchange.throttled
        if state is None or state.reservation == "-" or state.decision is None or not state.decision.admitted:
            return
        taken = state.taken
        if taken is None:
            taken = [charge.cost if exchange.asked else 0 for charge in state.charges]
        for at, limit in enumerate(state.limits):
            if limit.body_unit:
                taken[at] = limit.body_cost(exchange.bytes_in)
        self._settle(state, taken)

    def _settle(self, state: Throttled, taken: list[int]) -> None:
        self._held.pop(state.reservation, None)
        held = [pair for pair in zip(state.charges, taken, strict=True) if pair[0].holds]
        if held:
            self._limiter.settle(held, state.reservation)

    def forget(self, state: Throttled) -> None:
        """The client had gone when the decision came: what it holds is given back."""
        if state.decision is not None and state.decision.admitted:
            self._settle(state, [0] * len(state.charges))


def _third(held: list[Charge]) -> float:
    """Of the shortest lease, in seconds."""
    return min([charge.quota.lease for charge in held]) / 3000


def _told(quota: Quota) -> tuple[bytes, bytes]:
    """The quota's name, and its policy, as the fields have them."""
    name = b'"%b"' % quota.name.encode()
    window = b";w=%d" % (quota.window // 1000) if quota.window else b';qu="concurrent-requests"'
    return name, b"%b;q=%d%b" % (name, quota.amount, window)


def _taken(charge: Charge, limit: Limit, response: Response) -> int:
    """What a reserved charge comes to by the answer."""
    if limit.counts is not None and not limit.counts(response.status):
        return 0
    if limit.cost_header:
        given = response.headers.get(limit.cost_header)
        if given is not None and given.isdigit() and len(given) < 10:
            return min(MAX_COST, int(given))
    return charge.cost
