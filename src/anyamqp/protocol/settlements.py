"""The settlements of the deliveries of one channel on one link."""

from __future__ import annotations

import math
from typing import TypeAlias

from anyamqp.protocol.schedule import Schedule
from anyamqp.wire import methods

Return: TypeAlias = methods.Basic.Nack | methods.Basic.Reject
"""The method that returns a delivery to its queue, or rejects it."""


class Settlements:
    """The deliveries of one channel on one link.

    A failed delivery is returned to its queue after a pause; :attr:`deadline` is when :meth:`due` returns the next one.
    The methods return the AMQP methods to send now, in order.
    """

    __slots__ = ("_may_pause", "_paused", "_times", "delivered", "is_stale", "last_tag", "settled_up_to")

    def __init__(self) -> None:
        self.is_stale: bool = False
        """Whether the channel has left this link (invariant 8: an ack never crosses links)."""
        self.delivered: int = 0
        """How many deliveries consumers have received."""
        self.last_tag: int = 0
        """The highest delivery tag so far."""
        self.settled_up_to: int = 0
        """The highest tag that was settled with ``multiple``."""
        self._may_pause = True
        self._paused: dict[int, Return] = {}
        """The paused returns, by delivery tag."""
        self._times: Schedule[int] | None = None
        """Created at the first pause: few channels have one."""

    @property
    def deadline(self) -> float:
        """When the next return is due; infinity for never."""
        return math.inf if self._times is None else self._times.nearest

    def pause(self, tag: int, method: Return, until: float) -> list[Return]:
        """Hold a return until the time ``until``; if pauses have ended on this link, it is due at once."""
        if self.is_stale or not self._may_pause:
            return [method]
        if self._times is None:
            self._times = Schedule()
        self._paused[tag] = method
        self._times.add(until, tag)
        return []

    def due(self, now: float) -> list[Return]:
        """Take the returns whose pause is over."""
        due: list[Return] = []
        while self._times is not None and (tag := self._times.take_due(now)) is not None:
            due.append(self._paused.pop(tag))
        return due

    def settle_up_to(self, tag: int) -> list[Return]:
        """Prepare a settlement with ``multiple`` up to a tag, which the caller sends next.

        The paused deliveries up to that tag are settled already and must not be settled with it, so they are returned
        first.
        """
        self.settled_up_to = max(self.settled_up_to, tag)
        return [self._take(one) for one in [one for one in self._paused if one <= tag]]

    def end_pauses(self) -> list[Return]:
        """End the pauses, now and later: the channel is about to leave this link."""
        self._may_pause = False
        return [self._take(tag) for tag in list(self._paused)]

    def taken_back(self) -> None:
        """The broker has requeued all unsettled deliveries (basic.recover)."""
        self._forget_pauses()
        self.settled_up_to = self.last_tag

    def leave(self) -> None:
        """The channel leaves the link: the broker requeues the unsettled deliveries by itself."""
        self.is_stale = True
        self._forget_pauses()

    def _take(self, tag: int) -> Return:
        if self._times is not None:
            self._times.discard(tag)
        return self._paused.pop(tag)

    def _forget_pauses(self) -> None:
        self._paused.clear()
        self._times = None
