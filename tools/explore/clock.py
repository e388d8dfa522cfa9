"""The time of a world, and its timers."""

from __future__ import annotations

import math
from collections.abc import Callable

from anyamqp.net.timers import Deadlines


class Clock:
    """The time in seconds. It moves only from deadline to deadline.

    Attributes:
        time: the time.
        calls: the timers: when each is due, and the function that it calls.
    """

    def __init__(self) -> None:
        self.time: float = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        """The time, as the loop of a connection tells it."""
        return self.time

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in so many seconds."""
        self.calls.append((self.time + seconds, call))

    def take_due(self) -> list[Callable[[], None]]:
        """Take the calls whose time has come."""
        due = [call for at, call in sorted(self.calls, key=_time) if at <= self.time]
        self.calls = [(at, call) for at, call in self.calls if at > self.time]
        return due

    @property
    def nearest(self) -> float:
        """When the next call is due; infinity for never."""
        return min((at for at, _ in self.calls), default=math.inf)


class NoTimer(Deadlines):
    """Deadlines without a timer: the world asks the deciding object for its deadline."""

    def __init__(self) -> None:
        self.nearest: float = math.inf

    def add(self, deadline: float | None) -> None:
        """The world will see it."""

    def cancel(self) -> None:
        """The same."""


def _time(call: tuple[float, Callable[[], None]]) -> float:
    return call[0]
