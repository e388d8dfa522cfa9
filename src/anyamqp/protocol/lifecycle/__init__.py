"""The life cycles: one table for each kind of object, and nothing else decides what may follow what.

A *connection* is what the user holds for as long as the program runs. A *link* is one TCP connection of it, from the
first byte to the last. A *channel* is a logical AMQP channel that moves from link to link. Publishers and consumers own
one channel at a time.

Who sees which event
    The link sees the methods of AMQP's class ``connection`` and the end of the byte stream: the session runs it. The
    connection sees what the supervisor learns: a pause is over, a transport is there, a link is open or has ended, the
    policy gives up, the user leaves. The channel sees its own open and close methods, and the loss of the link under
    it. Publisher and consumer see what their channel tells them, and their user's calls.

What couples the machines
    A link that ends makes the connection and every channel on it ``lost``, in that order and without an await between.
    A channel is ``opened`` only on an open link, and the connection is ``opened`` only after its channels are, so that
    whoever sees OPEN can use everything below. A connection that is ``closed`` or ``failed`` takes its channels along.

Each module below holds one table, with the reasons for what is absent from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Never

from anyamqp.protocol.lifecycle.connection import CONNECTION, ConnectionEffect, ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.link import LINK, LinkEffect, LinkEvent, LinkState
from anyamqp.protocol.lifecycle.states import State
from anyamqp.protocol.lifecycle.table import Ignored, Row, Table

__all__ = [
    "CHANNEL",
    "CONNECTION",
    "LINK",
    "ChannelEvent",
    "ConnectionEffect",
    "ConnectionEvent",
    "ConnectionState",
    "LinkEffect",
    "LinkEvent",
    "LinkState",
    "State",
    "Transition",
]


class ChannelEvent(Enum):
    """What can happen to a channel."""

    OPENED = "opened"
    LOST = "lost"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    CLOSE = "close"
    CLOSED = "closed"
    FAILED = "failed"


_UNFINISHED = (State.CONNECTING, State.OPEN, State.BLOCKED, State.RECONNECTING)

CHANNEL: Table[State, ChannelEvent, Never] = Table(
    "channel",
    State.CONNECTING,
    Row(ChannelEvent.OPENED, (State.CONNECTING, State.RECONNECTING), State.OPEN),
    Row(ChannelEvent.LOST, (State.CONNECTING, State.OPEN, State.BLOCKED), State.RECONNECTING),
    Ignored(ChannelEvent.LOST, (State.RECONNECTING,), "the channel was not open again on the link that is lost"),
    Row(ChannelEvent.BLOCKED, (State.OPEN,), State.BLOCKED),
    Ignored(
        ChannelEvent.BLOCKED,
        (State.CONNECTING, State.BLOCKED, State.RECONNECTING, State.CLOSING),
        "channel.flow may come at any time, and more than once",
    ),
    Row(ChannelEvent.UNBLOCKED, (State.BLOCKED,), State.OPEN),
    Ignored(
        ChannelEvent.UNBLOCKED,
        (State.CONNECTING, State.OPEN, State.RECONNECTING, State.CLOSING),
        "channel.flow may come at any time, and more than once",
    ),
    Row(ChannelEvent.CLOSE, _UNFINISHED, State.CLOSING),
    Row(ChannelEvent.CLOSED, (State.CLOSING,), State.CLOSED),
    Row(ChannelEvent.FAILED, _UNFINISHED, State.CLOSED),
)


@dataclass(frozen=True, slots=True)
class Transition:
    """One state change, recorded once.

    Attributes:
        machine: ``connection``, ``channel 3`` or ``link 2``: its kind, and which one where there are several.
        source: the state it left.
        event: what happened.
        target: the state it entered.
        at: when, in seconds on the event loop's clock (:func:`anyio.current_time`); compare two for a duration.
        reason: why, in words, where there is more to say than the event.
        link_number: the link it happened on, counted from 1; 0 before the first.
    """

    machine: str
    source: State | LinkState
    event: ConnectionEvent | ChannelEvent | LinkEvent
    target: State | LinkState
    at: float
    reason: str | None
    link_number: int

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.machine} {self.source.name} -> {self.target.name} ({self.event.value}{why})"
