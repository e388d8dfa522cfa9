"""The consumers of one queue, and which of them gets the next message. No I/O.

The order follows RabbitMQ's ``rabbit_queue_consumers``: consumers of the highest priority take turns. One that has no
room when its turn comes steps aside; when it has room again, it is the last of its priority.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Taker(Protocol):
    """A consumer, as far as its turn is concerned.

    Attributes:
        priority: its ``x-priority``; the highest goes first.
        unacked: number of its unsettled messages.
    """

    priority: int
    unacked: int

    def can_take(self) -> bool:
        """Whether its prefetch and its connection's buffer have room."""
        ...


TakerT = TypeVar("TakerT", bound=Taker)


class Consumers(Generic[TakerT]):
    """The consumers of a queue, served by priority and in turn.

    Attributes:
        is_exclusive: whether there is one that admits no others.
    """

    __slots__ = ("_aside", "_turns", "is_exclusive")

    def __init__(self) -> None:
        self.is_exclusive: bool = False
        self._turns: list[TakerT] = []
        """The highest priority first; within a priority, whose turn it is."""
        self._aside: list[TakerT] = []
        """Those without room, in the order in which they stepped aside."""

    def __len__(self) -> int:
        return len(self._turns) + len(self._aside)

    def __iter__(self) -> Iterator[TakerT]:
        return iter([*self._turns, *self._aside])

    def add(self, consumer: TakerT, *, exclusive: bool = False) -> None:
        """Add a consumer, as the last of its priority."""
        place = len(self._turns)
        while place and self._turns[place - 1].priority < consumer.priority:
            place -= 1
        self._turns.insert(place, consumer)
        self._admit(exclusive=exclusive)

    def _admit(self, *, exclusive: bool) -> None:
        self.is_exclusive = self.is_exclusive or exclusive

    def remove(self, consumer: TakerT) -> None:
        """Remove a consumer."""
        (self._turns if consumer in self._turns else self._aside).remove(consumer)
        self.is_exclusive = False

    def clear(self) -> None:
        """Remove all of them."""
        self._turns.clear()
        self._aside.clear()
        self.is_exclusive = False

    def readmit(self) -> None:
        """Give the consumers that have room again their turns. To be called whenever one may have got room."""
        ready = [consumer for consumer in self._aside if consumer.can_take()]
        if ready:
            self._aside = [consumer for consumer in self._aside if consumer not in ready]
            for consumer in ready:
                self.add(consumer)

    def next(self) -> TakerT | None:
        """The consumer whose turn it is among those that can take a message; None if none can."""
        while self._turns:
            consumer = self._turns.pop(0)
            if consumer.can_take():
                self.add(consumer)
                return consumer
            self._aside.append(consumer)
        return None


class SingleActive(Consumers[TakerT]):
    """The consumers of a queue with ``x-single-active-consumer``: one of them gets all messages.

    Args:
        by_priority: the next one to be active is the first of the highest priority; otherwise the first of all.
        gives_way: the active one is replaced by one of a higher priority that comes, as soon as it has settled all of
            its messages.
    """

    __slots__ = ("_active", "_by_priority", "_gives_way")

    def __init__(self, *, by_priority: bool, gives_way: bool) -> None:
        super().__init__()
        self._by_priority = by_priority
        self._gives_way = gives_way
        self._active: TakerT | None = None

    def add(self, consumer: TakerT, *, exclusive: bool = False) -> None:
        """Add a consumer."""
        self._turns.append(consumer)
        self._admit(exclusive=exclusive)
        if self._active is None:
            self._active = consumer

    def remove(self, consumer: TakerT) -> None:
        """Remove a consumer. If it was active, the next one is."""
        super().remove(consumer)
        if consumer is self._active:
            self._active = self._first()

    def clear(self) -> None:
        """Remove all of them."""
        super().clear()
        self._active = None

    def next(self) -> TakerT | None:
        """The active consumer if it can take a message; None if it cannot, or is to give way."""
        active, first = self._active, self._first()
        if active is None or first is None:
            return None
        if self._gives_way and first.priority > active.priority:
            if active.unacked:
                return None
            active = self._active = first
        return active if active.can_take() else None

    def _first(self) -> TakerT | None:
        if not self._by_priority:
            return self._turns[0] if self._turns else None
        return max(self._turns, key=lambda consumer: consumer.priority, default=None)
