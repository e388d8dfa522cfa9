"""The life of one publish, which ends in exactly one outcome (invariant 3).

This table runs in tests only: in production, the outbox moves publishes in plain code. In the tests, an observer checks
each move against the table.

A publish that times out after it was sent stays in the ledger until the broker confirms it or the channel ends, so that
delivery tags stay right. Its outcome no longer changes.
"""

from __future__ import annotations

from enum import Enum
from typing import Never

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class PublishState(Enum):
    """The place of a publish, or its outcome."""

    QUEUED = "queued"
    """In the backlog, not sent on the current channel."""
    SENT = "sent"
    """In the ledger, awaiting its confirm."""
    RETURNED = "returned"
    """In the ledger; the broker has returned it, and its confirm follows."""
    WAITING_TO_RESEND = "waiting_to_resend"
    """Set aside: the broker nacked it, and it pauses before it is sent again."""
    CONFIRMED = "confirmed"
    """A receipt."""
    UNROUTABLE = "unroutable"
    """Unroutable: no queue took it."""
    NACKED = "nacked"
    """Nacked: the broker refused it."""
    TIMED_OUT = "timed_out"
    """PublishTimeout, or its caller was cancelled."""
    UNKNOWN = "unknown"
    """OutcomeUnknown: its confirm was lost, and it may not be sent again."""
    BLOCKED = "blocked"
    """ConnectionBlocked: the broker accepted no publishes for too long."""
    CLOSED = "closed"
    """ConnectionClosed, ChannelClosed, or the error that the publisher failed with."""
    REFUSED = "refused"
    """The broker's error for this publish, or InvalidArgument because it does not fit a frame."""


class PublishEvent(Enum):
    """The events of a publish."""

    SENT = "sent"
    """It is in the outgoing buffer."""
    RETURNED = "returned"
    """basic.return came."""
    ACKED = "acked"
    """basic.ack came."""
    NACKED = "nacked"
    """basic.nack came, and the policy does not retry nacks."""
    SET_ASIDE = "set_aside"
    """basic.nack came, and the policy retries it after a pause."""
    PAUSED = "paused"
    """The pause is over."""
    RECALLED = "recalled"
    """The channel ended, and the publish is sent again."""
    LOST = "lost"
    """The channel ended, and the publish may not be sent again."""
    EXPIRED = "expired"
    """Its deadline has passed, or its caller was cancelled."""
    BLOCKED = "blocked"
    """The connection has been blocked for ``blocked_timeout``."""
    REFUSED = "refused"
    """The broker closed a channel or link because of it, or it does not fit a frame."""
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
    # A publish that was set aside goes to the backlog first.
    Row(_Event.BLOCKED, (_State.QUEUED,), _State.BLOCKED),
    Row(_Event.REFUSED, (_State.QUEUED, *_ON_THE_CHANNEL), _State.REFUSED),
    Row(_Event.CLOSED, _WAITING, _State.CLOSED),
    Ignored(
        _Event.RETURNED,
        (_State.TIMED_OUT,),
        "the broker still returns it; the return must not be matched with another publish",
    ),
    Ignored(_Event.ACKED, (_State.TIMED_OUT,), "the confirm came too late"),
    Ignored(_Event.NACKED, (_State.TIMED_OUT,), "the confirm came too late"),
    Ignored(_Event.PAUSED, (_State.TIMED_OUT,), "it is not sent again"),
    Ignored(_Event.REFUSED, (_State.TIMED_OUT,), "the broker named its error too late"),
    Ignored(_Event.CLOSED, (_State.TIMED_OUT,), "it is dropped with the others"),
    Ignored(_Event.EXPIRED, _OUTCOMES, "a caller that has its outcome calls time_out() too, as a cancelled one does"),
)
