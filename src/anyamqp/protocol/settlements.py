"""Which deliveries of one channel on one link are settled, and which wait before they go back to their queue."""

from __future__ import annotations

import math
from typing import TypeAlias

from anyamqp.protocol.schedule import Schedule
from anyamqp.wire import methods

Return: TypeAlias = methods.Basic.Nack | methods.Basic.Reject
"""The method that gives a delivery back."""


class Settlements:
    """The deliveries of one channel on one link.

    A delivery that failed goes back after a pause; :attr:`deadline` says when :meth:`due` has the next one. The methods
    return what is to be sent at once, in this order.
    """

    __slots__ = ("_may_pause", "_paused", "_times", "delivered", "is_stale", "last_tag", "settled_up_to")

    def __init__(self) -> None:
        self.is_stale: bool = False
        """Whether the channel has left this link (invariant 8: an ack never crosses links)."""
        self.delivered: int = 0
        """How many deliveries came to a consumer."""
        self.last_tag: int = 0
        """The highest tag delivered so far."""
        self.settled_up_to: int = 0
        """The highest tag that was settled together with everything before it."""
        self._may_pause = True
        self._paused: dict[int, Return] = {}
        """The returns that wait, by delivery tag."""
        self._times: Schedule[int] | None = None
        """Made at the first pause: few channels have one."""

    @property
    def deadline(self) -> float:
        """When the next return is due; infinity for never."""
        return math.inf if self._times is None else self._times.nearest

    def pause(self, tag: int, method: Return, until: float) -> list[Return]:
        """Hold a return until a time, as long as anything may wait on this link."""
        if self.is_stale or not self._may_pause:
            return [method]
        if self._times is None:
            self._times = Schedule()
        self._paused[tag] = method
        self._times.add(until, tag)
        return []

    def due(self, now: float) -> list[Return]:
        """The returns whose time has come."""
        due: list[Return] = []
        while self._times is not None and (tag := self._times.take_due(now)) is not None:
            due.append(self._paused.pop(tag))
        return due

    def settle_up_to(self, tag: int) -> list[Return]:
        """A settlement for everything up to a tag is sent next.

        A delivery that waits to go back was settled before, and is not part of that, so it goes back first.
        """
        self.settled_up_to = max(self.settled_up_to, tag)
        return [self._take(one) for one in [one for one in self._paused if one <= tag]]

    def end_pauses(self) -> list[Return]:
        """Nothing waits any more on this link, now and later: the channel is about to be left."""
        self._may_pause = False
        return [self._take(tag) for tag in list(self._paused)]

    def taken_back(self) -> None:
        """The broker has taken back everything that is open (basic.recover)."""
        self._forget_pauses()
        self.settled_up_to = self.last_tag

    def leave(self) -> None:
        """The channel leaves the link: the broker takes everything back by itself."""
        self.is_stale = True
        self._forget_pauses()

    def _take(self, tag: int) -> Return:
        if self._times is not None:
            self._times.discard(tag)
        return self._paused.pop(tag)

    def _forget_pauses(self) -> None:
        self._paused.clear()
        self._times = None
