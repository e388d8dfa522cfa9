"""Tells for a consumer whose channel was closed whether it consumes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anyamqp.errors import AccessRefused, AnyamqpError, NotFound, ReplyError, ResourceLocked, Side
from anyamqp.protocol.lifecycle.consumer import ConsumerEvent
from anyamqp.protocol.subscribing import Declares, OnCancel
from anyamqp.wire import methods

_YOUNG: Final = 1.0
_MOST_YOUNG_ENDS: Final = 3
"""The consumer gives up after ``_MOST_YOUNG_ENDS`` errors in a row, each of which closed the channel within ``_YOUNG``
seconds of its opening."""

_NOT_FOUND: Final[Mapping[OnCancel, ConsumerEvent]] = {
    "raise": ConsumerEvent.NOT_FOUND,
    "resubscribe": ConsumerEvent.QUEUE_AWAITED,
    "end": ConsumerEvent.QUEUE_GONE,
}


class ChannelEnds:
    """The ends of one consumer's channels.

    Args:
        request: the consumer's first basic.consume.
        on_cancel: the reaction to a queue that is missing.
    """

    __slots__ = ("_locked_until", "_on_cancel", "_opened_at", "_request", "_young_ends")

    def __init__(self, request: methods.Basic.Consume, on_cancel: OnCancel) -> None:
        self._request = request
        self._on_cancel: OnCancel = on_cancel
        self._locked_until = 0.0
        self._opened_at = 0.0
        self._young_ends = 0

    def opened(self, now: float) -> None:
        """The broker answered basic.consume."""
        self._opened_at = now

    def lost(self, now: float, lock_grace: float) -> None:
        """The link has ended; the broker may keep its locks for ``lock_grace`` seconds."""
        self._locked_until = now + lock_grace

    def meaning(self, error: AnyamqpError, connection: Declares, now: float) -> ConsumerEvent:
        """The meaning of an error that closed the channel: one of :data:`~lifecycle.consumer.ENDINGS`."""
        if isinstance(error, NotFound):
            if connection.will_declare(self._request.queue):
                return ConsumerEvent.QUEUE_DECLARED_AGAIN
            return _NOT_FOUND[self._on_cancel]
        is_locked = isinstance(error, ResourceLocked) or (self._request.exclusive and isinstance(error, AccessRefused))
        if is_locked and now < self._locked_until:
            return ConsumerEvent.LOCKED_BY_US
        if not isinstance(error, ReplyError) or error.found_by is Side.CLIENT:
            return ConsumerEvent.REFUSED
        if error.method in ("basic.consume", "basic.qos") or not self.has_lived(now):
            return ConsumerEvent.REFUSED
        return ConsumerEvent.CHANNEL_CLOSED

    def has_lived(self, now: float) -> bool:
        """Count an end of the channel. Returns False if too many in a row came soon after the opening."""
        self._young_ends = self._young_ends + 1 if now - self._opened_at < _YOUNG else 0
        return self._young_ends < _MOST_YOUNG_ENDS
