"""Wakes tasks that wait for news."""

from __future__ import annotations

from typing import Protocol


class Wakeable(Protocol):
    """An object that a task waits for."""

    def set(self) -> object:
        """Wake the task, now or as soon as it waits. Only the first call has an effect."""
        ...


class Wakers:
    """The tasks that wait for the next news of one object."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[Wakeable] | None = None

    def add(self, waker: Wakeable) -> None:
        """Wake ``waker`` at the next :meth:`wake`."""
        if self._waiting is None:
            self._waiting = set()
        self._waiting.add(waker)

    def discard(self, waker: Wakeable) -> None:
        """Remove ``waker``, whose task no longer waits."""
        if self._waiting is not None:
            self._waiting.discard(waker)

    def wake(self) -> None:
        """Wake all of them: there is news."""
        waiting, self._waiting = self._waiting, None
        for waker in waiting or ():
            waker.set()
