"""Filters, their rules, and the chain that a route runs them in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

from proxy.exchange import Exchange, Payload, Response, Verdict
from proxy.rejection import Rejection


class Deferred:
    """What a request hook waits for where a future would cost more than the hook: its end is told by one call."""

    __slots__ = ("_then", "done")

    def __init__(self) -> None:
        self.done = False
        self._then: Callable[[Deferred, Exception | None], None] | None = None

    def then(self, told: Callable[[Deferred, Exception | None], None]) -> None:
        """Who is told; before it ends, which is never within the hook itself."""
        self._then = told

    def end(self, error: Exception | None = None) -> None:
        if not self.done and self._then is not None:
            self.done = True
            self._then(self, error)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.done = True


Wait = Awaitable[None] | Deferred | None
OnVerdict = Callable[[Exchange, Verdict], None]


class Mode(Enum):
    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


class Rule:
    """A named part of the policy and what it may do. Filters refuse and ask through it, and know no more of modes."""

    __slots__ = ("_on_verdict", "mode", "name")

    def __init__(self, name: str, mode: Mode, on_verdict: OnVerdict) -> None:
        self.name = name
        self.mode = mode
        self._on_verdict = on_verdict

    def refuse(self, exchange: Exchange, rejection: Rejection) -> None:
        """Count and record the refusal; raise it where the rule enforces."""
        rejection.rule = self.name
        enforced = self.mode is Mode.ENFORCE
        why = "" if enforced else rejection.detail
        verdict = Verdict(self.name, rejection.reason, rejection.status, enforced, why=why)
        exchange.verdicts += (verdict,)
        self._on_verdict(exchange, verdict)
        if enforced:
            raise rejection

    def saw(self, exchange: Exchange, rejection: Rejection) -> None:
        """Count and record what can't be refused any more."""
        verdict = Verdict(self.name, rejection.reason, rejection.status, False)
        exchange.verdicts += (verdict,)
        self._on_verdict(exchange, verdict)

    def shadowed(self, exchange: Exchange, rejection: Rejection) -> None:
        """Count and tell what a rule that shadows would have refused; not kept: a WebSocket has many messages."""
        verdict = Verdict(self.name, rejection.reason, rejection.status, False, why=rejection.detail)
        self._on_verdict(exchange, verdict)

    def changed(self, exchange: Exchange, detail: str, *, recorded: bool = True) -> None:
        """Count a change, which only an enforcing rule may make; and record it, but of a WebSocket's many messages.

        `detail` is made of words of the policy.
        """
        verdict = Verdict(self.name, "changed", 0, self.mode is Mode.ENFORCE, detail)
        if recorded:
            exchange.verdicts += (verdict,)
        self._on_verdict(exchange, verdict)

    def enforces(self, exchange: Exchange) -> bool:
        """Whether the rule may change bytes; where it only shadows, what it would have done is counted here."""
        if self.mode is Mode.ENFORCE:
            return True
        verdict = Verdict(self.name, "would-change", 0, False)
        exchange.verdicts += (verdict,)
        self._on_verdict(exchange, verdict)
        return False


class Watch:
    """Sees the start of an upstream's body, up to `most` bytes; where it `holds`, they wait until it has judged."""

    __slots__ = ("holds", "most")

    def __init__(self, most: int, *, holds: bool) -> None:
        self.most = most
        self.holds = holds

    def judge(self, seen: bytes, *, whole: bool) -> bytes:
        """What goes on in their place, of another length only where they are the whole body. Raises Rejection where it
        holds."""
        raise NotImplementedError


class Filter:
    """One policy step, shared by all exchanges of a route; what belongs to one exchange is kept on the Exchange.

    A hook returns None, or an awaitable where it has to wait; only that is awaited. `on_complete` never waits.
    A filter that overrides a payload hook makes its routes buffer that body, within the route's limit.
    """

    __slots__ = ()

    def on_request(self, exchange: Exchange) -> Wait:
        """The head of an HTTP request, or a WebSocket handshake, before anything is sent to the upstream."""

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        """The whole request body."""

    def on_upstream_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        """The whole response body."""

    def on_answer(self, exchange: Exchange, response: Response) -> Watch | None:
        """The head of the upstream's answer, which has a body: who wants to see that."""

    def on_response(self, exchange: Exchange, response: Response) -> None:
        """The upstream's answer, or our own (a refusal too), before its head is written. It may not wait or refuse."""

    def on_complete(self, exchange: Exchange) -> None:
        """The end, whatever it was; runs once, in reverse order, where this filter's turn had come."""

    def on_still_open(self, exchange: Exchange) -> None:
        """A WebSocket that was let in runs still; asked with each sweep. Raises the Rejection that closes it."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In whose names it judges, for those who ask what a route runs."""
        return ()


