"""Waiting for news that come again and again."""

from __future__ import annotations

import anyio


class Signal:
    """Wakes every task that waits for it, each time that it is given."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def give(self) -> None:
        """Wake the tasks that wait now."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait until the signal is given next."""
        await self._event.wait()
