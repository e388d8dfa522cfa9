"""The life cycles: one table per kind of object. Only these tables decide which event may follow which.

A *connection* is what the user holds for as long as the program runs. A *link* is one TCP connection of it, from the
first byte to the last. A *channel* is a logical AMQP channel that moves from link to link. Publishers and consumers own
one channel at a time.

Events of each machine
    The link sees the methods of AMQP's class ``connection`` and the end of the byte stream: the session runs it. The
    connection sees what the supervisor learns: a pause is over, a transport is there, a link is open or has ended, the
    policy gives up, the user leaves. The channel sees its own open and close methods, channel.flow, the loss of its
    link, and the state of its connection. Publisher and consumer see the events of their channel and the calls of
    their user.

Coupling of the machines
    :mod:`anyamqp.protocol.coupling` says which event of one machine means which event of another. A link that ends
    makes the connection and every channel on it ``lost``, in that order and without an await between. A channel is
    ``opened`` only on an open link, and is ``ready`` once its connection is open. A connection that is ``closed`` or
    ``failed`` takes its channels along.

Each module below holds one table, with the reasons for what is absent from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyamqp.protocol.lifecycle.channel import CHANNEL, ChannelEffect, ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.connection import CONNECTION, ConnectionEffect, ConnectionEvent, ConnectionState
from anyamqp.protocol.lifecycle.link import LINK, LinkEffect, LinkEvent, LinkState
from anyamqp.protocol.lifecycle.states import State

__all__ = [
    "CHANNEL",
    "CONNECTION",
    "LINK",
    "ChannelEffect",
    "ChannelEvent",
    "ChannelState",
    "ConnectionEffect",
    "ConnectionEvent",
    "ConnectionState",
    "LinkEffect",
    "LinkEvent",
    "LinkState",
    "State",
    "Transition",
]


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
