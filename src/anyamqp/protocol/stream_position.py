"""The position in a stream from which a consumer resumes after a loss."""

from __future__ import annotations

import math
from typing import Final

from anyamqp.delivery import Delivery
from anyamqp.errors import MalformedProperties
from anyamqp.message import FieldTable, FieldValue

OFFSET: Final = "x-stream-offset"
"""The argument of basic.consume for the position (RabbitMQ, "Streams")."""

_MARGIN: Final = 5.0
"""How many seconds before its start a consumer resumes: the clocks of a cluster's nodes differ a little, and
basic.consume takes a while to reach the broker."""


class StreamPosition:
    """The position from which a consumer resumes: after the last delivery that it handed out.

    A consumer that started at the end of the stream and has had no delivery resumes from the time when it started. It
    sends this time as an interval, which the broker subtracts on its own clock.

    Args:
        arguments: the arguments of the consumer's first basic.consume.
    """

    __slots__ = ("_arguments", "_asked_at", "_margin", "_next_since", "_offset", "is_stream")

    def __init__(self, arguments: FieldTable) -> None:
        self.is_stream: bool | None = None
        """Whether the queue is a stream; None before the first delivery of a channel."""
        self._arguments: FieldTable = arguments
        self._offset: FieldValue = self._arguments.get(OFFSET)
        """The position to ask for; None for the broker's default."""
        self._asked_at = (0.0, 0.0)
        """When basic.consume was last sent, on the event loop's clock and on the system clock."""
        self._next_since: tuple[float, float] | None = None
        """When it was first sent to a stream read from its end; None once a delivery is handed out."""
        self._margin = _MARGIN

    def arguments(self, now: float, wall: float) -> FieldTable:
        """The arguments of the basic.consume to send now.

        Args:
            now: seconds on the event loop's clock.
            wall: seconds on the system clock.
        """
        self._asked_at = now, wall
        offset = self._offset
        if self._next_since is not None:
            # The event loop's clock may stop while the machine sleeps, and the system clock may be set back.
            away = max(now - self._next_since[0], wall - self._next_since[1])
            offset = f"{math.ceil(away + self._margin)}s"
        return self._arguments if offset is None else {**self._arguments, OFFSET: offset}

    def opened(self, now: float, *, is_declared: bool) -> bool:
        """The broker answered basic.consume.

        Args:
            now: seconds on the event loop's clock.
            is_declared: whether the queue was declared as a stream on this connection.

        Returns:
            Whether the answer came in time. If not, the broker may have subtracted the interval from too late a time,
            and the consumer has to ask again.
        """
        self.is_stream = None  # the queue may be a new one with the same name
        if self._next_since is None:
            if self._offset == "next" or (self._offset is None and is_declared):
                self._next_since = self._asked_at
            return True
        taken = now - self._asked_at[0]
        if taken <= self._margin:
            return True
        self._margin = 2 * taken
        return False

    def follow(self, delivery: Delivery) -> None:
        """A delivery is handed out."""
        try:
            offset = delivery.stream_offset
        except MalformedProperties:
            return
        self.is_stream = offset is not None
        if offset is not None:
            self._offset = offset + 1
            self._next_since = None


def is_of_stream(delivery: Delivery) -> bool:
    """Whether a delivery is from a stream."""
    try:
        return delivery.stream_offset is not None
    except MalformedProperties:
        return False
