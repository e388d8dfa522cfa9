"""Decide when to open another channel in place of one that the broker closed."""

from __future__ import annotations

import math
from typing import Final

from anyamqp.protocol.pauses import Pauses

_YOUNG: Final = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_MOST_IN_VAIN: Final = 8


class Reopenings:
    """Paces the channels of one owner, each of which replaces one that the broker closed.

    If the last channel lived for a second, the next one opens at once; otherwise it opens after a growing pause. After
    eight short-lived channels on which nothing useful was done, the owner gives up.

    Attributes:
        in_vain: how many channels were short-lived since something useful was done; the owner resets it.
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
        """The broker closed the channel.

        Returns:
            Seconds until the owner opens the next channel; None to give up.
        """
        if now - self._opened_at >= _YOUNG:
            self.in_vain = 0
            self._pauses.reset()
        self.in_vain += 1
        delay = self._pauses.next()
        return delay if self.in_vain < _MOST_IN_VAIN else None
