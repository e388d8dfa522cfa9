"""The window of a publisher: how many unconfirmed messages, and bytes of them, it lets be on their way."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from anyamqp.protocol.schedule import Schedule


class Waker(Protocol):
    """Wakes a task."""

    def set(self) -> object:
        """Wake it, now or as soon as it waits. Done more than once, the others change nothing."""
        ...


class WindowWaiter:
    """A task that waits for room in a window.

    Args:
        size: the bytes that it needs.
        deadline: how long it waits; infinity for ever.
        waker: wakes the task when its wait has ended.

    Attributes:
        is_granted: whether the room was taken for it.
    """

    __slots__ = ("deadline", "is_granted", "size", "waker")

    def __init__(self, size: int, deadline: float, waker: Waker) -> None:
        self.size: int = size
        self.deadline: float = deadline
        self.waker: Waker = waker
        self.is_granted: bool = False


class Window:
    """Room for unconfirmed messages, by count and by bytes, granted to those that wait in their order.

    A message larger than the whole window gets in when it is alone.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._used_count = 0
        self._used_size = 0
        self._waiting: OrderedDict[WindowWaiter, None] = OrderedDict()
        self._deadlines: Schedule[WindowWaiter] = Schedule()

    def try_take(self, size: int) -> bool:
        """Take room at once, if it is there and nobody waits."""
        return not self._waiting and self._take_if_free(size)

    def wait(self, waiter: WindowWaiter) -> None:
        """Queue a waiter. It is woken when its room was taken, or when :meth:`dismiss` has ended its wait."""
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
        """Give back the room of so many messages, which have so many bytes together."""
        self._used_count -= count
        self._used_size -= size
        if self._waiting:
            self._grant()

    def dismiss(self, now: float) -> None:
        """End the wait of those whose deadline is past; of all, if ``now`` is infinity."""
        while (waiter := self._deadlines.take_due(now)) is not None:
            del self._waiting[waiter]
            waiter.waker.set()
        self._grant()

    @property
    def nearest(self) -> float:
        """The first deadline of those who wait; infinity if there is none."""
        return self._deadlines.nearest

    def _grant(self) -> None:
        while self._waiting and self._take_if_free(next(iter(self._waiting)).size):
            waiter, _ = self._waiting.popitem(last=False)
            self._deadlines.discard(waiter)
            waiter.is_granted = True
            waiter.waker.set()

    def _take_if_free(self, size: int) -> bool:
        fits = self._used_count < self._count and self._used_size + size <= self._size
        if not fits and self._used_count:
            return False
        self._used_count += 1
        self._used_size += size
        return True
