"""Checks of users' handlers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from anyamqp.delivery import Delivery
from anyamqp.errors import InvalidArgument

T = TypeVar("T")

Handler: TypeAlias = Callable[[Delivery], Awaitable[object]]
"""An async function that handles a delivery."""


class NotAwaitable(Exception):
    """A handler, such as a lambda, returned something that cannot be awaited."""


def checked_handler(handler: Callable[[Delivery], Awaitable[T]]) -> Callable[[Delivery], Awaitable[T]]:
    """Refuse a handler that cannot work, before it costs a message.

    Returns:
        The handler. If its definition does not show whether it is async, as with a lambda, its result is checked.

    Raises:
        InvalidArgument: it is certainly not async, or does not take one argument by position.
    """
    function: Any = handler
    while isinstance(function, partial):
        function = function.func
    if not callable(function):
        raise InvalidArgument(f"handler: {handler!r} is not a function")
    name = getattr(function, "__qualname__", type(function).__qualname__)
    _check_takes_one(name, handler)
    called = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(called)):
        return handler
    # A lambda may return an awaitable, and so may a function that is not written in Python.
    is_plain = inspect.isroutine(function) or inspect.isfunction(called)
    if is_plain and getattr(function, "__name__", "") != "<lambda>":
        raise InvalidArgument(_not_async(name))

    async def checked(delivery: Delivery) -> T:
        result = handler(delivery)
        if not inspect.isawaitable(result):
            raise NotAwaitable(f"{_not_async(name)}; it returned {type(result).__name__}")
        return await result

    return checked


def _not_async(name: str) -> str:
    return (
        f"handler: {name} is not an async function; define it with 'async def', and run what blocks in a thread with "
        "anyio.to_thread.run_sync"
    )


def _check_takes_one(name: str, handler: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # its parameters are unknown
    try:
        signature.bind(object())
    except TypeError:
        raise InvalidArgument(
            f"handler: {name}{signature} does not take one argument by position, the delivery"
        ) from None
