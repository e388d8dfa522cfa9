"""A channel on one link. What was delivered through it can be settled through it, and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from threading import get_ident
from typing import Protocol, TypeAlias

from anyamqp.message import Delivery
from anyamqp.net.link import Link
from anyamqp.net.timers import Timer
from anyamqp.wire import methods

BlockFailed: TypeAlias = Callable[[Delivery, BaseException], Awaitable[None]]
"""Settles a delivery whose ``async with`` block raised."""


class Moving(Protocol):
    """The channel that an attachment is of."""

    @property
    def attachment(self) -> Attachment | None:
        """Where the channel is now."""
        ...


class Attachment:
    """A channel on one link.

    Args:
        channel: the channel.
        link: the link.
        number: the channel's number on it.
        on_stale: told of each settling that came too late.
        later: calls a function in so many seconds.
    """

    __slots__ = (
        "_channel",
        "_held",
        "_later",
        "_on_stale",
        "delivered",
        "last_tag",
        "link",
        "number",
        "on_failed",
        "settled_up_to",
        "thread",
    )

    def __init__(
        self,
        channel: Moving,
        link: Link,
        number: int,
        on_stale: Callable[[], None],
        later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._channel = channel
        self._on_stale = on_stale
        self._later = later
        self._held: dict[int, tuple[Timer, methods.Basic.Nack | methods.Basic.Reject]] | None = {}
        """What goes back to its queue later, by delivery tag; None once nothing waits any more."""
        self.on_failed: BlockFailed | None = None
        """What the channel's owner does when the block of a delivery raises; None for giving it back."""
        self.delivered: int = 0
        """How many deliveries came to a consumer."""
        self.last_tag: int = 0
        """The highest tag delivered so far."""
        self.settled_up_to: int = 0
        """The highest tag that was settled together with everything before it."""
        self.link: Link = link
        self.number: int = number
        self.thread: int = get_ident()
        """The thread of the event loop, in which alone deliveries are settled."""

    @property
    def is_stale(self) -> bool:
        """Whether the channel has left this link (invariant 8: an ack never crosses links)."""
        return self._channel.attachment is not self

    @property
    def unsettled(self) -> float:
        """How many of them are not settled, as the broker sees it: an ack that has not left settles nothing."""
        return self.delivered - self.link.session.settled_count(self.number)

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        if multiple:
            self._settle_up_to(delivery_tag)
        if self.is_stale:
            self._on_stale()
            return
        self.link.session.ack(self.number, delivery_tag, multiple=multiple)
        self.link.flush()

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        if multiple:
            self._settle_up_to(delivery_tag)
        self._give_back(methods.Basic.Nack(delivery_tag, multiple, requeue))

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        self._give_back(methods.Basic.Reject(delivery_tag, requeue))

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None:
        # Never at once, so that a consumer which is left for this failure cancels first: the broker would deliver the
        # message to it again, and count its return once more.
        method = methods.Basic.Reject(delivery_tag, True) if failed else methods.Basic.Nack(delivery_tag, False, True)
        if self.is_stale or self._held is None:
            self._give_back(method)
        else:
            self._held[delivery_tag] = (self._later(after, partial(self._release, delivery_tag)), method)

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        if self.on_failed is not None:
            await self.on_failed(delivery, raised)
        else:
            delivery.requeue(failed=isinstance(raised, Exception))

    def requeued(self) -> None:
        """The broker has taken back all that is open (basic.recover)."""
        for timer, _ in (self._held or {}).values():
            timer.cancel()
        self._held = {}
        self.settled_up_to = self.last_tag

    def release(self) -> None:
        """Nothing waits any more before it goes back to its queue; on a link that is gone the broker has it already."""
        held, self._held = self._held, None
        for timer, method in (held or {}).values():
            timer.cancel()
            if not self.is_stale:
                self._give_back(method)

    def _release(self, delivery_tag: int) -> None:
        if self._held is not None and not self.is_stale:
            timer, method = self._held.pop(delivery_tag)
            timer.cancel()
            self._give_back(method)

    def _settle_up_to(self, delivery_tag: int) -> None:
        # A delivery that waits to go back was settled before, and is not part of what ``multiple`` settles now.
        for tag in [tag for tag in self._held or () if tag <= delivery_tag]:
            self._release(tag)
        self.settled_up_to = max(self.settled_up_to, delivery_tag)

    def _give_back(self, method: methods.Basic.Nack | methods.Basic.Reject) -> None:
        if self.is_stale:
            self._on_stale()
            return
        self.link.session.nack(self.number, method)
        self.link.flush()
