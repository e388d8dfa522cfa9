"""Delayed callbacks, run by one task per connection."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from anyamqp.net.event_loop import Flag
from anyamqp.protocol.schedule import Schedule


class Timer:
    """A delayed callback, until it fires or is cancelled."""

    __slots__ = ("_call", "_schedule")

    def __init__(self, call: Callable[[], None], schedule: Schedule[Timer]) -> None:
        self._call: Callable[[], None] | None = call
        self._schedule = schedule

    def cancel(self) -> None:
        """Never call the callback."""
        self._call = None
        self._schedule.discard(self)

    def fire(self) -> None:
        """Call the callback, unless the timer is cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Deadlines:
    """One timer for many deadlines, set for the nearest of them.

    Args:
        later: makes a timer that calls a function after some seconds.
        expire: called with the current time when a deadline has passed. It returns the nearest deadline that is left;
            None if there is no other.

    Attributes:
        nearest: the deadline that the timer is set for; infinity if none is.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], Timer], expire: Callable[[float], float | None]
    ) -> None:
        self.nearest: float = math.inf
        self._later = later
        self._expire = expire
        self._timer: Timer | None = None

    def add(self, deadline: float | None) -> None:
        """Expire at ``deadline``, a time of the event loop's clock; None means never."""
        if deadline is None or deadline >= self.nearest:
            return
        self.cancel()
        self.nearest = deadline
        self._timer = self._later(max(0.0, deadline - anyio.current_time()), self._fire)

    def cancel(self) -> None:
        """Drop all deadlines."""
        self.nearest = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self.cancel()
        self.add(self._expire(anyio.current_time()))


class Timers:
    """Calls plain functions later. They may neither raise nor wait."""

    def __init__(self) -> None:
        self._schedule: Schedule[Timer] = Schedule()
        self._earlier = Flag()

    def __len__(self) -> int:
        """Number of timers held, cancelled ones included: at most twice those yet to fire, and a few."""
        return len(self._schedule)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` after ``seconds``."""
        timer = Timer(call, self._schedule)
        at = anyio.current_time() + seconds
        if at < self._schedule.nearest:
            self._earlier.set()
        self._schedule.add(at, timer)
        return timer

    async def run(self) -> None:
        """Call the functions that are due, for ever."""
        while True:
            while (timer := self._schedule.take_due(anyio.current_time())) is not None:
                timer.fire()
            self._earlier = Flag()
            with anyio.CancelScope(deadline=self._schedule.nearest):
                await self._earlier.wait()
