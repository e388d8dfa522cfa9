"""Channel numbers: which one to take next.

A number is free again after close-ok. RabbitMQ, 3.10 to 4.3, goes on sending after a channel.close of its own:
deliveries that its channel process had before it follow (rabbitmq-server, issue 13384), and where the two closes cross,
the close-ok that answers ours may follow or may be lost. So a number that the broker closed is taken last.
"""

from __future__ import annotations

import heapq
from typing import Final

from anyamqp.errors import ChannelLimitReached

HIGHEST_CHANNEL: Final = 65535
"""The highest number that AMQP has for a channel."""


class ChannelNumbers:
    """The channel numbers of one session."""

    __slots__ = ("_free", "_highest", "_retired")

    def __init__(self) -> None:
        self._highest = 0
        """The highest number ever taken."""
        self._free: list[int] = []
        """A heap of lower numbers that are free."""
        self._retired: dict[int, None] = {}
        """Numbers on which the broker may still send, in the order of their closes."""

    def take(self, channel_max: int) -> tuple[int, bool]:
        """Take the lowest free number; if there is none, the one that the broker closed first.

        Args:
            channel_max: the highest number allowed; 0 for no limit but AMQP's.

        Returns:
            The number, and whether frames of its last channel may still come.

        Raises:
            ChannelLimitReached: all numbers are in use.
        """
        if self._free:
            return heapq.heappop(self._free), False
        if self._highest < (channel_max or HIGHEST_CHANNEL):
            self._highest += 1
            return self._highest, False
        if self._retired:
            number = next(iter(self._retired))
            del self._retired[number]
            return number, True
        raise ChannelLimitReached(f"all {self._highest} channels that the connection may have are open")

    def release(self, number: int) -> None:
        """Make a number free: the broker sends nothing more on it."""
        self._retired.pop(number, None)
        heapq.heappush(self._free, number)

    def retire(self, number: int) -> None:
        """Set a number aside, because the broker closed its channel and may still send on it."""
        self._retired[number] = None

    def is_retired(self, number: int) -> bool:
        """Whether a number is set aside: frames on it are discarded."""
        return number in self._retired
