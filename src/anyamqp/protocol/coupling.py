"""The coupling of the machines: an event of one machine leads to events of others.

When a link ends, first its connection learns of the loss, then all channels on it, then their owners, without an
await between. A connection that opens, blocks or unblocks passes that on to its channels. A channel that opens gets the
events that it missed. A connection that ends closes its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anyamqp.errors import AnyamqpError, ConnectionClosed
from anyamqp.protocol.lifecycle.channel import ChannelEvent
from anyamqp.protocol.lifecycle.connection import ConnectionEffect
from anyamqp.protocol.lifecycle.states import State

FOR_CHANNELS: Final[Mapping[ConnectionEffect, ChannelEvent]] = {
    ConnectionEffect.READY_CHANNELS: ChannelEvent.READY,
    ConnectionEffect.BLOCK_CHANNELS: ChannelEvent.BLOCKED,
    ConnectionEffect.UNBLOCK_CHANNELS: ChannelEvent.UNBLOCKED,
}
"""For effects of the connection's table: the event that each channel gets."""

ON_OPENING: Final[Mapping[State, tuple[ChannelEvent, ...]]] = {
    State.CONNECTING: (),
    State.RECONNECTING: (),
    State.OPEN: (ChannelEvent.READY,),
    State.BLOCKED: (ChannelEvent.BLOCKED,),
    State.CLOSING: (),
    State.CLOSED: (),
}
"""The events that a channel has missed when it opens, by the state of its connection."""


def end_of_channel(error: AnyamqpError) -> ChannelEvent:
    """The event that ends a channel when its connection ends with ``error``: closing by the user is no failure."""
    is_leaving = isinstance(error, ConnectionClosed) and error.__cause__ is None
    return ChannelEvent.LEAVE if is_leaving else ChannelEvent.FAILED
