"""The time of a world, and its timers."""

from __future__ import annotations

import math
from collections.abc import Callable


class Clock:
    """The time in seconds. It moves only from deadline to deadline.

    Attributes:
        now: the time.
        calls: the timers: when each is due, and the function that it calls.
    """

    def __init__(self) -> None:
        self.now: float = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function in so many seconds."""
        self.calls.append((self.now + seconds, call))

    def take_due(self) -> list[Callable[[], None]]:
        """Take the calls whose time has come."""
        due = [call for at, call in sorted(self.calls, key=_time) if at <= self.now]
        self.calls = [(at, call) for at, call in self.calls if at > self.now]
        return due

    @property
    def nearest(self) -> float:
        """When the next call is due; infinity for never."""
        return min((at for at, _ in self.calls), default=math.inf)


def _time(call: tuple[float, Callable[[], None]]) -> float:
    return call[0]
