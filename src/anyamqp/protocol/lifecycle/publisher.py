"""The life of a publisher.

A publisher owns one channel at a time. It is *away* while that channel is not open, *held* while the channel is open
but cannot publish (the connection recovers, or the broker has blocked it), and *flowing* or *probing* otherwise. After
the broker has closed the channel for an unknown publish, the unconfirmed publishes are *suspects*. A probing publisher
sends them one at a time, each after the confirm of the one before. Suspects survive a loss, so a publisher can be away
or held with suspects or without.

Absent on purpose: a channel is ready only after it was opened; only CLOSED follows CLOSE; no publisher is entered
twice.
"""

from __future__ import annotations

from enum import Enum

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class PublisherState(Enum):
    """The states of a publisher."""

    NEW = "new"
    """The block has not begun."""
    STARTING = "starting"
    """The first channel is not open yet."""
    AWAY = "away"
    """The channel is not open on a link."""
    AWAY_WITH_SUSPECTS = "away_with_suspects"
    HELD = "held"
    """The channel is open but cannot publish."""
    HELD_WITH_SUSPECTS = "held_with_suspects"
    FLOWING = "flowing"
    """Publishes are sent as they come."""
    PROBING = "probing"
    """Suspects are sent one at a time."""
    CLOSING = "closing"
    """The block ends: the channel closes."""
    CLOSED = "closed"
    """The block has ended, or no channel can be opened again."""


class PublisherEvent(Enum):
    """The events of a publisher."""

    ENTERED = "entered"
    """The block begins."""
    OPENED = "opened"
    """The channel is open and in confirm mode."""
    READY = "ready"
    """The channel accepts publishes, for the first time or again."""
    BLOCKED = "blocked"
    """The broker stopped accepting publishes. READY or LOST ends it."""
    LOST = "lost"
    """The link ended, and no publish is to blame."""
    LINK_CLOSED = "link_closed"
    """The broker closed the link, perhaps because of a publish."""
    CHANNEL_CLOSED = "channel_closed"
    """The broker closed the channel for an error."""
    CHANNEL_GONE = "channel_gone"
    """No channel can be opened: the connection is closed, or has no channel number left."""
    SUSPECTED = "suspected"
    """Several publishes may have caused the close."""
    PROBED = "probed"
    """No suspect is left."""
    GAVE_UP = "gave_up"
    """No other channel replaces the one that the broker closed."""
    CLOSE = "close"
    """The block ends."""
    CLOSED = "closed"
    """The block has ended."""


class PublisherEffect(Enum):
    """The effects that the outbox carries out."""

    SEND_BACKLOG = "send_backlog"
    RECALL = "recall"
    """Take back the unconfirmed publishes, to send them again; settle them if they may not be sent again."""
    ACCUSE = "accuse"
    """Settle the publish that caused the close; if it is unknown, recall the unconfirmed publishes as suspects."""
    REOPEN = "reopen"
    """Ask for another channel, or give up."""
    FAIL_ALL = "fail_all"
    """Settle every publish with the event's error, and refuse new ones with it."""
    FAIL_WITH_CHANNEL = "fail_with_channel"
    """As FAIL_ALL, with the error that calls on the closed channel raise."""


_State, _Event, _Effect = PublisherState, PublisherEvent, PublisherEffect

_UNOPENED = (_State.STARTING, _State.AWAY, _State.AWAY_WITH_SUSPECTS)
_OPEN = (_State.HELD, _State.HELD_WITH_SUSPECTS, _State.FLOWING, _State.PROBING)

PUBLISHER: Table[PublisherState, PublisherEvent, PublisherEffect] = Table(
    "publisher",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.STARTING),
    Row(_Event.OPENED, (_State.STARTING, _State.AWAY), _State.HELD),
    Row(_Event.OPENED, (_State.AWAY_WITH_SUSPECTS,), _State.HELD_WITH_SUSPECTS),
    Row(_Event.READY, (_State.HELD,), _State.FLOWING, (_Effect.SEND_BACKLOG,)),
    Row(_Event.READY, (_State.HELD_WITH_SUSPECTS,), _State.PROBING, (_Effect.SEND_BACKLOG,)),
    Row(_Event.BLOCKED, (_State.FLOWING,), _State.HELD),
    Row(_Event.BLOCKED, (_State.PROBING,), _State.HELD_WITH_SUSPECTS),
    Row(_Event.LOST, (_State.HELD, _State.FLOWING), _State.AWAY, (_Effect.RECALL,)),
    Row(_Event.LOST, (_State.HELD_WITH_SUSPECTS, _State.PROBING), _State.AWAY_WITH_SUSPECTS, (_Effect.RECALL,)),
    Ignored(_Event.LOST, _UNOPENED, "the channel was not open on that link, so nothing was sent there"),
    Row(_Event.LINK_CLOSED, _OPEN, _State.AWAY, (_Effect.ACCUSE,)),
    Ignored(_Event.LINK_CLOSED, _UNOPENED, "nothing was sent on that link, so no publish of ours is to blame"),
    Row(_Event.CHANNEL_CLOSED, _OPEN, _State.AWAY, (_Effect.ACCUSE, _Effect.REOPEN)),
    # No publish caused an error before the channel was open: the broker refuses the channel itself.
    Row(_Event.CHANNEL_CLOSED, _UNOPENED, _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.CHANNEL_GONE, (*_UNOPENED, *_OPEN), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.SUSPECTED, (_State.AWAY,), _State.AWAY_WITH_SUSPECTS),
    Row(_Event.PROBED, (_State.AWAY_WITH_SUSPECTS,), _State.AWAY),
    Row(_Event.PROBED, (_State.HELD_WITH_SUSPECTS,), _State.HELD),
    Row(_Event.PROBED, (_State.PROBING,), _State.FLOWING),
    Row(_Event.GAVE_UP, (_State.AWAY, _State.AWAY_WITH_SUSPECTS), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Row(_Event.CLOSE, (*_UNOPENED, *_OPEN), _State.CLOSING, (_Effect.FAIL_ALL,)),
    Ignored(_Event.CLOSE, (_State.CLOSED,), "a failed publisher is closed like any other"),
    Row(_Event.CLOSED, (_State.CLOSING,), _State.CLOSED),
    Ignored(_Event.CLOSED, (_State.CLOSED,), "a failed publisher is closed like any other"),
)
