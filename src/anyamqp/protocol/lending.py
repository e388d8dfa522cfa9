"""The idle channels of a pool."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from anyamqp.errors import InvalidUse
from anyamqp.protocol.lifecycle.pool import POOL, PoolEffect, PoolEvent, PoolState


class Lendable(Protocol):
    """A channel, as its pool sees it."""

    @property
    def is_usable(self) -> bool:
        """Whether requests may still be sent on it."""
        ...


L = TypeVar("L", bound=Lendable)


class Lending(Generic[L]):
    """Decides which channel of a pool is lent, and which is kept."""

    def __init__(self) -> None:
        self._lifecycle = POOL.begin()
        self._idle: list[L] = []

    @property
    def state(self) -> PoolState:
        """The pool's state."""
        return self._lifecycle.state

    def enter(self) -> None:
        """The pool's block begins."""
        self._lifecycle.fire(PoolEvent.ENTERED)

    def leave(self) -> list[L]:
        """The pool's block ends. Returns the idle channels, to be closed."""
        self._lifecycle.fire(PoolEvent.LEFT)
        idle, self._idle = self._idle, []
        return idle

    def check(self) -> None:
        """Refuse a task that wants a channel, once the pool is closed.

        Raises:
            InvalidUse: the pool is closed.
        """
        if PoolEffect.LEND not in self._lifecycle.fire(PoolEvent.BORROWED).effects:
            raise InvalidUse("the pool is closed")

    def take(self) -> L | None:
        """Take the channel that was given back last; None if the task has to open another one.

        Raises:
            InvalidUse: the pool is closed.
        """
        self.check()
        while self._idle:
            if (last := self._idle.pop()).is_usable:
                return last
        return None

    def give_back(self, channel: L) -> bool:
        """A task gives a channel back. Returns whether it is kept; otherwise it is to be closed."""
        is_kept = PoolEffect.KEEP in self._lifecycle.fire(PoolEvent.RETURNED).effects and channel.is_usable
        if is_kept:
            self._idle.append(channel)
        return is_kept
