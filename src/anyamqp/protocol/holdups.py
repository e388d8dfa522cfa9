"""Delays of publishes: the block of a connection, and the pause after a nack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from anyamqp.errors import ConnectionBlocked
from anyamqp.protocol.pauses import Pauses
from anyamqp.protocol.pending import PendingPublish

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
"""Seconds before a nacked publish is sent again; doubled until something is confirmed."""


class Block:
    """A block of the connection: the broker accepts no publishes (RabbitMQ, "Blocked Connections").

    Args:
        timeout: seconds that publishes wait for the end of a block before they fail.

    Attributes:
        is_on: whether the connection is blocked now.
        reason: the broker's reason for this block or the last one.
        due_at: when the waiting publishes fail; infinity if there is no block, or if they have failed.
    """

    __slots__ = ("_ends_at", "_timeout", "due_at", "is_on", "reason")

    def __init__(self, timeout: float) -> None:
        self.is_on: bool = False
        self.reason: str = ""
        self.due_at: float = math.inf
        self._timeout = timeout
        self._ends_at = math.inf

    def begin(self, reason: str, since: float) -> None:
        """The broker has accepted no publishes since the time ``since``."""
        self.is_on, self.reason = True, reason
        self._ends_at = self.due_at = since + self._timeout

    def end(self) -> None:
        """The broker accepts publishes again, or the link has ended."""
        self.is_on = False
        self.due_at = math.inf

    def error(self, now: float) -> ConnectionBlocked | None:
        """The error for publishes that begin now; None unless the block has lasted longer than its time-out."""
        return ConnectionBlocked(self.reason) if self.is_on and now >= self._ends_at else None


class NackedPublishes:
    """Nacked publishes, which pause before they are sent again.

    Attributes:
        publishes: the publishes.
        due_at: when their pause ends; infinity if there are none.
        pauses: the pauses; the outbox resets them when the broker confirms a publish.
    """

    __slots__ = ("due_at", "pauses", "publishes")

    def __init__(self) -> None:
        self.publishes: list[PendingPublish] = []
        self.due_at: float = math.inf
        self.pauses: Pauses = Pauses(_FIRST_PAUSE, _LONGEST_PAUSE)

    def add(self, publishes: Sequence[PendingPublish], now: float) -> None:
        """Add publishes, and begin a pause unless one has begun."""
        if publishes and not self.publishes:
            self.due_at = now + self.pauses.next()
        for pending in publishes:
            pending.returned = None
        self.publishes += publishes

    def take(self) -> list[PendingPublish]:
        """Take all publishes, in the order in which they were accepted: the broker confirms in any order."""
        taken, self.publishes = self.publishes, []
        self.due_at = math.inf
        return sorted(taken, key=attrgetter("number"))
