"""The recovery of a connection, on one link after the other.

:mod:`anyamqp.protocol.recovering` runs it. The entities come first, then the channels, then the connection opens; the
rest comes late. A *careful* recovery opens one channel at a time. It follows a link that the broker closed without
naming the request that was the reason, and ends once the connection may open.

Absent on purpose: each link is lost before the next one begins; events that an effect finds out about come only in the
states of that effect; no channel can be suspected, and no consumer can miss its queue, before the first channel is
opened; the connection opens in the step that settles, and reads no answer in between; a careful recovery sends one
request at a time, so it never suspects several.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class RecoveryState(Enum):
    """The states of a recovery."""

    IDLE = "idle"
    """There is no link to recover on."""
    DECLARING = "declaring"
    """The entities are being declared."""
    CLOSING_LANES = "closing_lanes"
    """The channels that declared are being closed; the user's channels may need their numbers."""
    REOPENING = "reopening"
    """The user's channels are being opened."""
    CAREFUL_IDLE = "careful_idle"
    """As IDLE; the recovery on the next link is careful."""
    CAREFUL_DECLARING = "careful_declaring"
    CAREFUL_CLOSING_LANES = "careful_closing_lanes"
    CAREFUL_REOPENING = "careful_reopening"
    SETTLED = "settled"
    """The connection may open."""
    LATECOMERS = "latecomers"
    """The connection is open, and not everything is back."""
    COMPLETE = "complete"
    """The connection is open, and everything is back."""


class RecoveryEvent(Enum):
    """The events of a recovery."""

    BEGUN = "begun"
    """A link is open."""
    DUE = "due"
    """The broker has answered something, a channel has changed, or a deadline has passed."""
    DECLARED = "declared"
    """Each entity is declared, failed, late or put aside."""
    LANES_CLOSED = "lanes_closed"
    """The channels that declared have given back their numbers."""
    LANES_LATE = "lanes_late"
    """The broker has not confirmed in time that one of them is closed."""
    ALL_ANSWERED = "all_answered"
    """The broker has answered for all channels."""
    PATIENCE_OVER = "patience_over"
    """The broker has answered for no other channel in time."""
    NO_NUMBER = "no_number"
    """A channel waits for a number, and no other one is being opened."""
    OPENED = "opened"
    """The connection is OPEN, and everything is back."""
    OPENED_EARLY = "opened_early"
    """The connection is OPEN, and not everything is back."""
    ALL_BACK = "all_back"
    """Everything is back, after the connection was opened early."""
    QUEUE_MISSED = "queue_missed"
    """A consumer's queue is missing."""
    LOST = "lost"
    """The link ended; no channel that recovery opens is the reason."""
    CLOSED_UNEXPLAINED = "closed_unexplained"
    """The broker closed the link while channels were being opened, and did not name the request."""
    SUSPECTED = "suspected"
    """The broker closed the link while entities were being declared, and did not name the request."""


class RecoveryEffect(Enum):
    """The consequences of an event."""

    CHECK_ENTITIES = "check_entities"
    """Find out whether the entities are DECLARED."""
    AWAIT_LANES = "await_lanes"
    """Set the time after which they are late."""
    CHECK_LANES = "check_lanes"
    """Find out whether the channels that declared are closed, or late."""
    REOPEN = "reopen"
    """Open all channels, or find out that they are answered for, or that patience is over."""
    REOPEN_NEXT = "reopen_next"
    """Open the next channel once the last one is answered for, or find out that it was the last."""
    REOPEN_REST = "reopen_rest"
    """Open the channels that are on no link; the connection does not wait for them."""
    CHECK_LATECOMERS = "check_latecomers"
    """Open the channels that can be opened by now, or find out that everything is back."""
    DECLARE_AGAIN = "declare_again"
    """Declare the missing queue once more."""
    FAIL_CHANNEL = "fail_channel"
    """Close for good the channel that was being opened."""
    LOSE_ENTITIES = "lose_entities"
    """Tell the declaring that its link has ended."""
    FORGET = "forget"
    """Keep nothing of the link."""
    TELL_NOT_BACK = "tell_not_back"
    TELL_BACK = "tell_back"


_S: TypeAlias = RecoveryState
_E: TypeAlias = RecoveryEvent
_F: TypeAlias = RecoveryEffect

_BEFORE_SETTLED: Final = (_S.DECLARING, _S.CLOSING_LANES, _S.REOPENING)
_CAREFUL_ON_LINK: Final = (_S.CAREFUL_DECLARING, _S.CAREFUL_CLOSING_LANES, _S.CAREFUL_REOPENING)

CAREFUL: Final = (_S.CAREFUL_IDLE, *_CAREFUL_ON_LINK)
"""The states in which one request is sent, and one channel opened, at a time."""

OFF_LINK: Final = (_S.IDLE, _S.CAREFUL_IDLE)
"""The states without a link."""

OPEN: Final = (_S.LATECOMERS, _S.COMPLETE)
"""The states in which the connection is OPEN on the link."""

_LOSE: Final = (_F.LOSE_ENTITIES, _F.FORGET)

