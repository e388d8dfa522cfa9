"""What the embedded broker has to do later: let messages and queues expire, time out deliveries. No I/O."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count


class Timer:
    """One thing to be done once.

    Args:
        when: the time, in seconds on the broker's clock.
        action: what is done then.
    """

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when: float = when
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it."""
        self.action = None


class Timers:
    """The timers of a broker, soonest first.

    Args:
        clock: the time in seconds.
        wake: called when a timer is set that is due before all others.

    Attributes:
        epoch: the time of day when the clock shows 0, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float], wake: Callable[[], None] = lambda: None) -> None:
        self.clock: Callable[[], float] = clock
        self.epoch: float = 0.0
        self._wake = wake
        self._order = count()
        self._heap: list[tuple[float, int, Timer]] = []

    @property
    def now(self) -> float:
        """The time in seconds."""
        return self.clock()

    @property
    def time_of_day(self) -> datetime:
        """The time that messages carry."""
        return datetime.fromtimestamp(int(self.epoch + self.now), UTC)

    def when(self, time_of_day: datetime) -> float:
        """The clock's time at a time of day."""
        return time_of_day.timestamp() - self.epoch

    @property
    def next_due(self) -> float | None:
        """When the next timer is due; None if none is set."""
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Do something after so many seconds."""
        due = self.next_due
        timer = Timer(self.now + seconds, action)
        heapq.heappush(self._heap, (timer.when, next(self._order), timer))
        if due is None or timer.when < due:
            self._wake()
        return timer

    def run_due(self) -> None:
        """Do all that is due."""
        now = self.now
        while (due := self.next_due) is not None and due <= now:
            timer = heapq.heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is not None:
                action()
