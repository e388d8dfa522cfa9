"""The life of one publish: on its way, then one outcome for ever (invariant 3).

This table runs in tests, not per message: the outbox moves publishes by plain code, and an observer holds each move
against the table.

A publish that timed out while it was sent stays in the ledger until the broker confirms it or the channel is gone, so
that delivery tags are counted right. Whatever happens to it then changes its outcome no more.
"""

from __future__ import annotations

from enum import Enum
from typing import Never

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class PublishState(Enum):
    """Where a publish is, and how it ended."""

    QUEUED = "queued"
    """In the backlog: not on the present channel."""
    SENT = "sent"
    """In the ledger: it waits for its confirm."""
    RETURNED = "returned"
    """In the ledger: the broker returned it, and its confirm follows."""
    WAITING_TO_RESEND = "waiting_to_resend"
    """The broker nacked it; it pauses before it is sent again."""
    CONFIRMED = "confirmed"
    """A receipt."""
    UNROUTABLE = "unroutable"
    """Unroutable: no queue took it."""
    NACKED = "nacked"
    """Nacked: the broker refused it."""
    TIMED_OUT = "timed_out"
    """PublishTimeout, or its caller was cancelled."""
    UNKNOWN = "unknown"
    """OutcomeUnknown: a loss caught it, and it may not be sent again."""
    BLOCKED = "blocked"
    """ConnectionBlocked: the broker accepted no publishes for too long."""
    CLOSED = "closed"
    """ConnectionClosed, ChannelClosed, or the error that the publisher failed with."""
    REFUSED = "refused"
    """The error that the broker named for this very publish, or that AMQP cannot carry it."""


class PublishEvent(Enum):
    """What can happen to a publish."""

    SENT = "sent"
    """It is in the outgoing buffer."""
    RETURNED = "returned"
    """basic.return came."""
    ACKED = "acked"
    """basic.ack came."""
    NACKED = "nacked"
    """basic.nack came, and nacks are not retried."""
    SET_ASIDE = "set_aside"
    """basic.nack came, and it is to be sent again after a pause."""
    PAUSED = "paused"
    """The pause is over."""
    RECALLED = "recalled"
    """The channel is gone, and it is to be sent again."""
    LOST = "lost"
    """The channel is gone, and it may not be sent again."""
    EXPIRED = "expired"
    """Its deadline is past, or its caller was cancelled."""
    BLOCKED = "blocked"
    """The broker has been accepting no publishes for ``blocked_timeout``."""
    REFUSED = "refused"
    """The broker closed a channel or link for it, or it does not fit a frame."""
    CLOSED = "closed"
    """The publisher is closed."""


_State, _Event = PublishState, PublishEvent

_ON_THE_CHANNEL = (_State.SENT, _State.RETURNED)
_OUTCOMES = (
    _State.CONFIRMED,
    _State.UNROUTABLE,
    _State.NACKED,
    _State.TIMED_OUT,
    _State.UNKNOWN,
    _State.BLOCKED,
    _State.CLOSED,
    _State.REFUSED,
)
_WAITING = (_State.QUEUED, *_ON_THE_CHANNEL, _State.WAITING_TO_RESEND)

PUBLISH: Table[PublishState, PublishEvent, Never] = Table(
    "publish",
    _State.QUEUED,
    Row(_Event.SENT, (_State.QUEUED,), _State.SENT),
    Row(_Event.RETURNED, (_State.SENT,), _State.RETURNED),
    Row(_Event.ACKED, (_State.SENT,), _State.CONFIRMED),
    Row(_Event.ACKED, (_State.RETURNED,), _State.UNROUTABLE),
    Row(_Event.NACKED, (_State.SENT,), _State.NACKED),
    Row(_Event.NACKED, (_State.RETURNED,), _State.UNROUTABLE),
    Row(_Event.SET_ASIDE, _ON_THE_CHANNEL, _State.WAITING_TO_RESEND),
    Row(_Event.PAUSED, (_State.WAITING_TO_RESEND,), _State.QUEUED),
    Row(_Event.RECALLED, _ON_THE_CHANNEL, _State.QUEUED),
    Row(_Event.LOST, _ON_THE_CHANNEL, _State.UNKNOWN),
    Row(_Event.EXPIRED, _WAITING, _State.TIMED_OUT),
    # One that was set aside goes to the backlog first.
    Row(_Event.BLOCKED, (_State.QUEUED,), _State.BLOCKED),
    Row(_Event.REFUSED, (_State.QUEUED, *_ON_THE_CHANNEL), _State.REFUSED),
    Row(_Event.CLOSED, _WAITING, _State.CLOSED),
    Ignored(
        _Event.RETURNED,
        (_State.TIMED_OUT,),
        "the broker returns it all the same; the return must not be taken for that of another publish",
    ),
    Ignored(_Event.ACKED, (_State.TIMED_OUT,), "the confirm came too late"),
    Ignored(_Event.NACKED, (_State.TIMED_OUT,), "the confirm came too late"),
    Ignored(_Event.PAUSED, (_State.TIMED_OUT,), "it is not sent again"),
    Ignored(_Event.REFUSED, (_State.TIMED_OUT,), "the broker named its error too late"),
    Ignored(_Event.CLOSED, (_State.TIMED_OUT,), "it is let go of with the others"),
    Ignored(_Event.EXPIRED, _OUTCOMES, "a caller that has its outcome lets go of it, as one does that is cancelled"),
)
