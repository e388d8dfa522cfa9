"""The life of an RPC client, which owns one channel at a time, as a publisher does."""

from __future__ import annotations

from enum import Enum

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class CallerState(Enum):
    """The states of an RPC client."""

    NEW = "new"
    """The block has not begun."""
    AWAY = "away"
    """The channel is on no link, or not open there yet."""
    OPEN = "open"
    """The channel is open, and consumes replies."""
    CLOSED = "closed"
    """The block has ended, or there will be no channel again."""


class CallerEvent(Enum):
    """What can happen to an RPC client."""

    ENTERED = "entered"
    """The block begins."""
    OPENED = "opened"
    """The channel is open, and consumes replies."""
    READY = "ready"
    """The channel takes requests, now or again."""
    LOST = "lost"
    """The link is gone."""
    CHANNEL_CLOSED = "channel_closed"
    """The broker closed the channel for an error."""
    CHANNEL_GONE = "channel_gone"
    """There is no channel to be had: the connection is closed, or has no number left for it."""
    GAVE_UP = "gave_up"
    """No other channel is opened in place of the one that the broker closed."""
    CLOSE = "close"
    """The block ends."""


class CallerEffect(Enum):
    """What the calls do in a row, in the order of the row."""

    SEND_WAITING = "send_waiting"
    LOSE = "lose"
    """Send again what was sent, or settle it if it may not be sent again: its reply cannot come any more."""
    ACCUSE = "accuse"
    """Settle the calls that the broker closed the channel for."""
    REOPEN = "reopen"
    """Lose the others and have another channel opened, or give up."""
    FAIL_ALL = "fail_all"
    """Settle every call with the error of the event, and refuse what comes."""
    FAIL_WITH_CHANNEL = "fail_with_channel"
    """The same with the error of calls on the closed channel."""


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
    # An error before the channel is open is for no call: the broker does not let us have the channel.
    Row(_Event.CHANNEL_CLOSED, (_State.AWAY,), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.CHANNEL_GONE, (_State.AWAY, _State.OPEN), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.GAVE_UP, (_State.AWAY,), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Row(_Event.CLOSE, (_State.AWAY, _State.OPEN), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Ignored(_Event.CLOSE, (_State.CLOSED,), "a client that failed is left like any other"),
)
