"""The consumers of one queue, and which of them gets the next message. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Taker(Protocol):
    """A consumer, as far as its turn is concerned."""

    def can_take(self) -> bool:
        """Whether its prefetch and its connection's buffer have room."""
        ...


TakerT = TypeVar("TakerT", bound=Taker)


class Consumers(Generic[TakerT]):
    """The consumers of a queue, served one after the other.

    Attributes:
        is_exclusive: whether there is one that admits no others.
    """

    __slots__ = ("_order", "is_exclusive")

    def __init__(self) -> None:
        self.is_exclusive: bool = False
        self._order: deque[TakerT] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[TakerT]:
        return iter(list(self._order))

    def add(self, consumer: TakerT, *, exclusive: bool = False) -> None:
        """Add a consumer."""
        self._order.append(consumer)
        self.is_exclusive = exclusive

    def remove(self, consumer: TakerT) -> None:
        """Remove a consumer."""
        self._order.remove(consumer)
        self.is_exclusive = False

    def clear(self) -> None:
        """Remove all of them."""
        self._order.clear()
        self.is_exclusive = False

    def next(self) -> TakerT | None:
        """The consumer whose turn it is among those that can take a message; None if none can."""
        for _ in range(len(self._order)):
            consumer = self._order[0]
            self._order.rotate(-1)
            if consumer.can_take():
                return consumer
        return None
