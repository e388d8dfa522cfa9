"""The life cycle of a consumer, from entering its block until its iteration has ended.

A consumer has one channel at a time. It keeps the channel over losses, and makes another if the broker closed the
channel or cancelled the consumer, or if no channel number was free.

Three states exist twice. An end before the first consume-ok is an error of entering: SUBSCRIBING, AWAITING_QUEUE,
NEVER_CONSUMED. An end after it is the end of an iteration, which the topology has to learn of: RESUBSCRIBING,
AWAITING_RETURN, ENDED.

Data choose between events: ``on_cancel`` decides whether basic.cancel is CANCELLED or GIVEN_NOTICE, and the error of a
closed channel decides which of the ENDINGS it is.

Absent on purpose: a consumer without a channel (AWAITING_QUEUE, AWAITING_RETURN, NEVER_CONSUMED) sees no event of a
channel; LOST comes before the channel is attached to another link; only STOPPING awaits an answer to basic.cancel; no
consumer is entered twice.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

from anyamqp.protocol.lifecycle.table import Ignored, Row, Table


class ConsumerState(Enum):
    """The states of a consumer."""

    NEW = "new"
    """Its block was not entered."""
    SUBSCRIBING = "subscribing"
    """It waits for a link, for its channel, or for its first consume-ok."""
    AWAITING_QUEUE = "awaiting_queue"
    """The same, but its queue is missing or no channel number is free: it tries again after a pause."""
    CONSUMING = "consuming"
    """The broker delivers to it."""
    ASKING = "asking"
    """The broker has cancelled it; it asks whether its queue still exists."""
    RESUBSCRIBING = "resubscribing"
    """It has consumed, and waits for a link, for its channel, or for consume-ok."""
    AWAITING_RETURN = "awaiting_return"
    """The same, but its queue is missing or no channel number is free: it tries again after a pause."""
    STOPPING = "stopping"
    """basic.cancel was sent and is not answered yet."""
    ENDED = "ended"
    """No more deliveries come. Its channel may stay open until the block ends, so that deliveries can be settled."""
    NEVER_CONSUMED = "never_consumed"
    """It ended before its first consume-ok."""


class ConsumerEvent(Enum):
    """The events of a consumer."""

    ENTERED = "entered"
    """Its block begins."""
    ENTERING_FAILED = "entering_failed"
    """Entering raised an error or was cancelled."""
    ATTACHED = "attached"
    """Its channel is being opened on a link."""
    OPENED = "opened"
    """consume-ok came."""
    OPENED_LATE = "opened_late"
    """consume-ok came so late that the requested position of the stream is wrong."""
    LOST = "lost"
    """The link of its channel has ended."""

    CANCELLED = "cancelled"
    """basic.cancel came; the next step depends on whether the queue still exists."""
    GIVEN_NOTICE = "given_notice"
    """basic.cancel came, and the consumer waits for the queue."""
    QUEUE_FOUND = "queue_found"
    """The broker cancelled the consumer although its queue exists."""
    CANCELLED_TOO_OFTEN = "cancelled_too_often"
    """The same, several times in a row, each time right after consume-ok."""

    CHANNEL_CLOSED = "channel_closed"
    """The broker closed the channel, but not because of basic.consume: for a late acknowledgement, for example."""
    LOCKED_BY_US = "locked_by_us"
    """The broker closed the channel because of a lock that our last link may hold."""
    QUEUE_DECLARED_AGAIN = "queue_declared_again"
    """The queue is missing, and the current recovery will declare it again."""
    QUEUE_AWAITED = "queue_awaited"
    """The queue is missing, and the consumer waits for it."""
    QUEUE_GONE = "queue_gone"
    """The queue is missing, which ends the iteration without an error."""
    NOT_FOUND = "not_found"
    """The queue is missing, which is an error."""
    REFUSED = "refused"
    """An error that ends the consumer closed the channel, or prevented its opening."""

    NO_CHANNEL = "no_channel"
    """No channel number is free."""
    DUE = "due"
    """A pause is over."""
    STOPPED = "stopped"
    """The user called stop(), or left the block."""
    CANCEL_ANSWERED = "cancel_answered"
    """cancel-ok came, or will not come."""
    CONNECTION_CLOSING = "connection_closing"
    """The user closes the connection, whose link is open."""
    CONNECTION_CLOSED = "connection_closed"
    """The connection is closed for good."""


class ConsumerEffect(Enum):
    """The effects of a consumer's events."""

    OPEN_FIRST_CHANNEL = "open_first_channel"
    """Register the channel; an error goes to the task that enters the block."""
    OPEN_CHANNEL = "open_channel"
    """Register a fresh channel in place of the last one; an error is an event."""
    OPEN_LATER = "open_later"
    """Register a fresh channel after a pause."""
    CLOSE_CHANNEL = "close_channel"
    SUBSCRIBE = "subscribe"
    """Send basic.qos and basic.consume."""
    ASK_FOR_QUEUE = "ask_for_queue"
    """Send a passive queue.declare."""
    CANCEL = "cancel"
    """Send basic.cancel and wait for the answer."""
    CANCEL_UNANSWERED = "cancel_unanswered"
    """Send basic.cancel with no-wait."""
    PAUSE = "pause"
    """Set the deadline of the next attempt."""
    DROP = "drop"
    """Drop the waiting deliveries: the broker has requeued them."""
    GIVE_BACK = "give_back"
    """Requeue the waiting deliveries."""
    GIVE_BACK_LATER = "give_back_later"
    """Keep the waiting deliveries until basic.cancel is answered: requeued before, they would come here again."""
    GIVE_BACK_KEPT = "give_back_kept"
    """Requeue the deliveries that were kept."""
    TELL_STARTED = "tell_started"
    """Tell the topology that a consumer of the queue has started."""
    TELL_ENDED = "tell_ended"
    """Tell the topology that it has ended."""
    LOG_CANCELLED = "log_cancelled"
    """Log that the broker cancelled the consumer although its queue exists."""
    END = "end"
    """End the iteration."""
    FAIL = "fail"
    """End the iteration with the error of the event."""
    FAIL_CANCELLED = "fail_cancelled"
    """End the iteration as ``on_cancel`` says: with ConsumerCancelled, or without an error."""


