"""Items in the order of their times."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Final, Generic, TypeVar

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
