"""Cancels code at one chosen await, on any event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio


class _Counted:
    """An awaitable that calls ``cancel`` when it suspends for the ``at``-th time."""

    def __init__(self, work: Awaitable[object], at: int, cancel: Callable[[], None]) -> None:
        self.suspensions = 0
        self._work = work
        self._at = at
        self._cancel = cancel

    def __await__(self) -> Generator[Any, Any, None]:
        work = self._work.__await__()
        thrown: BaseException | None = None
        value: Any = None
        while True:
            try:
                trap = work.send(value) if thrown is None else work.throw(thrown)
            except StopIteration:
                return
            self.suspensions += 1
            if self.suspensions == self._at:
                self._cancel()
            thrown = None
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - passed on into the work, which alone decides
                thrown = error


async def cancel_at(at: int, work: Callable[[], Awaitable[object]]) -> bool:
    """Run ``work`` and cancel it at its ``at``-th suspension, counted from 1.

    Returns:
        Whether the work was suspended that often; False means that it ended before.
    """
    with anyio.CancelScope() as scope:
        counted = _Counted(work(), at, scope.cancel)
        await counted
        return counted.suspensions >= at
    return True
