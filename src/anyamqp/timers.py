"""What is to be done later: one task a connection, however many things wait."""

from __future__ import annotations

import heapq
import math
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


class Deadlines:
    """One timer for many deadlines, set for the nearest of them.

    Args:
        later: makes a timer that calls a function in so many seconds.
        expire: called with the time when a deadline has passed. It returns the nearest that has not; None if there is
            no other.

    Attributes:
        nearest: the deadline that the timer is set for; infinity if it is not.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], Timer], expire: Callable[[float], float | None]
    ) -> None:
        self.nearest: float = math.inf
        self._later = later
        self._expire = expire
        self._timer: Timer | None = None

    def add(self, deadline: float | None) -> None:
        """Have it expire at that time, on the event loop's clock; None is never."""
        if deadline is None or deadline >= self.nearest:
            return
        self.cancel()
        self.nearest = deadline
        self._timer = self._later(max(0.0, deadline - anyio.current_time()), self._fire)

    def cancel(self) -> None:
        """Forget them all."""
        self.nearest = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self.cancel()
        self.add(self._expire(anyio.current_time()))


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
