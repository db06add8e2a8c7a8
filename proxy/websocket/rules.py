"""Rules on the messages of a WebSocket: what each looks at, and what becomes of a message that it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from proxy.exchange import Exchange
from proxy.filter import Mode, Rule
from proxy.filters.throttle import Limit
from proxy.inspect.judge import Judge, suspicion
from proxy.inspect.parts import unfolded
from proxy.inspect.sanitizer import Change, Sanitizer, Unreadable
from proxy.rejection import InvalidPayload, MessageRefused, MessageTooLarge, RateLimited
from proxy.throttle.charge import Charge
from proxy.websocket.messages import Message

Action = Literal["close", "drop", "error"]
"""Of a refused message: the socket closes by the rejection's code; or it goes no further; or its sender is told."""


class Check(Protocol):
    reads: bool
    """Whether it looks at payloads."""

    def begin(self) -> Any:
        """What it has to remember of one connection."""

    def judge(self, state: Any, exchange: Exchange, message: Message, now: float) -> None:
        """Raises the Rejection. `now` is seconds of the loop's clock."""


class Size:
    reads = False

    def __init__(self, most: int, frame: int, fragments: int) -> None:
        self.most = most
        self._frame = frame
        self._fragments = fragments

    def begin(self) -> None:
        return None

    def announced(self, size: int, frame: int) -> None:
        """Of a message that is not all there: what it comes to, and its largest frame. Raises MessageTooLarge."""
        if size > self.most:
            raise MessageTooLarge(f"a message exceeds {self.most} bytes")
        if self._frame and frame > self._frame:
            raise MessageTooLarge(f"a frame exceeds {self._frame} bytes")

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        self.announced(message.size, 0)
        if message.fragments > self._fragments:
            raise MessageTooLarge(f"a message has more than {self._fragments} fragments")
        if self._frame and any(len(raw) - head > self._frame for raw, head in message.raws):
            raise MessageTooLarge(f"a frame exceeds {self._frame} bytes")


class Rate:
    """So much in so much time on each connection: token buckets (GCRA) of several rates, all or nothing."""

    reads = False

    def __init__(
        self, rates: Sequence[tuple[int, int]], noun: str, cost: Callable[[Message], int] | None = None
    ) -> None:
        """`rates` are amounts and windows in milliseconds; a message costs 1 where nothing is said."""
        self._rates = tuple((amount, window / 1000, window / 1000 / amount) for amount, window in rates)
        self._noun = noun
        self._cost = cost

    def begin(self) -> list[float]:
        return [0.0] * len(self._rates)

    def judge(self, state: list[float], exchange: Exchange, message: Message, now: float) -> None:
        self.take(state, 1 if self._cost is None else self._cost(message), now)

    def take(self, state: list[float], cost: int, now: float) -> None:
        after = []
        for at, (amount, window, each) in enumerate(self._rates):
            before = state[at]
            full = (before if before > now else now) + cost * each
            wait = full - now - window
            if wait > 1e-6:
                raise RateLimited(
                    f"more than {amount} {self._noun} in {window:g} s",
                    remedy=f"Try again in {max(1, round(wait))} s.",
                    retry_after=wait,
                )
            after.append(full)
        state[:] = after


class Json:
    """A message is JSON, whatever its frames call it, no deeper and with no more keys than this."""

    reads = True

    def __init__(self, depth: int, keys: int) -> None:
        self._depth = depth
        self._keys = keys

    def begin(self) -> None:
        return None

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        left = self._keys
        level: list[Any] = [message.json]
        for _ in range(self._depth):
            below: list[Any] = []
            for value in level:
                if isinstance(value, dict):
                    left -= len(value)
                    below += value.values()
                elif isinstance(value, list):
                    left -= len(value)
                    below += value
            if left < 0:
                raise InvalidPayload(f"a message has more than {self._keys} keys and items")
            level = [value for value in below if isinstance(value, dict | list)]
            if not level:
                return
        raise InvalidPayload(f"a message nests deeper than {self._depth}")


class Types:
    """Which types of messages a client may send: by a claim's value, or all that are named for `*`."""

    reads = True

    def __init__(self, name: str, claim: str, allowed: Mapping[str, frozenset[str]]) -> None:
        self._field = name
        self._claim = claim
        self._allowed = allowed
        self._all = allowed.get("*", frozenset())

    def begin(self) -> None:
        return None

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        kind = type_of(message, self._field)
        claims = exchange.claims or {}
        allowed = self._allowed.get(str(claims.get(self._claim, "")), frozenset())
        if kind not in self._all and kind not in allowed and "*" not in allowed:
            raise MessageRefused("messages of this type are not for this client")


class Schemas:
    """What messages of a type look like (JSON Schema); `others` is whether other types pass."""

    reads = True

    def __init__(self, name: str, schemas: Mapping[str, Callable[[Any], bool]], *, others: bool) -> None:
        self._field = name
        self._schemas = schemas
        self._others = others

    def begin(self) -> None:
        return None

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        schema = self._schemas.get(type_of(message, self._field))
        if schema is None:
            if not self._others:
                raise MessageRefused("there is no such type of message")
        elif not schema(message.json):
            raise InvalidPayload("a message does not look like one of its type")


class Inspected:
    """A message looks like no attack: its JSON's texts and names, else its text, of binary ones too."""

    reads = True

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def begin(self) -> None:
        return None

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        text = message.payload.decode("utf-8", "replace")
        scored = self._judge.worst(unfolded("message", "", text))
        if scored is not None:
            raise suspicion(scored)


class Sanitized:
    """Named fields of a message's JSON are cleaned; the rules that come after it see what goes on."""

    reads = True

    def __init__(self, rule: Rule, sanitizer: Sanitizer) -> None:
        self._rule = rule
        self._sanitizer = sanitizer

    def begin(self) -> None:
        return None

    def judge(self, state: None, exchange: Exchange, message: Message, now: float) -> None:
        changes: list[Change] = []
        try:
            found = self._sanitizer.json(message.payload, changes)
        except Unreadable:
            raise InvalidPayload("a message is no JSON, so it can't be sanitized") from None
        for at, action in dict.fromkeys(changes):
            self._rule.changed(exchange, f"{at or '/'} {action}", recorded=False)
        if changes and self._rule.mode is Mode.ENFORCE:
            message.replace(found)


def type_of(message: Message, name: str) -> str:
    """Raises InvalidPayload where the message tells none."""
    if not message.type:
        found = message.json
        kind = found.get(name) if isinstance(found, dict) else None
        if not isinstance(kind, str) or not kind:
            raise InvalidPayload(f"a message has no text in {name}")
        message.type = kind
    return message.type


@dataclass(frozen=True, slots=True)
class MessageRule:
    """`client` and `upstream` are whose messages it judges; `limit` is asked last, since it may have to wait.

    `costs` is what a message takes of `limit`, by its type (in `field`).
    """

    rule: Rule
    action: Action
    checks: tuple[Check, ...] = ()
    client: bool = True
    upstream: bool = False
    limit: Limit | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    field: str = ""

    @property
    def reads(self) -> bool:
        return bool(self.costs) or any(check.reads for check in self.checks)

    def charges(self, exchange: Exchange, message: Message) -> list[Charge]:
        if self.limit is None:
            return []
        made = self.limit.charges(exchange)
        cost = self.costs.get(type_of(message, self.field), self.costs.get("*", 1)) if self.costs else 1
        return made if cost == 1 else [Charge(one.quota, one.identity, cost, one.label) for one in made if cost]
