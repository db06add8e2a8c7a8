"""One call through a breaker, for code that calls out: a context manager, and a decorator."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from breaker.breaker import Breaker

F = TypeVar("F", bound=Callable[..., Any])
NEUTRAL: tuple[type[BaseException], ...] = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""Ends of an attempt that say nothing of what was called."""


class Attempt:
    """One call. `succeeded`, `failed` or `ignore` may say before the block's end what it comes to."""

    __slots__ = ("_breaker", "_outcome", "_started", "_token")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._outcome: bool | None = None
        self._token = -1
        self._started = 0.0

    def __enter__(self) -> Attempt:
        self._token = self._breaker.admit()
        self._outcome = True
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        breaker, seconds = self._breaker, time.perf_counter() - self._started
        outcome = self._outcome
        if kind is not None and outcome:
            outcome = None if issubclass(kind, NEUTRAL + breaker.ignored) else False
        if outcome is None:
            breaker.neutral(self._token)
        elif outcome:
            breaker.success(self._token, seconds)
        else:
            breaker.failure(self._token, seconds)

    async def __aenter__(self) -> Attempt:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def failed(self) -> None:
        """What came back says that it failed, though nothing was raised."""
        self._outcome = False

    def ignore(self) -> None:
        """Whatever comes of it says nothing."""
        self._outcome = None


def guarded(breaker: Breaker, function: F) -> F:
    """The function, each call an attempt."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with Attempt(breaker):
                return await function(*args, **kwargs)

        return awaited  # type: ignore[return-value]  # it takes and gives what the function does

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with Attempt(breaker):
            return function(*args, **kwargs)

    return called  # type: ignore[return-value]  # it takes and gives what the function does
