"""Cancelling at one chosen await, on any event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any

import anyio


@coroutine
def _step(work: Generator[Any, Any, object], at: int, cancel: Callable[[], None]) -> Generator[Any, Any, int]:
    """Run ``work``; call ``cancel`` when it suspends for the ``at``-th time. Returns how often it suspended."""
    suspensions = 0
    resume: Callable[[], Any] = lambda: work.send(None)  # noqa: E731 - what to do next, replaced at each turn
    while True:
        try:
            trap = resume()
        except StopIteration:
            return suspensions
        suspensions += 1
        if suspensions == at:
            cancel()
        try:
            value = yield trap
        except BaseException as error:  # noqa: BLE001 - passed on into the work, which alone decides
            thrown = error
            resume = lambda thrown=thrown: work.throw(thrown)  # noqa: E731
        else:
            resume = lambda value=value: work.send(value)  # noqa: E731


async def cancel_at(at: int, work: Callable[[], Awaitable[object]]) -> bool:
    """Run ``work`` and cancel it at its ``at``-th suspension, counted from 1.

    Returns:
        Whether there was one; False means that the work came to its end before.
    """
    suspended = 0

    async def run() -> None:
        nonlocal suspended
        suspended = await _step(work().__await__(), at, scope.cancel)

    with anyio.CancelScope() as scope:
        await run()
        return suspended >= at
    return True
