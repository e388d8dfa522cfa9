"""A channel on one link. Deliveries can be settled only on the channel and link that they came on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from threading import get_ident
from typing import TypeAlias

import anyio

from anyamqp.delivery import Delivery
from anyamqp.net.link import Link
from anyamqp.net.timers import Deadlines, Timer
from anyamqp.protocol.settlements import Return, Settlements
from anyamqp.wire import methods

BlockFailed: TypeAlias = Callable[[Delivery, BaseException], Awaitable[None]]
"""Settles a delivery whose ``async with`` block raised."""


class LinkChannel(Settlements):
    """A channel on one link. It sends the settlements of its deliveries.

    Args:
        link: the link.
        number: the channel's number on it.
        on_stale: called for each settlement that came after the channel left the link.
        later: schedules a call after a delay in seconds.
    """

    __slots__ = ("_later", "_on_stale", "_timer", "link", "number", "on_failed", "thread")

    def __init__(
        self,
        link: Link,
        number: int,
        on_stale: Callable[[], None],
        later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        super().__init__()
        self._on_stale = on_stale
        self._later = later
        self._timer: Deadlines | None = None
        """Created at the first pause."""
        self.on_failed: BlockFailed | None = None
        """Called when the block of a delivery raises; None to requeue the delivery."""
        self.link: Link = link
        self.number: int = number
        self.thread: int = get_ident()
        """The event loop's thread. Deliveries must be settled in it."""

    @property
    def unsettled(self) -> float:
        """How many deliveries are unsettled at the broker: an ack counts once it is sent."""
        return self.delivered - self.link.session.settled_count(self.number)

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        if multiple:
            self._give_back(self.settle_up_to(delivery_tag))
        if self.is_stale:
            self._on_stale()
            return
        self.link.session.ack(self.number, delivery_tag, multiple=multiple)
        self.link.flush()

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        if multiple:
            self._give_back(self.settle_up_to(delivery_tag))
        self._give_back([methods.Basic.Nack(delivery_tag, multiple, requeue)])

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        self._give_back([methods.Basic.Reject(delivery_tag, requeue)])

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None:
        # Not sent at once, even with no delay: if the failure ends the consumer, it must cancel first, or the broker
        # would deliver the message to it again and count another return.
        method = methods.Basic.Reject(delivery_tag, True) if failed else methods.Basic.Nack(delivery_tag, False, True)
        self._give_back(self.pause(delivery_tag, method, anyio.current_time() + after))
        if self._timer is None:
            self._timer = Deadlines(self._later, self._expire)
        self._timer.add(self.deadline)

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        if self.on_failed is not None:
            await self.on_failed(delivery, raised)
        else:
            delivery.requeue(failed=isinstance(raised, Exception))

    def release(self) -> None:
        """End the pauses: return paused deliveries at once, now and later."""
        self._give_back(self.end_pauses())

    def _expire(self, now: float) -> float:
        self._give_back(self.due(now))
        return self.deadline

    def _give_back(self, returns: Sequence[Return]) -> None:
        for method in returns:
            if self.is_stale:
                self._on_stale()
                continue
            self.link.session.nack(self.number, method)
            self.link.flush()
