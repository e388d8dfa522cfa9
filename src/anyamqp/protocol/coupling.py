"""The coupling of the machines: which event of one means which event of another.

A link that ends is lost for its connection first, then for every channel on it, then for their owners, without an await
between. A connection that opens, blocks or unblocks passes that on to its channels. A channel that opens is told how
its connection is. A connection that ends takes its channels along.
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
"""The event of every channel that an effect of their connection's table stands for."""

ON_OPENING: Final[Mapping[State, tuple[ChannelEvent, ...]]] = {
    State.CONNECTING: (),
    State.RECONNECTING: (),
    State.OPEN: (ChannelEvent.READY,),
    State.BLOCKED: (ChannelEvent.BLOCKED,),
    State.CLOSING: (),
    State.CLOSED: (),
}
"""What a channel that opens has missed, by the state of its connection."""


def end_of_channel(error: AnyamqpError) -> ChannelEvent:
    """The event by which an error of its connection's ends a channel: a user who leaves is no failure."""
    is_leaving = isinstance(error, ConnectionClosed) and error.__cause__ is None
    return ChannelEvent.LEAVE if is_leaving else ChannelEvent.FAILED
