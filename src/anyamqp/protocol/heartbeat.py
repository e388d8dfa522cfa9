"""Heartbeat deadlines, with time as an argument.

Any traffic counts as a heartbeat, and a peer that is silent for two intervals is dead (AMQP 0-9-1, 4.2.7). A heartbeat
is sent after half an interval without traffic (RabbitMQ, "Detecting Dead TCP Connections with Heartbeats").

A stalled event loop (a long computation, a suspended machine) must not be mistaken for a dead peer, whose bytes may
wait in the kernel. So a poll that comes late declares no peer dead for another quarter interval, in which the reader
runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_CLEAN_UP: Final = 5.0
"""Seconds that a broker may need to clean up after a connection that it knows to be dead."""

_LATE: Final = 0.25
"""How late a poll may be, in intervals, before the loop counts as stalled."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one poll.

    Attributes:
        send: a heartbeat is due.
        dead: the peer has been silent for two intervals.
        stalled: how late this poll was, in seconds, if the loop counts as stalled; otherwise 0.
        wake_at: when to poll again, in seconds on the caller's clock; infinity when heartbeats are off.
    """

    send: bool
    dead: bool
    stalled: float
    wake_at: float


class Heartbeat:
    """When to send a heartbeat, and when a peer is dead.

    Args:
        interval: the negotiated interval in seconds; 0 turns heartbeats off.
        now: the current time in seconds, on any clock that does not go back.
    """

    __slots__ = ("_grace_for", "_grace_until", "_interval", "_read_at", "_wake_at", "_wrote_at")

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._read_at = now
        self._wrote_at = now
        self._wake_at = float("inf")  # the first poll cannot be late
        self._grace_until = now
        """The peer is not dead before this time."""
        self._grace_for: float | None = None
        """The ``_read_at`` of the latest silence that a late poll excused."""

    def read(self, now: float) -> None:
        """Note that bytes arrived."""
        self._read_at = now

    def wrote(self, now: float) -> None:
        """Note that bytes were sent."""
        self._wrote_at = now

    def poll(self, now: float) -> Verdict:
        """Decide whether to send a heartbeat or give the peer up. Call it at the last ``wake_at``, or earlier."""
        if self._interval <= 0:
            return Verdict(send=False, dead=False, stalled=0.0, wake_at=float("inf"))
        interval = self._interval
        late = now - self._wake_at
        stalled = late if late > interval * _LATE else 0.0
        dead_at = self._read_at + 2 * interval
        if stalled and self._grace_for != self._read_at:
            self._grace_until = now + interval * _LATE
            if now >= dead_at:
                # Once for each silence: by the next poll the reader has run, and read nothing.
                self._grace_for = self._read_at
        dead_at = max(dead_at, self._grace_until)
        dead = now >= dead_at
        send = not dead and now >= self._wrote_at + interval / 2
        if send:
            self._wrote_at = now
        self._wake_at = min(self._wrote_at + interval / 2, dead_at)
        return Verdict(send=send, dead=dead, stalled=stalled, wake_at=self._wake_at)


def lock_grace(interval: float) -> float:
    """Seconds for which our own earlier link may lock an exclusive queue or consumer.

    After a loss that only we have noticed, the broker keeps the lock until it misses our heartbeats: RabbitMQ finds a
    silent client within two to three intervals.

    Args:
        interval: the heartbeat of that link, in seconds; 0 for none.
    """
    return 3.0 * interval + _CLEAN_UP
