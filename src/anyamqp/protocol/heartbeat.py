"""Heartbeat deadlines, with time as an argument.

AMQP 0-9-1, 4.2.7: any traffic counts as a heartbeat; a peer that is silent for two intervals is gone. RabbitMQ,
"Detecting Dead TCP Connections with Heartbeats": send about every half interval.

A stalled event loop (a long computation, a suspended machine) must not be taken for a dead peer: what the peer sent
meanwhile waits in the kernel. Hence a verdict that comes up in a poll which is itself late is put off for a quarter
interval, in which the reader gets its turn.
"""

from __future__ import annotations

from dataclasses import dataclass

_LATE = 0.25
"""How late a poll may be, in intervals, before the loop counts as stalled."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done now.

    Attributes:
        send: a heartbeat is due.
        dead: the peer has been silent for two intervals.
        stalled: how late this poll came, in seconds, if that was late enough to matter; otherwise 0.
        wake_at: when to poll again, in seconds on the caller's clock; infinity when heartbeats are off.
    """

    send: bool
    dead: bool
    stalled: float
    wake_at: float


class Heartbeat:
    """When to send a heartbeat, and when to give a peer up.

    Args:
        interval: the negotiated interval in seconds; 0 turns heartbeats off.
        now: the present time in seconds, on any clock that does not go back.
    """

    __slots__ = ("_grace_for", "_grace_until", "_interval", "_read_at", "_wake_at", "_wrote_at")

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._read_at = now
        self._wrote_at = now
        self._wake_at = float("inf")  # nobody was asked to poll yet, so the first poll cannot be late
        self._grace_until = now
        self._grace_for: float | None = None

    def read(self, now: float) -> None:
        """Bytes arrived."""
        self._read_at = now

    def wrote(self, now: float) -> None:
        """Bytes left."""
        self._wrote_at = now

    def poll(self, now: float) -> Verdict:
        """Decide what is due. Call it at ``wake_at``; earlier does no harm."""
        if self._interval <= 0:
            return Verdict(send=False, dead=False, stalled=0.0, wake_at=float("inf"))
        interval = self._interval
        late = now - self._wake_at
        stalled = late if late > interval * _LATE else 0.0
        dead_at = self._read_at + 2 * interval
        if stalled and self._grace_for != self._read_at:
            self._grace_until = now + interval * _LATE
            if now >= dead_at:
                # Once a silence: by the next poll the reader has had its turn, and found nothing.
                self._grace_for = self._read_at
        dead_at = max(dead_at, self._grace_until)
        dead = now >= dead_at
        send = not dead and now >= self._wrote_at + interval / 2
        if send:
            self._wrote_at = now
        self._wake_at = min(self._wrote_at + interval / 2, dead_at)
        return Verdict(send=send, dead=dead, stalled=stalled, wake_at=self._wake_at)