_S, _E, _F = ConsumerState, ConsumerEvent, ConsumerEffect
_Row: TypeAlias = Row[ConsumerState, ConsumerEvent, ConsumerEffect]

OVER: Final = (_S.STOPPING, _S.ENDED, _S.NEVER_CONSUMED)
"""The states in which the iteration ends once no delivery waits."""

PAUSED: Final = (_S.AWAITING_QUEUE, _S.AWAITING_RETURN)
"""The states in which it has no channel until the end of a pause."""

ENDINGS: Final = (
    _E.CHANNEL_CLOSED,
    _E.LOCKED_BY_US,
    _E.QUEUE_DECLARED_AGAIN,
    _E.QUEUE_AWAITED,
    _E.QUEUE_GONE,
    _E.NOT_FOUND,
    _E.REFUSED,
)
"""The possible meanings of the end of a channel."""

_AGAIN = (_S.CONSUMING, _S.ASKING, _S.RESUBSCRIBING)
_LEFT = (_S.STOPPING, _S.ENDED)
"""Its channel may still be open."""
_LEAVE = (_F.GIVE_BACK, _F.CLOSE_CHANNEL)
"""In this order, because unsettled deliveries of a closing channel count as failed."""
_REOPEN = (_F.DROP, _F.OPEN_CHANNEL)
_RETRY = (_F.DROP, _F.OPEN_LATER)
_FAIL = (_F.DROP, _F.FAIL)
_FAIL_AGAIN = (*_FAIL, _F.TELL_ENDED)


def _in_each(event: ConsumerEvent, states: tuple[ConsumerState, ...], *effects: ConsumerEffect) -> list[_Row]:
    """Rows that leave the state as it is."""
    return [Row(event, (state,), state, effects) for state in states]


