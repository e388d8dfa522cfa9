"""The life of a publisher.

A publisher owns one channel at a time. It is *away* while that channel is open on no link, *held* while the channel is
open but the broker does not accept publishes (the connection recovers, or the broker has blocked it), and *flowing* or
*probing* otherwise. While it probes, it sends the publishes that the broker may have closed the channel for one at a
time, each only after the confirm of the one before. Suspects survive a loss, so a publisher can be away or held with
suspects or without.

Absent on purpose: the channel becomes ready only after it was opened; nothing but the end of the block follows the
close; no publisher is entered twice.
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
    """The channel is on no link."""
    AWAY_WITH_SUSPECTS = "away_with_suspects"
    HELD = "held"
    """The channel is open, and the broker does not accept publishes."""
    HELD_WITH_SUSPECTS = "held_with_suspects"
    FLOWING = "flowing"
    """Publishes leave as they come."""
    PROBING = "probing"
    """Suspects leave one at a time."""
    CLOSING = "closing"
    """The block ends: the channel is being closed."""
    CLOSED = "closed"
    """The block has ended, or there will be no channel again."""


class PublisherEvent(Enum):
    """What can happen to a publisher."""

    ENTERED = "entered"
    """The block begins."""
    OPENED = "opened"
    """The channel is open and in confirm mode."""
    READY = "ready"
    """The channel takes publishes, now or again."""
    BLOCKED = "blocked"
    """The broker stopped accepting publishes. READY or LOST ends it."""
    LOST = "lost"
    """The link is gone, and no publish is to blame."""
    LINK_CLOSED = "link_closed"
    """The broker closed the link, perhaps because of a publish."""
    CHANNEL_CLOSED = "channel_closed"
    """The broker closed the channel for an error."""
    CHANNEL_GONE = "channel_gone"
    """There is no channel to be had: the connection is closed, or has no number left for it."""
    SUSPECTED = "suspected"
    """Several publishes may be to blame for a close."""
    PROBED = "probed"
    """No suspect is left."""
    GAVE_UP = "gave_up"
    """No other channel is opened in place of the one that the broker closed."""
    CLOSE = "close"
    """The block ends."""
    CLOSED = "closed"
    """The block has ended."""


class PublisherEffect(Enum):
    """What the outbox does in a row, in the order of the row."""

    SEND_BACKLOG = "send_backlog"
    RECALL = "recall"
    """Take back what is unconfirmed, to send it again; or settle it, if it may not be sent again."""
    ACCUSE = "accuse"
    """The same, looking for the publish that the close was for."""
    REOPEN = "reopen"
    """Have another channel opened, or give up."""
    FAIL_ALL = "fail_all"
    """Settle everything that is left with the error of the event, and refuse what comes."""
    FAIL_WITH_CHANNEL = "fail_with_channel"
    """The same with the error of calls on the closed channel."""


_State, _Event, _Effect = PublisherState, PublisherEvent, PublisherEffect

_UNOPENED = (_State.STARTING, _State.AWAY, _State.AWAY_WITH_SUSPECTS)
_OPEN = (_State.HELD, _State.HELD_WITH_SUSPECTS, _State.FLOWING, _State.PROBING)

PUBLISHER: Table[PublisherState, PublisherEvent, PublisherEffect] = Table(
    "publisher",
    _State.NEW,
    Row(_Event.ENTERED, (_State.NEW,), _State.STARTING),
    Row(_Event.OPENED, (_State.STARTING, _State.AWAY), _State.HELD),
    Row(_Event.OPENED, (_State.AWAY_WITH_SUSPECTS,), _State.HELD_WITH_SUSPECTS),
    Row(_Event.READY, (_State.HELD, _State.FLOWING), _State.FLOWING, (_Effect.SEND_BACKLOG,)),
    Row(_Event.READY, (_State.HELD_WITH_SUSPECTS, _State.PROBING), _State.PROBING, (_Effect.SEND_BACKLOG,)),
    Row(_Event.BLOCKED, (_State.FLOWING,), _State.HELD),
    Row(_Event.BLOCKED, (_State.PROBING,), _State.HELD_WITH_SUSPECTS),
    Ignored(
        _Event.BLOCKED,
        (*_UNOPENED, _State.HELD, _State.HELD_WITH_SUSPECTS, _State.CLOSED),
        "nothing flows that could be held; a publisher that failed is told until its block ends",
    ),
    Row(_Event.LOST, (_State.HELD, _State.FLOWING), _State.AWAY, (_Effect.RECALL,)),
    Row(_Event.LOST, (_State.HELD_WITH_SUSPECTS, _State.PROBING), _State.AWAY_WITH_SUSPECTS, (_Effect.RECALL,)),
    Ignored(_Event.LOST, _UNOPENED, "the channel was not open on that link, so nothing was sent there"),
    Row(_Event.LINK_CLOSED, _OPEN, _State.AWAY, (_Effect.ACCUSE,)),
    Ignored(_Event.LINK_CLOSED, _UNOPENED, "nothing was sent on that link, so no publish of ours is to blame"),
    Row(_Event.CHANNEL_CLOSED, _OPEN, _State.AWAY, (_Effect.ACCUSE, _Effect.REOPEN)),
    # An error before the channel is open is for no publish: the broker does not let us have the channel.
    Row(_Event.CHANNEL_CLOSED, _UNOPENED, _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.CHANNEL_GONE, (*_UNOPENED, *_OPEN), _State.CLOSED, (_Effect.FAIL_WITH_CHANNEL,)),
    Row(_Event.SUSPECTED, (_State.AWAY,), _State.AWAY_WITH_SUSPECTS),
    Row(_Event.PROBED, (_State.AWAY_WITH_SUSPECTS,), _State.AWAY),
    Row(_Event.PROBED, (_State.HELD_WITH_SUSPECTS,), _State.HELD),
    Row(_Event.PROBED, (_State.PROBING,), _State.FLOWING),
    Row(_Event.GAVE_UP, (_State.AWAY, _State.AWAY_WITH_SUSPECTS), _State.CLOSED, (_Effect.FAIL_ALL,)),
    Row(_Event.CLOSE, (*_UNOPENED, *_OPEN), _State.CLOSING, (_Effect.FAIL_ALL,)),
    Ignored(_Event.CLOSE, (_State.CLOSED,), "a publisher that failed is left like any other"),
    Row(_Event.CLOSED, (_State.CLOSING,), _State.CLOSED),
    Ignored(_Event.CLOSED, (_State.CLOSED,), "a publisher that failed is left like any other"),
)
