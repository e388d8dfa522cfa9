"""Waking the tasks that wait for news."""

from __future__ import annotations

from typing import Protocol


class Wakeable(Protocol):
    """An object that a task waits for."""

    def set(self) -> object:
        """Let the task go on."""
        ...


class Wakers:
    """The tasks that wait for the next news of something."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[Wakeable] | None = None

    def add(self, waker: Wakeable) -> None:
        """Wake it at the next :meth:`wake`."""
        if self._waiting is None:
            self._waiting = set()
        self._waiting.add(waker)

    def discard(self, waker: Wakeable) -> None:
        """Its task does not wait any more."""
        if self._waiting is not None:
            self._waiting.discard(waker)

    def wake(self) -> None:
        """There is news."""
        waiting, self._waiting = self._waiting, None
        for waker in waiting or ():
            waker.set()
