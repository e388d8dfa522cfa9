"""Decides how long a connection may take to end when its user leaves."""

from __future__ import annotations

import math
from typing import Final

_GRACE: Final = 0.6
"""Seconds that an attempt to connect may take to end in order."""

_LAST_WORD: Final = 0.1
"""Seconds that sending connection.close may take if no time is left to wait for the reply."""


class Leaving:
    """The end of one connection.

    Args:
        close_timeout: seconds that a close handshake may take.

    Attributes:
        deadline: when the connection ends at the latest; infinity before the user leaves.
    """

    __slots__ = ("_close_timeout", "deadline")

    def __init__(self, close_timeout: float) -> None:
        self.deadline: float = math.inf
        self._close_timeout = close_timeout

    def attempt(self, now: float) -> None:
        """The user leaves during an attempt to connect. ``now`` is in seconds, on any monotonic clock."""
        self.deadline = now + min(self._close_timeout, _GRACE)

    def handshake(self, bytes_received: int, now: float) -> bool:
        """The user leaves during the handshake of a link.

        Returns:
            Whether to drop the link at once. If the broker has sent nothing, there is no session to close.
        """
        self.attempt(now)
        return bytes_received == 0

    def link(self, closes_until: float, now: float) -> None:
        """The user leaves an open link, on which connection.close is sent.

        Args:
            closes_until: when the reply to the oldest close on the link is overdue.
            now: the current time.
        """
        self.deadline = max(closes_until, now + _LAST_WORD)