RECOVERY: Final[Table[RecoveryState, RecoveryEvent, RecoveryEffect]] = Table(
    "recovery",
    _S.IDLE,
    # --- the way to an open connection
    Row(_E.BEGUN, (_S.IDLE,), _S.DECLARING),
    Row(_E.BEGUN, (_S.CAREFUL_IDLE,), _S.CAREFUL_DECLARING),
    Row(_E.DECLARED, (_S.DECLARING,), _S.CLOSING_LANES, (_F.AWAIT_LANES, _F.CHECK_LANES)),
    Row(_E.DECLARED, (_S.CAREFUL_DECLARING,), _S.CAREFUL_CLOSING_LANES, (_F.AWAIT_LANES, _F.CHECK_LANES)),
    Row(_E.LANES_CLOSED, (_S.CLOSING_LANES,), _S.REOPENING, (_F.REOPEN,)),
    Row(_E.LANES_CLOSED, (_S.CAREFUL_CLOSING_LANES,), _S.CAREFUL_REOPENING, (_F.REOPEN_NEXT,)),
    Row(_E.LANES_LATE, (_S.CLOSING_LANES,), _S.REOPENING, (_F.REOPEN,)),
    Row(_E.LANES_LATE, (_S.CAREFUL_CLOSING_LANES,), _S.CAREFUL_REOPENING, (_F.REOPEN_NEXT,)),
    Row(_E.ALL_ANSWERED, (_S.REOPENING, _S.CAREFUL_REOPENING), _S.SETTLED),
    Row(_E.PATIENCE_OVER, (_S.REOPENING,), _S.SETTLED, (_F.REOPEN_REST,)),
    # A channel that declares has the number. It may be late, and must not delay the connection (invariant 13).
    Row(_E.NO_NUMBER, (_S.REOPENING, _S.CAREFUL_REOPENING), _S.SETTLED),
    Ignored(_E.NO_NUMBER, (_S.SETTLED, _S.LATECOMERS), "the connection does not wait for the channel"),
    Row(_E.OPENED, (_S.SETTLED,), _S.COMPLETE, (_F.FORGET,)),
    Row(_E.OPENED_EARLY, (_S.SETTLED,), _S.LATECOMERS, (_F.TELL_NOT_BACK,)),
    Ignored(_E.OPENED, OFF_LINK, "the link was lost as the connection opened"),
    Row(_E.ALL_BACK, (_S.LATECOMERS,), _S.COMPLETE, (_F.FORGET, _F.TELL_BACK)),
    # --- checks
    Row(_E.DUE, (_S.DECLARING,), _S.DECLARING, (_F.CHECK_ENTITIES,)),
    Row(_E.DUE, (_S.CAREFUL_DECLARING,), _S.CAREFUL_DECLARING, (_F.CHECK_ENTITIES,)),
    Row(_E.DUE, (_S.CLOSING_LANES,), _S.CLOSING_LANES, (_F.CHECK_LANES,)),
    Row(_E.DUE, (_S.CAREFUL_CLOSING_LANES,), _S.CAREFUL_CLOSING_LANES, (_F.CHECK_LANES,)),
    Row(_E.DUE, (_S.REOPENING,), _S.REOPENING, (_F.REOPEN,)),
    Row(_E.DUE, (_S.CAREFUL_REOPENING,), _S.CAREFUL_REOPENING, (_F.REOPEN_NEXT,)),
    Row(_E.DUE, (_S.LATECOMERS,), _S.LATECOMERS, (_F.CHECK_LATECOMERS,)),
    Ignored(_E.DUE, (*OFF_LINK, _S.SETTLED, _S.COMPLETE), "there is nothing to wait for"),
    # --- a queue is missing
    Row(_E.QUEUE_MISSED, (_S.REOPENING,), _S.REOPENING, (_F.DECLARE_AGAIN,)),
    Row(_E.QUEUE_MISSED, (_S.CAREFUL_REOPENING,), _S.CAREFUL_REOPENING, (_F.DECLARE_AGAIN,)),
    Ignored(_E.QUEUE_MISSED, OPEN, "the user may have deleted it since the connection is OPEN"),
    Ignored(_E.QUEUE_MISSED, OFF_LINK, "there is no link to declare it on"),
    # --- the link ends
    Row(_E.LOST, (*_BEFORE_SETTLED, _S.SETTLED, _S.LATECOMERS), _S.IDLE, _LOSE),
    Row(_E.LOST, _CAREFUL_ON_LINK, _S.CAREFUL_IDLE, _LOSE),
    Row(_E.LOST, (_S.COMPLETE,), _S.IDLE),
    Ignored(_E.LOST, OFF_LINK, "the link ended before it was open"),
    # An entity may be suspected as well; the careful recovery finds out.
    Row(_E.CLOSED_UNEXPLAINED, (_S.REOPENING, _S.SETTLED), _S.CAREFUL_IDLE, (_F.FORGET,)),
    Row(_E.CLOSED_UNEXPLAINED, (_S.CAREFUL_REOPENING,), _S.CAREFUL_IDLE, (_F.FAIL_CHANNEL, *_LOSE)),
    # The reason may be a request of the user's.
    Row(_E.CLOSED_UNEXPLAINED, (_S.LATECOMERS,), _S.IDLE, _LOSE),
    Row(_E.SUSPECTED, (_S.IDLE,), _S.CAREFUL_IDLE),
)
