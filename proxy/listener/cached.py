"""Where an exchange meets its route's cache: served, led to the upstream, or made to wait for another's answer."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING

from proxy.cache.edge import SAFE
from proxy.cache.ticket import Ticket
from proxy.exchange import Response
from proxy.filter import Deferred
from proxy.http1.framing import NO_BODY, UNTIL_CLOSE
from proxy.listener.refresh import Refresh
from proxy.listener.sockets import Sockets

if TYPE_CHECKING:
    from proxy.cache.edge import Edge
    from proxy.cache.flight import Flight
    from proxy.cache.second import SecondLevel
    from proxy.cache.store import Entry
    from proxy.listener.http1 import Downstream
    from proxy.rejection import Rejection

log = logging.getLogger(__name__)

STALE_INSTEAD = frozenset(
    {"breaker-open", "overloaded", "upstream-unavailable", "upstream-reset", "upstream-timeout", "upstream-busy",
     "invalid-upstream-response", "deadline-exceeded"}
)  # fmt: skip
"""Rejections that a kept answer may stand in for."""


class Cached(Sockets):
    __slots__ = ("_task", "_ticket", "_waits_until")

    def __init__(self, client: Downstream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(client, loop)
        self._task: asyncio.Future[None] | Deferred | None = None
        self._ticket: Ticket | None = None
        self._waits_until = 0.0

    @abstractmethod
    def _own_answer(self, response: Response, *, closing: bool) -> None:
        """End with this answer; the Forwarder's."""

    @abstractmethod
    def _defect(self, error: BaseException | None = None) -> None: ...

    def _ask_cache(self, edge: Edge, after: Flight | None = None) -> None:
        exchange = self._current()
        now = self._loop.time()
        may_wait = not self._waits_until or now < self._waits_until
        found = edge.ask(exchange, bodyless=self.upload.length == NO_BODY, now=now, may_wait=may_wait, after=after)
        if found is None:
            self._enter()
        elif isinstance(found, Response):
            self._own_answer(found, closing=False)
        elif isinstance(found, Ticket):
            self._ticket = found
            stale = found.refreshes
            if stale is None or not Refresh.possible(self._route):
                second = edge.second
                if second is not None and found.flight is not None and found.entry is None and second.available():
                    self._look(edge, second, found)
                else:
                    self._enter()
                return
            self._ticket = None
            Refresh(found, self._route, self._loop).begin()
            self._own_answer(stale, closing=False)
        else:
            if not self._waits_until:
                self._waits_until = now + edge.terms.wait
            self._task = waiting = found.wait()
            waiting.then(lambda waited, _: self._on_landed(edge, found, waited))
            self._timers.append(self._loop.call_at(self._waits_until, waiting.end))

    def _look(self, edge: Edge, second: SecondLevel, ticket: Ticket) -> None:
        """Ask the other sidecars' store, and wait for the one that asks the upstream, before this one does."""
        self._task = waiting = Deferred()
        lease = ""
        leads = False

        def found(entry: Entry | None, leading: bool) -> None:
            nonlocal leads
            if waiting.done:
                if leading:
                    second.let_go(ticket.key, lease)
                return
            leads = leading
            if entry is not None:
                edge.store.put(entry)
            waiting.end()

        def looked(waited: Deferred, _: Exception | None) -> None:
            if self._task is not waited:
                return
            self._task = None
            ticket.lease = lease if leads else ""
            try:
                self._on_looked(edge, ticket)
            except Exception:
                self._defect()

        waiting.then(looked)
        self._timers.append(self._loop.call_later(edge.terms.wait, waiting.end))
        lease = second.look(ticket.key, edge.terms.wait, lambda entry, leading: found(entry, leading))

    def _on_looked(self, edge: Edge, ticket: Ticket) -> None:
        kept = edge.taken(self._current(), ticket.key, self._loop.time())
        if kept is None:
            self._enter()
            return
        self._ticket = None
        ticket.fail()
        self._own_answer(kept, closing=False)

    def _on_landed(self, edge: Edge, flight: Flight, waited: Deferred) -> None:
        """Another's answer is kept now, or will not be; whoever calls is not to suffer from what this one does."""
        if self._task is not waited:
            return
        self._task = None
        try:
            self._ask_cache(edge, flight)
        except Exception:
            self._defect()

    def _from_cache(self, response: Response, length: int) -> bool:
        """Whether something kept was served in this answer's place."""
        exchange, edge, ticket = self._current(), self._route.edge, self._ticket
        if edge is not None and exchange.method not in SAFE:
            edge.invalidated(exchange, response)
        if ticket is None:
            if edge is not None:
                edge.passed(exchange, response)
            return False
        try:
            kept = ticket.on_head(response, self._loop.time(), measured=length != UNTIL_CLOSE)
        except Exception:
            log.exception("an answer could not be kept", extra={"request_id": exchange.request_id.decode()})
            self._ticket = None
            ticket.fail()
            return False
        if ticket.asks_anew and self._cluster is not None:
            self._drop_attempt()
            self._try(self._cluster, self._loop.time())
            return True
        if kept is None:
            return False
        self._own_answer(kept, closing=False)
        return True

    def _stale_instead(self, rejection: Rejection) -> bool:
        ticket = self._ticket
        if ticket is None or self._answer.begun or rejection.reason not in STALE_INSTEAD:
            return False
        kept = ticket.stale(self._loop.time())
        if kept is None:
            return False
        self._current().failure = f"stale-{rejection.reason}"
        self._own_answer(kept, closing=False)
        return True
