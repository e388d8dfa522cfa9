"""The ledger of a channel: its unconfirmed publishes, by delivery tag.

RabbitMQ numbers the publishes on a channel from 1 after confirm.select, and confirms them in any order, one by one or
all up to a tag (RabbitMQ, "Publisher Confirms"). The ledger counts the same way. Tags are valid on one channel of one
link only, so the next one gets a new ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import takewhile
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class _Empty(Enum):
    EMPTY = "empty"


_EMPTY: Final = _Empty.EMPTY
_SLACK = 256
"""How many settled places the list keeps before it is compacted."""


class Ledger(Generic[T]):
    """Publishes in the order of their tags. The cost of a confirm depends on how many it settles, not on how many wait.

    Recent publishes are in a list, indexed by tag, so adding one, settling one and settling all up to a tag are cheap.
    Settled places are emptied, then trimmed from the left. A publish that stays unconfirmed while a great many after it
    are settled (its queue is down, other queues work) moves to a dict of stragglers, so that the list can shrink.
    """

    __slots__ = ("_base", "_first", "_open", "_places", "_stragglers")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again with tag 1, as a new channel does."""
        self._places: list[T | _Empty] = []
        self._base = 1
        """The tag of the first place."""
        self._first = 0
        """The first place that is not empty."""
        self._open = 0
        """How many places are not empty."""
        self._stragglers: dict[int, T] = {}
        """Older publishes, in the order of their tags."""

    def __len__(self) -> int:
        return self._open + len(self._stragglers)

    def add(self, item: T) -> int:
        """Record the next publish.

        Returns:
            The tag that the broker gives it.
        """
        self._places.append(item)
        self._open += 1
        return self._base + len(self._places) - 1

    def settle(self, tag: int, *, multiple: bool) -> list[T]:
        """Remove the publishes that a confirm settles.

        Args:
            tag: the confirm's delivery tag. With ``multiple``, 0 means all (AMQP 0-9-1, basic.ack).
            multiple: whether the confirm covers everything up to and including the tag.

        Returns:
            The publishes, oldest first; none if the tag is unknown or already settled.
        """
        place = tag - self._base if tag or not multiple else len(self._places) - 1
        if place >= len(self._places):
            return []
        settled = self._take_up_to(place) if multiple else self._take(tag, place)
        self._tidy()
        return settled

    def outstanding(self, after: int = 0) -> list[T]:
        """The unconfirmed publishes with a higher tag than ``after``, oldest first."""
        return [item for _, item in self.tagged(after)]

    def tagged(self, after: int = 0) -> Iterator[tuple[int, T]]:
        """The unconfirmed publishes with a higher tag than ``after``, oldest first, each with its tag."""
        yield from ((tag, item) for tag, item in self._stragglers.items() if tag > after)
        for place in range(max(self._first, after + 1 - self._base), len(self._places)):
            item = self._places[place]
            if item is not _EMPTY:
                yield self._base + place, item

    def _take(self, tag: int, place: int) -> list[T]:
        if place < 0:
            return [self._stragglers.pop(tag)] if tag in self._stragglers else []
        item = self._places[place]
        if item is _EMPTY:
            return []
        self._places[place] = _EMPTY
        self._open -= 1
        return [item]

    def _take_up_to(self, place: int) -> list[T]:
        tags = list(takewhile(lambda tag: tag <= self._base + place, self._stragglers))
        settled = [self._stragglers.pop(tag) for tag in tags]
        first, after = self._first, place + 1
        if after > first:
            taken = [item for item in self._places[first:after] if item is not _EMPTY]
            self._places[first:after] = [_EMPTY] * (after - first)
            self._open -= len(taken)
            settled += taken
        return settled

    def _tidy(self) -> None:
        places, first = self._places, self._first
        while first < len(places) and places[first] is _EMPTY:
            first += 1
        self._first = first
        if len(places) - first > 2 * self._open + _SLACK:
            self._stragglers.update(self.tagged(self._base + first - 1))
            self._base += len(places)
            places.clear()
            self._first = self._open = 0
        elif first > _SLACK and 2 * first > len(places):
            del places[:first]
            self._base += first
            self._first = 0
