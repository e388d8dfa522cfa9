"""The channels on which a recovery declares entities. Late ones are those that the broker leaves without an answer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Final

from anyamqp.protocol.entity_lives import EntityLife
from anyamqp.wire.methods import Method

PATIENCE: Final = 0.5
"""Seconds without an answer on a lane after which the entity at its head is late."""

_MOST_IN_USE: Final = 64
"""Lanes on which the broker is expected to answer in time."""


class Lane:
    """One channel.

    Attributes:
        number: tells it apart from the other lanes of its link.
        in_flight: the entities whose requests were sent on it and not answered, the oldest first.
        heard_at: the time of the last answer, or of the first request after it had been empty.
        is_late: whether the broker has not answered the oldest request in time.
    """

    __slots__ = ("heard_at", "in_flight", "is_late", "number")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.in_flight: deque[EntityLife] = deque()
        self.heard_at: float = 0.0
        self.is_late: bool = False

    @property
    def overdue_at(self) -> float:
        """When the entity at its head becomes late; infinity if it is late, or there is none."""
        return math.inf if self.is_late or not self.in_flight else self.heard_at + PATIENCE

    def take(self, request: Method) -> EntityLife:
        """Take out the entity whose request this is: the same object, because equal requests compare equal."""
        entity = next(one for one in self.in_flight if one.recorded.request is request)
        self.in_flight.remove(entity)
        return entity


class Lanes:
    """The lanes of one link: one at first, and twice as many each time that one becomes late.

    Args:
        most: the most lanes at one time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lanes: dict[int, Lane] = {}
        self._last = 0
        self._in_use = 1
        """The most lanes in use, without late ones."""
        self._resume_at = math.inf
        """When a lane may be opened again, after no channel number was free; infinity otherwise."""

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __getitem__(self, number: int) -> Lane:
        return self._lanes[number]

    def idle(self) -> list[Lane]:
        """The lanes without unanswered requests."""
        return [lane for lane in self if not lane.in_flight]

    def room(self, now: float) -> int:
        """The number of lanes that may be opened."""
        if now < self._resume_at < math.inf:
            return 0
        in_use = sum(not lane.is_late for lane in self)
        return max(0, min(self._in_use - in_use, self._most - len(self._lanes)))

    def new(self) -> Lane:
        """Open a lane."""
        self._last += 1
        self._resume_at = math.inf
        lane = self._lanes[self._last] = Lane(self._last)
        return lane

    def remove(self, number: int) -> Lane:
        """Remove a lane that is closed."""
        return self._lanes.pop(number)

    def not_to_be_had(self, until: float) -> None:
        """No number was free for another lane: open no more. If there is no lane at all, try again at ``until``."""
        self._most = max(len(self._lanes), 1)
        self._resume_at = until

    def overdue(self, now: float) -> list[Lane]:
        """The lanes that become late now."""
        overdue = [lane for lane in self if now >= lane.overdue_at]
        if overdue:
            self._in_use = min(2 * self._in_use, _MOST_IN_USE)
        return overdue

    @property
    def overdue_at(self) -> float:
        """When the next lane becomes late; infinity for never."""
        return min((lane.overdue_at for lane in self), default=math.inf)

    @property
    def resume_at(self) -> float:
        """When to try again to open a lane, if there is none for lack of a number; infinity otherwise."""
        return math.inf if self._lanes else self._resume_at
