"""The window of a publisher, which limits its unconfirmed messages by count and by bytes."""

from __future__ import annotations

from collections import OrderedDict

from anyamqp.protocol.schedule import Schedule
from anyamqp.protocol.waking import Wakeable


class WindowWaiter:
    """A task that waits for room in a window.

    Args:
        size: how many bytes it needs.
        deadline: when it stops waiting; infinity for never.
        waker: wakes the task when the wait ends.

    Attributes:
        is_granted: whether the waiter got its room.
    """

    __slots__ = ("deadline", "is_granted", "size", "waker")

    def __init__(self, size: int, deadline: float, waker: Wakeable) -> None:
        self.size: int = size
        self.deadline: float = deadline
        self.waker: Wakeable = waker
        self.is_granted: bool = False


class Window:
    """Room for unconfirmed messages, by count and by bytes. Waiters get room in the order in which they came.

    A message larger than the whole window gets room when the window is empty.

    Args:
        count: how many messages the window holds.
        size: how many bytes it holds.

    Attributes:
        count: how many messages it holds.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count: int = count
        self._size = size
        self._used_count = 0
        self._used_size = 0
        self._waiting: OrderedDict[WindowWaiter, None] = OrderedDict()
        self._deadlines: Schedule[WindowWaiter] = Schedule()

    def try_take(self, size: int) -> bool:
        """Take room if there is enough and nobody waits. Returns whether it did."""
        return not self._waiting and self._take_if_free(size)

    def wait(self, waiter: WindowWaiter) -> None:
        """Queue a waiter. It is woken when it has its room, or when :meth:`dismiss` ends its wait."""
        self._waiting[waiter] = None
        self._deadlines.add(waiter.deadline, waiter)
        self._grant()

    def withdraw(self, waiter: WindowWaiter) -> None:
        """The waiter's task was cancelled: give back its room, or its place in the queue."""
        if waiter.is_granted:
            self.give_back(waiter.size)
        elif waiter in self._waiting:
            del self._waiting[waiter]
            self._deadlines.discard(waiter)
            self._grant()

    def give_back(self, size: int, count: int = 1) -> None:
        """Give back the room of ``count`` messages that have ``size`` bytes together."""
        self._used_count -= count
        self._used_size -= size
        if self._waiting:
            self._grant()

    def dismiss(self, now: float) -> None:
        """End the waits whose deadline has passed; all waits, if ``now`` is infinity."""
        while (waiter := self._deadlines.take_due(now)) is not None:
            del self._waiting[waiter]
            waiter.waker.set()
        self._grant()

    @property
    def nearest(self) -> float:
        """The earliest deadline of a waiter; infinity if nobody waits."""
        return self._deadlines.nearest

    def _grant(self) -> None:
        while self._waiting and self._take_if_free(next(iter(self._waiting)).size):
            waiter, _ = self._waiting.popitem(last=False)
            self._deadlines.discard(waiter)
            waiter.is_granted = True
            waiter.waker.set()

    def _take_if_free(self, size: int) -> bool:
        fits = self._used_count < self.count and self._used_size + size <= self._size
        if not fits and self._used_count:
            return False
        self._used_count += 1
        self._used_size += size
        return True
