"""The coupling of the machines: an event of one machine leads to events of others.

When a link ends, first its connection learns of the loss, then its recovery, then all channels on it and their owners,
without an await between (:mod:`anyamqp.protocol.dispatch`). The rest is here: a connection that opens, blocks or
unblocks passes that on to its channels; a channel that is registered opens now or later, as the state of its connection
says; a channel that opens gets the events that it missed; a connection that ends closes its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from anyamqp.protocol.lifecycle.channel import ChannelEvent
from anyamqp.protocol.lifecycle.connection import ConnectionEffect, ConnectionState
from anyamqp.protocol.lifecycle.states import State

FOR_CHANNELS: Final[Mapping[ConnectionEffect, ChannelEvent]] = {
    ConnectionEffect.READY_CHANNELS: ChannelEvent.READY,
    ConnectionEffect.BLOCK_CHANNELS: ChannelEvent.BLOCKED,
    ConnectionEffect.UNBLOCK_CHANNELS: ChannelEvent.UNBLOCKED,
}
"""For effects of the connection's table: the event that each channel gets."""

ENDS_CHANNELS: Final[Mapping[ConnectionEffect, ChannelEvent]] = {
    ConnectionEffect.LEAVE_CHANNELS: ChannelEvent.LEAVE,
    ConnectionEffect.FAIL_CHANNELS: ChannelEvent.FAILED,
}
"""The same for effects that end the connection, whose error becomes the error of each channel."""


class Joining(Enum):
    """The answers of a connection to a channel that is to be opened."""

    NOT_ENTERED = "refused: the connection's block was not entered"
    LATER = "the recovery opens it"
    NOW = "it opens on the current link"
    CLOSED = "refused: the connection is closed or closing"


ON_JOINING: Final[Mapping[ConnectionState, Joining]] = {
    ConnectionState.CONNECTING_NEW: Joining.NOT_ENTERED,
    ConnectionState.CONNECTING_WAITING: Joining.LATER,
    ConnectionState.CONNECTING_DIALING: Joining.LATER,
    ConnectionState.CONNECTING_HANDSHAKING: Joining.LATER,
    ConnectionState.CONNECTING_RECOVERING: Joining.LATER,
    ConnectionState.OPEN: Joining.NOW,
    ConnectionState.BLOCKED: Joining.NOW,
    ConnectionState.RECONNECTING_WAITING: Joining.LATER,
    ConnectionState.RECONNECTING_DIALING: Joining.LATER,
    ConnectionState.RECONNECTING_HANDSHAKING: Joining.LATER,
    ConnectionState.RECONNECTING_RECOVERING: Joining.LATER,
    ConnectionState.CLOSING: Joining.CLOSED,
    ConnectionState.CLOSED: Joining.CLOSED,
}
"""The answers to a channel, by the state of its connection."""

ON_OPENING: Final[Mapping[State, tuple[ChannelEvent, ...]]] = {
    State.CONNECTING: (),
    State.RECONNECTING: (),
    State.OPEN: (ChannelEvent.READY,),
    State.BLOCKED: (ChannelEvent.BLOCKED,),
    State.CLOSING: (),
    State.CLOSED: (),
}
"""The events that a channel has missed when it opens, by the state of its connection."""
