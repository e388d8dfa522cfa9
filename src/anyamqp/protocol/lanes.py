"""The channels on which a recovery declares entities, and which of them the broker leaves without an answer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Final

from anyamqp.protocol.entity_lives import EntityLife

PATIENCE: Final = 0.5
"""Seconds without an answer on a lane after which the entity at its head is late."""

_MOST_IN_USE: Final = 64
"""Lanes on which the broker is expected to answer in time."""


class Lane:
    """One channel.

    Attributes:
        number: tells it apart from the other lanes of its link.
        in_flight: the entities whose requests were sent on it and not answered, the oldest first.
        heard_at: when it was answered last, or used after it had been empty.
        is_late: whether the broker does not answer the oldest in time.
    """

    __slots__ = ("heard_at", "in_flight", "is_late", "number")

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.in_flight: deque[EntityLife] = deque()
        self.heard_at: float = 0.0
        self.is_late: bool = False

    @property
    def overdue_at(self) -> float:
        """When the entity at its head becomes late; infinity if it is already, or there is none."""
        return math.inf if self.is_late or not self.in_flight else self.heard_at + PATIENCE


class Lanes:
    """The lanes of one link. There is one at first, and twice as many each time that one becomes late.

    Args:
        most: how many there may be in all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lanes: dict[int, Lane] = {}
        self._last = 0
        self._in_use = 1
        """How many may be in use besides those that are late."""
        self._resume_at = math.inf
        """When one may be opened again, after there was no number for a channel; else infinity."""

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __getitem__(self, number: int) -> Lane:
        return self._lanes[number]

    def idle(self) -> list[Lane]:
        """Those on which nothing is unanswered."""
        return [lane for lane in self if not lane.in_flight]

    def room(self, now: float) -> int:
        """How many may be opened."""
        if now < self._resume_at < math.inf:
            return 0
        in_use = sum(not lane.is_late for lane in self)
        return max(0, min(self._in_use - in_use, self._most - len(self._lanes)))

    def new(self) -> Lane:
        """Open one."""
        self._last += 1
        self._resume_at = math.inf
        lane = self._lanes[self._last] = Lane(self._last)
        return lane

    def remove(self, number: int) -> Lane:
        """One is closed."""
        return self._lanes.pop(number)

    def not_to_be_had(self, until: float) -> None:
        """There was no number for another one; do without, and if there is none at all, try again then."""
        self._most = max(len(self._lanes), 1)
        self._resume_at = until

    def overdue(self, now: float) -> list[Lane]:
        """Those that become late now."""
        overdue = [lane for lane in self if now >= lane.overdue_at]
        if overdue:
            self._in_use = min(2 * self._in_use, _MOST_IN_USE)
        return overdue

    @property
    def overdue_at(self) -> float:
        """When the next one becomes late; infinity for never."""
        return min((lane.overdue_at for lane in self), default=math.inf)

    @property
    def resume_at(self) -> float:
        """When one may be opened again, if there is none for lack of a number; else infinity."""
        return math.inf if self._lanes else self._resume_at
