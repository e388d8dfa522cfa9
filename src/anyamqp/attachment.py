"""A channel on one link. What was delivered through it can be settled through it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Protocol

from pamqp import commands

from anyamqp.link import Link


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
    """

    __slots__ = ("_channel", "_on_stale", "delivered", "last_tag", "link", "number", "settled_up_to", "thread")

    def __init__(self, channel: Moving, link: Link, number: int, on_stale: Callable[[], None]) -> None:
        self._channel = channel
        self._on_stale = on_stale
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
            self.settled_up_to = max(self.settled_up_to, delivery_tag)
        if self.is_stale:
            self._on_stale()
            return
        self.link.session.ack(self.number, delivery_tag, multiple=multiple)
        self.link.flush()

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        if multiple:
            self.settled_up_to = max(self.settled_up_to, delivery_tag)
        self._give_back(commands.Basic.Nack(delivery_tag, multiple, requeue))

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        self._give_back(commands.Basic.Reject(delivery_tag, requeue))

    def requeued(self) -> None:
        """The broker has taken back all that is open (basic.recover)."""
        self.settled_up_to = self.last_tag

    def _give_back(self, method: commands.Basic.Nack | commands.Basic.Reject) -> None:
        if self.is_stale:
            self._on_stale()
            return
        self.link.session.nack(self.number, method)
        self.link.flush()
