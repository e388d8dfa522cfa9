"""Items ordered by time."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SLACK: Final = 64
"""The heap is rebuilt when it has this many more entries than twice the items."""


class Schedule(Generic[T]):
    """Items, each with a time. The earliest comes first; items with the same time keep the order in which they came.

    A discarded item stays in the heap until the heap is rebuilt, which happens when more than half of the entries are
    discarded items. So the remaining items bound the size of the heap (invariant 11), and discarding takes amortized
    constant time.
    """

    __slots__ = ("_heap", "_items", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._items: set[T] = set()
        self._numbers = count()

    def __len__(self) -> int:
        """The number of entries in the heap, including discarded items."""
        return len(self._heap)

    def add(self, at: float, item: T) -> None:
        """Add an item. It must not have been added before."""
        self._items.add(item)
        heapq.heappush(self._heap, (at, next(self._numbers), item))

    def discard(self, item: T) -> None:
        """Remove an item, if it is there."""
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
        """Remove and return the first item that is due; None if there is none."""
        if self.nearest > now or not self._heap:
            return None
        item = heapq.heappop(self._heap)[2]
        self._items.remove(item)
        return item
