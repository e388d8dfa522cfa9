"""When the owner of a channel opens another one in place of a channel that the broker closed."""

from __future__ import annotations

import math
from typing import Final

from anyamqp.protocol.pauses import Pauses

_YOUNG: Final = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_MOST_IN_VAIN: Final = 8


class Reopenings:
    """Paces the channels that one owner opens, each after the broker closed the one before.

    The next channel comes at once after one that lived for a second, and after a growing pause otherwise. After several
    that died young, without anything useful done in between, no other comes.

    Attributes:
        in_vain: how many died young since something useful was done.
    """

    __slots__ = ("_opened_at", "_pauses", "in_vain")

    def __init__(self) -> None:
        self.in_vain: int = 0
        self._pauses = Pauses(_FIRST_PAUSE, _LONGEST_PAUSE, free=1)
        self._opened_at = -math.inf

    def opened(self, now: float) -> None:
        """A channel is open."""
        self._opened_at = now

    def closed(self, now: float) -> float | None:
        """The broker closed it.

        Returns:
            Seconds until the next channel is to be opened; None to give up.
        """
        if now - self._opened_at >= _YOUNG:
            self.in_vain = 0
            self._pauses.reset()
        self.in_vain += 1
        delay = self._pauses.next()
        return delay if self.in_vain < _MOST_IN_VAIN else None
