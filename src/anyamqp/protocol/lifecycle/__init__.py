"""The life cycles: one table per kind of object. Only these tables decide which event may follow which.

A *connection* is the object that a user keeps for as long as the program runs. A *link* is one TCP connection of it,
from the first byte to the last. A *channel* is a logical AMQP channel that moves from link to link. A *publisher*, a
*consumer* and a *caller* (an RPC client) own one channel at a time. A *publish* belongs to a publisher, a *transaction*
to a channel, a *pool* of channels and a *recovery* to a connection. An *entity* is an exchange, a queue or a binding
that a recovery declares again. Each word in italics is the name of a module with one table.

Events of each machine
    The session runs the link, which sees the methods of AMQP's class ``connection`` and the end of the byte stream.
    The connection's core (:mod:`anyamqp.protocol.connection`) runs the connection, which sees the end of a pause, a new
    transport, a link that opens or ends, a policy that gives up, and the user's close. The channel sees its own open
    and close methods, channel.flow, the loss of its link, and the state of its connection. Publisher, consumer and
    caller see the events of their channel and the calls of their user; a transaction sees the loss of its channel, its
    block, and the broker's answers; a pool sees the tasks that borrow channels. The recovery sees a link that opens or
    ends, and finds out the rest when it is due. An entity sees the broker's answers to its declaration.

Coupling of the machines
    An event of one machine leads to events of others, as :mod:`anyamqp.protocol.coupling` says. When a link ends, the
    connection and then every channel on it is ``lost``, without an await between. A channel is ``opened`` only on an
    open link, and is ``ready`` once its connection is open. A connection that is ``closed`` or ``failed`` closes its
    channels.

Each module says which events are absent from its table and why.
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
        machine: its kind, and its number if there are several: ``connection``, ``channel 3`` or ``link 2``.
        source: the state that it left.
        event: the event.
        target: the state that it entered.
        at: the time in seconds on the event loop's clock (:func:`anyio.current_time`).
        reason: the reason in words, if there is more to say than the event.
        link_number: the number of the link, counted from 1; 0 before the first.
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