CONSUMER: Table[ConsumerState, ConsumerEvent, ConsumerEffect] = Table(
    "consumer",
    _S.NEW,
    Row(_E.ENTERED, (_S.NEW,), _S.SUBSCRIBING, (_F.OPEN_FIRST_CHANNEL,)),
    Row(_E.ENTERING_FAILED, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, (_F.END, _F.CLOSE_CHANNEL)),
    Row(_E.ENTERING_FAILED, (_S.AWAITING_QUEUE,), _S.NEVER_CONSUMED, (_F.END,)),
    Row(_E.ENTERING_FAILED, _AGAIN, _S.ENDED, (_F.END, _F.TELL_ENDED, _F.CLOSE_CHANNEL)),
    Row(_E.ENTERING_FAILED, (_S.AWAITING_RETURN,), _S.ENDED, (_F.END, _F.TELL_ENDED)),
    *_in_each(_E.ENTERING_FAILED, _LEFT, _F.CLOSE_CHANNEL),
    Ignored(_E.ENTERING_FAILED, (_S.NEVER_CONSUMED,), "it failed because the consumer has ended"),
    # --- subscribing
    *_in_each(_E.ATTACHED, (_S.SUBSCRIBING, _S.RESUBSCRIBING), _F.SUBSCRIBE),
    Ignored(_E.ATTACHED, _LEFT, "until the block ends the channel moves from link to link, but consumes on none"),
    Row(_E.OPENED, (_S.SUBSCRIBING,), _S.CONSUMING, (_F.TELL_STARTED,)),
    Row(_E.OPENED, (_S.RESUBSCRIBING,), _S.CONSUMING),
    Ignored(_E.OPENED, _LEFT, "until the block ends the channel moves from link to link, but consumes on none"),
    Row(_E.OPENED_LATE, (_S.RESUBSCRIBING,), _S.RESUBSCRIBING, (*_LEAVE, _F.OPEN_CHANNEL)),
    Ignored(_E.OPENED_LATE, _LEFT, "until the block ends the channel moves from link to link, but consumes on none"),
    # --- the link is lost
    Row(_E.LOST, _AGAIN, _S.RESUBSCRIBING, (_F.DROP,)),
    *_in_each(_E.LOST, (_S.SUBSCRIBING, *_LEFT), _F.DROP),
    # --- the broker cancels it
    Row(_E.CANCELLED, (_S.CONSUMING,), _S.ASKING, (_F.ASK_FOR_QUEUE,)),
    Row(_E.GIVEN_NOTICE, (_S.CONSUMING,), _S.AWAITING_RETURN, (*_LEAVE, _F.PAUSE)),
    # No broker cancels before consume-ok. Whether the queue is there shows at the next attempt.
    Row(_E.CANCELLED, (_S.SUBSCRIBING,), _S.AWAITING_QUEUE, (*_LEAVE, _F.PAUSE)),
    Row(_E.CANCELLED, (_S.RESUBSCRIBING,), _S.AWAITING_RETURN, (*_LEAVE, _F.PAUSE)),
    Row(_E.GIVEN_NOTICE, (_S.SUBSCRIBING,), _S.AWAITING_QUEUE, (*_LEAVE, _F.PAUSE)),
    Row(_E.GIVEN_NOTICE, (_S.RESUBSCRIBING,), _S.AWAITING_RETURN, (*_LEAVE, _F.PAUSE)),
    Ignored(_E.CANCELLED, (_S.ASKING,), "it is cancelled already"),
    Ignored(_E.CANCELLED, _LEFT, "our basic.cancel and the broker's crossed"),
    Ignored(_E.GIVEN_NOTICE, _LEFT, "our basic.cancel and the broker's crossed"),
    Row(_E.QUEUE_FOUND, (_S.ASKING,), _S.RESUBSCRIBING, (_F.LOG_CANCELLED, *_LEAVE, _F.OPEN_CHANNEL)),
    Row(_E.CANCELLED_TOO_OFTEN, (_S.ASKING,), _S.ENDED, (_F.FAIL_CANCELLED, _F.TELL_ENDED)),
    Ignored(_E.QUEUE_FOUND, _LEFT, "stop() came before the answer"),
    Ignored(_E.CANCELLED_TOO_OFTEN, _LEFT, "stop() came before the answer"),
    # --- its channel ends
    Row(_E.CHANNEL_CLOSED, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, _FAIL),
    Row(_E.CHANNEL_CLOSED, (_S.CONSUMING, _S.ASKING), _S.RESUBSCRIBING, _REOPEN),
    Row(_E.CHANNEL_CLOSED, (_S.RESUBSCRIBING,), _S.ENDED, _FAIL_AGAIN),
    Row(_E.LOCKED_BY_US, (_S.SUBSCRIBING,), _S.SUBSCRIBING, _RETRY),
    Row(_E.LOCKED_BY_US, _AGAIN, _S.RESUBSCRIBING, _RETRY),
    Row(_E.QUEUE_DECLARED_AGAIN, (_S.SUBSCRIBING,), _S.SUBSCRIBING, _RETRY),
    Row(_E.QUEUE_DECLARED_AGAIN, _AGAIN, _S.RESUBSCRIBING, _RETRY),
    Row(_E.QUEUE_AWAITED, (_S.SUBSCRIBING,), _S.AWAITING_QUEUE, (_F.DROP, _F.PAUSE)),
    Row(_E.QUEUE_AWAITED, (_S.CONSUMING, _S.RESUBSCRIBING), _S.AWAITING_RETURN, (_F.DROP, _F.PAUSE)),
    Row(_E.QUEUE_GONE, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, _FAIL),
    Row(_E.QUEUE_GONE, (_S.CONSUMING, _S.RESUBSCRIBING), _S.ENDED, (_F.DROP, _F.END, _F.TELL_ENDED)),
    Row(_E.NOT_FOUND, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, _FAIL),
    Row(_E.NOT_FOUND, (_S.CONSUMING,), _S.RESUBSCRIBING, _REOPEN),
    Row(_E.NOT_FOUND, (_S.RESUBSCRIBING,), _S.ENDED, _FAIL_AGAIN),
    # The deliveries that wait are all that is left of the queue, so they are still handed out.
    Row(_E.QUEUE_GONE, (_S.ASKING,), _S.ENDED, (_F.FAIL_CANCELLED, _F.TELL_ENDED)),
    Row(_E.NOT_FOUND, (_S.ASKING,), _S.ENDED, (_F.FAIL_CANCELLED, _F.TELL_ENDED)),
    Row(_E.REFUSED, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, _FAIL),
    Row(_E.REFUSED, _AGAIN, _S.ENDED, _FAIL_AGAIN),
    *(row for ending in ENDINGS for row in _in_each(ending, _LEFT, _F.DROP)),
    # --- pauses
    Row(_E.NO_CHANNEL, (_S.SUBSCRIBING,), _S.AWAITING_QUEUE, (_F.PAUSE,)),
    Row(_E.NO_CHANNEL, (_S.RESUBSCRIBING,), _S.AWAITING_RETURN, (_F.PAUSE,)),
    Row(_E.DUE, (_S.AWAITING_QUEUE,), _S.SUBSCRIBING, (_F.OPEN_CHANNEL,)),
    Row(_E.DUE, (_S.AWAITING_RETURN,), _S.RESUBSCRIBING, (_F.OPEN_CHANNEL,)),
    # --- leaving
    Ignored(_E.STOPPED, (_S.NEW,), "nothing has begun"),
    Row(_E.STOPPED, (_S.CONSUMING, _S.ASKING), _S.STOPPING, (_F.END, _F.TELL_ENDED, _F.GIVE_BACK_LATER, _F.CANCEL)),
    Row(_E.STOPPED, (_S.SUBSCRIBING,), _S.NEVER_CONSUMED, (_F.END, _F.CLOSE_CHANNEL)),
    Row(_E.STOPPED, (_S.AWAITING_QUEUE,), _S.NEVER_CONSUMED, (_F.END,)),
    Row(_E.STOPPED, (_S.RESUBSCRIBING,), _S.ENDED, (_F.END, _F.TELL_ENDED, _F.CLOSE_CHANNEL)),
    Row(_E.STOPPED, (_S.AWAITING_RETURN,), _S.ENDED, (_F.END, _F.TELL_ENDED)),
    Ignored(_E.STOPPED, OVER, "stop() may be called more than once, and the end of the block calls it"),
    Row(_E.CANCEL_ANSWERED, (_S.STOPPING,), _S.ENDED, (_F.GIVE_BACK_KEPT,)),
    *_in_each(_E.CONNECTION_CLOSING, (_S.CONSUMING,), _F.CANCEL_UNANSWERED),
    Ignored(
        _E.CONNECTION_CLOSING,
        (_S.SUBSCRIBING, _S.AWAITING_QUEUE, _S.ASKING, _S.RESUBSCRIBING, _S.AWAITING_RETURN, *OVER),
        "the broker delivers nothing to it",
    ),
    Row(_E.CONNECTION_CLOSED, (_S.AWAITING_QUEUE,), _S.NEVER_CONSUMED, (_F.FAIL,)),
    Row(_E.CONNECTION_CLOSED, (_S.AWAITING_RETURN,), _S.ENDED, (_F.FAIL, _F.TELL_ENDED)),
    Ignored(_E.CONNECTION_CLOSED, OVER, "it has ended already, at the latest with its channel"),
)
