"""What is to be done later: one task a connection, however many things wait."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from anyamqp.net.event_loop import Flag
from anyamqp.protocol.schedule import Schedule


class Timer:
    """Something to be done at a time, unless it is cancelled before."""

    __slots__ = ("_call", "_schedule")

    def __init__(self, call: Callable[[], None], schedule: Schedule[Timer]) -> None:
        self._call: Callable[[], None] | None = call
        self._schedule = schedule

    def cancel(self) -> None:
        """Do nothing when the time comes."""
        self._call = None
        self._schedule.discard(self)

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
        self._schedule: Schedule[Timer] = Schedule()
        self._earlier = Flag()

    def __len__(self) -> int:
        """Timers held, which are at most twice as many as those that are still to fire, and a few."""
        return len(self._schedule)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` in so many seconds."""
        timer = Timer(call, self._schedule)
        at = anyio.current_time() + seconds
        if at < self._schedule.nearest:
            self._earlier.set()
        self._schedule.add(at, timer)
        return timer

    async def run(self) -> None:
        """Call what is due, for ever."""
        while True:
            while (timer := self._schedule.take_due(anyio.current_time())) is not None:
                timer.fire()
            self._earlier = Flag()
            with anyio.CancelScope(deadline=self._schedule.nearest):
                await self._earlier.wait()
