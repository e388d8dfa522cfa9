"""What is to be done later: one task a connection, however many things wait."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

import anyio


class Timer:
    """Something to be done at a time, unless it is cancelled before."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self._call = None

    def fire(self) -> None:
        """The time has come."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Timers:
    """Calls plain functions, which may neither raise nor wait, when their time has come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._earlier = anyio.Event()

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in so many seconds."""
        timer = Timer(call)
        at = anyio.current_time() + seconds
        if not self._heap or at < self._heap[0][0]:
            self._earlier.set()
        heapq.heappush(self._heap, (at, next(self._numbers), timer))
        return timer

    async def run(self) -> None:
        """Call what is due, for ever."""
        while True:
            while self._heap and self._heap[0][0] <= anyio.current_time():
                heapq.heappop(self._heap)[2].fire()
            self._earlier = anyio.Event()
            with anyio.CancelScope(deadline=self._heap[0][0] if self._heap else float("inf")):
                await self._earlier.wait()