class RuleFilter(Filter):
    """A filter that judges in one rule's name."""

    __slots__ = ("_rule",)

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (self._rule,)


class FilterChain:
    """The filters of a route with, for each hook, the bound methods of those that override it."""

    __slots__ = (
        "_count",
        "_requests",
        "answers",
        "buffers_request",
        "buffers_response",
        "client_payload",
        "completes",
        "filters",
        "responses",
        "still_open",
        "upstream_payload",
    )

    def __init__(self, filters: tuple[Filter, ...]) -> None:
        self.filters = filters
        self._count = len(filters)
        self._requests = tuple((index, f.on_request) for index, f in enumerate(filters) if _overrides(f, "on_request"))
        self.completes = tuple(
            (index, f.on_complete) for index, f in reversed(list(enumerate(filters))) if _overrides(f, "on_complete")
        )
        self.answers = tuple(f.on_answer for f in filters if _overrides(f, "on_answer"))
        self.responses = tuple(f.on_response for f in filters if _overrides(f, "on_response"))
        self.still_open = tuple(f.on_still_open for f in filters if _overrides(f, "on_still_open"))
        self.client_payload = tuple(f.on_client_payload for f in filters if _overrides(f, "on_client_payload"))
        self.upstream_payload = tuple(f.on_upstream_payload for f in filters if _overrides(f, "on_upstream_payload"))
        self.buffers_request = bool(self.client_payload)
        self.buffers_response = bool(self.upstream_payload)

    @property
    def rule_names(self) -> tuple[str, ...]:
        """In the order in which they judge; a mode other than enforce is told."""
        rules = dict.fromkeys(rule for one in self.filters for rule in one.rules)
        return tuple(rule.name if rule.mode is Mode.ENFORCE else f"{rule.name} ({rule.mode.value})" for rule in rules)

    def on_request(self, exchange: Exchange, after: int = -1) -> Wait:
        """Run the request hooks that come after the filter of that number.

        Where one has to wait, what it waits for is returned, and the chain goes on with `after=exchange.begun`.
        """
        index = after
        try:
            for index, hook in self._requests if after < 0 else self._after(after):  # known if one raises
                waiting = hook(exchange)
                if waiting is not None:
                    exchange.begun = index
                    return waiting
        except BaseException:
            exchange.begun = index
            raise
        exchange.begun = self._count
        return None

    def _after(self, after: int) -> list[tuple[int, Callable[[Exchange], Wait]]]:
        return [(index, hook) for index, hook in self._requests if index > after]

    def on_client_payload(self, exchange: Exchange, payload: Payload) -> Awaitable[None] | None:
        """None where no hook had to wait; else what waits for it, and for those after it."""
        hooks = self.client_payload
        for index, hook in enumerate(hooks):
            if (waiting := hook(exchange, payload)) is not None:
                return self._judge_payload(waiting, hooks[index + 1 :], exchange, payload)
        return None

    async def _judge_payload(
        self,
        waiting: Awaitable[None],
        hooks: tuple[Callable[[Exchange, Payload], Awaitable[None] | None], ...],
        exchange: Exchange,
        payload: Payload,
    ) -> None:
        await waiting
        for hook in hooks:
            if (following := hook(exchange, payload)) is not None:
                await following

    async def on_upstream_payload(self, exchange: Exchange, payload: Payload) -> None:
        for hook in self.upstream_payload:
            if (waiting := hook(exchange, payload)) is not None:
                await waiting

    def on_answer(self, exchange: Exchange, response: Response) -> Watch | None:
        """The first who wants to; policies make one filter of all that read answers."""
        return next((watch for hook in self.answers if (watch := hook(exchange, response)) is not None), None)

    def on_response(self, exchange: Exchange, response: Response) -> None:
        for hook in self.responses:
            hook(exchange, response)

    def on_complete(self, exchange: Exchange) -> None:
        begun = exchange.begun
        exchange.begun = -2 - begun
        for index, hook in self.completes:
            if index <= begun:
                hook(exchange)


def _overrides(instance: Filter, hook: str) -> bool:
    return getattr(type(instance), hook) is not getattr(Filter, hook)
