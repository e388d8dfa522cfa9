"""The life of an RPC client. Like a publisher, it owns one channel at a time.

Absent on purpose: a channel is ready only after it was opened; only an AWAY client gives up, because its channel was
closed before; only CLOSE follows CLOSED, because a channel that is closing tells its owner nothing; no client is
entered twice.
"""

from __future__ import annotations

from enum import Enum

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class CallerState(Enum):
    """The states of an RPC client."""

    NEW = "new"
    """The block has not begun."""
    AWAY = "away"
    """The channel is not open on a link."""
    OPEN = "open"
    """The channel is open and consumes replies."""
    CLOSED = "closed"
    """The block has ended, or no channel can be opened again."""


class CallerEvent(Enum):
    """The events of an RPC client."""

    ENTERED = "entered"
    """The block begins."""
    OPENED = "opened"
    """The channel is open and consumes replies."""
    READY = "ready"
    """The channel accepts requests, for the first time or again."""
    LOST = "lost"
    """The link ended."""
    CHANNEL_CLOSED = "channel_closed"
    """The broker closed the channel for an error."""
    CHANNEL_GONE = "channel_gone"
    """No channel can be opened: the connection is closed, or has no channel number left."""
    GAVE_UP = "gave_up"
    """No other channel replaces the one that the broker closed."""
    CLOSE = "close"
    """The block ends."""


class CallerEffect(Enum):
    """The effects that the calls carry out."""

    SEND_WAITING = "send_waiting"
    LOSE = "lose"
    """The replies to the sent requests are lost: send these again, or fail their calls."""
    ACCUSE = "accuse"
    """Fail the calls to blame for the close."""
    REOPEN = "reopen"
    """As LOSE, and ask for another channel; or give up."""
    FAIL_ALL = "fail_all"
    """Fail every call with the event's error, and refuse new ones with it."""
    FAIL_WITH_CHANNEL = "fail_with_channel"
    """As FAIL_ALL, with the error that calls on the closed channel raise."""


_State, _Event, _Effect = CallerState, CallerEvent, CallerEffect

CALLER: Table[CallerState, CallerEvent, CallerEffect] = Table(
    "RPC client",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.AWAY),
    Row(_Event.OPENED, (_State.AWAY,), _State.OPEN),
    Row(_Event.READY, (_State.OPEN,), _State.OPEN, (_Effect.SEND_WAITING,)),
    Row(_Event.LOST, (_State.OPEN,), _State.AWAY, (_Effect.LOSE,)),
    Ignored(_Event.LOST, (_State.AWAY,), "the channel was not open on that link, so nothing was sent there"),
    Row(_Event.CHANNEL_CLOSED, (_State.OPEN,), _State.AWAY, (_Effect.ACCUSE, _Effect.REOPEN)),
    # No call caused an error before the channel was open: the broker refuses the channel itself.
    Row(_Event.CHANNEL_CLOSED, (_State.AWAY,), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.CHANNEL_GONE, (_State.AWAY, _State.OPEN), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.GAVE_UP, (_State.AWAY,), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Row(_Event.CLOSE, (_State.AWAY, _State.OPEN), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Ignored(_Event.CLOSE, (_State.CLOSED,), "a failed client is closed like any other"),
)
