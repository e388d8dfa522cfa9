"""The statistics of a connection."""

from __future__ import annotations

from dataclasses import dataclass

from anyamqp.protocol.lifecycle import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A connection at one moment.

    Attributes:
        state: the connection's state.
        detail: the step of the connection, such as ``reconnecting: dialing, connecting to rabbit-2:5672``.
        link_number: the current or last link, counted from 1; 0 before the first.
        dials: attempts to connect so far.
        reconnects: how often the connection was lost and came back.
        open_channels: channels in use on the current link.
        unconfirmed: publishes that wait for an outcome.
        window: how many may wait, in the windows of all publishers together.
        silent_for: seconds since bytes came from the broker; None without a link. A silent broker is given up after two
            heartbeat intervals.
        blocked_since: when the broker blocked the connection, on the event loop's clock; None if it is not blocked.
        blocked_seconds: for how long the connection has been BLOCKED so far, all blocks together.
        last_error: the last error that cost a link or an attempt; None if there was none.
        not_back: the entities, consumers and channels that are not back after the last loss, each with the reason:
            the broker does not answer for them, or they are locked until it notices the end of the last link.
        stale_acks: acks, nacks and rejects that were not sent because their link was gone.
        unknown_confirms: confirms for a tag that nothing waited for.
        dropped_transitions: transitions that slow readers of the stream missed.
        stalls: how often the event loop was late by more than a quarter of the heartbeat interval.
        bytes_sent, bytes_received: on all links together.
        frames_sent, frames_received: on all links together.
    """

    state: State
    detail: str
    link_number: int
    dials: int
    reconnects: int
    open_channels: int
    unconfirmed: int
    window: int
    silent_for: float | None
    blocked_since: float | None
    blocked_seconds: float
    last_error: Exception | None
    not_back: tuple[str, ...]
    stale_acks: int
    unknown_confirms: int
    dropped_transitions: int
    stalls: int
    bytes_sent: int
    bytes_received: int
    frames_sent: int
    frames_received: int
