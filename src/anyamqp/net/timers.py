"""What is to be done later: one task a connection, however many things wait."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final, Generic, TypeVar

import anyio

T = TypeVar("T")

_SLACK: Final = 64
"""Places of discarded items kept beyond the number of items before the heap is rebuilt."""


class Schedule(Generic[T]):
    """Items, each with a time. The earliest comes first; items of the same time come in the order of their adding.

    A discarded item keeps its place in the heap until the heap is rebuilt, which happens when more than half of the
    places are of discarded items. So the heap is bounded by the items that are left (invariant 11), and discarding
    takes constant time on average.
    """

    __slots__ = ("_heap", "_items", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._items: set[T] = set()
        self._numbers = count()

    def __len__(self) -> int:
        """Places in the heap, those of discarded items included."""
        return len(self._heap)

    def add(self, at: float, item: T) -> None:
        """Add an item that was never added before, with its time."""
        self._items.add(item)
        heapq.heappush(self._heap, (at, next(self._numbers), item))

    def discard(self, item: T) -> None:
        """Take an item out, if it is there."""
        self._items.discard(item)
        if len(self._heap) > 2 * len(self._items) + _SLACK:
            self._heap = [place for place in self._heap if place[2] in self._items]
            heapq.heapify(self._heap)

    @property
    def nearest(self) -> float:
        """The time of the first item; infinity if there is none."""
        heap = self._heap
        while heap and heap[0][2] not in self._items:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def take_due(self, now: float) -> T | None:
        """Take out the first item whose time has come; None if there is none."""
        if self.nearest > now or not self._heap:
            return None
        item = heapq.heappop(self._heap)[2]
        self._items.remove(item)
        return item


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
        self._earlier = anyio.Event()

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
            self._earlier = anyio.Event()
            with anyio.CancelScope(deadline=self._schedule.nearest):
                await self._earlier.wait()
