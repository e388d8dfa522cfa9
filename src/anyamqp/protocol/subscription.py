"""The decisions of a consumer: when to subscribe, on which channel, and when to end.

* After a loss, and after an error of its channel that does not refuse the consumer itself (an acknowledgement that took
  longer than the broker allows, a tag that the broker does not know), it consumes again; earlier deliveries are stale.
* When the broker cancels it although its queue exists (RabbitMQ 4.3 does so when an acknowledgement takes too long), it
  also consumes again. It asks for the queue first, and uses a new channel, because on the old one RabbitMQ refuses the
  consumer tag (530) and silently ignores late acknowledgements.
* When the broker cancels it because its queue was deleted or moved, it does as ``on_cancel`` says.
* When the broker refuses to let it consume (no such queue, no permission), sends a message larger than
  ``max_message_size``, or far more messages than the prefetch allows, the iteration raises that error.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from anyamqp.delivery import Delivery
from anyamqp.errors import (
    AnyamqpError,
    ChannelLimitReached,
    ConsumerCancelled,
    PreconditionFailed,
    ReplyError,
    Side,
    reason_of,
)
from anyamqp.protocol.channel_ends import ChannelEnds
from anyamqp.protocol.lifecycle.consumer import CONSUMER, OVER, PAUSED, ConsumerEffect, ConsumerEvent, ConsumerState
from anyamqp.protocol.pauses import Pauses
from anyamqp.protocol.stream_position import StreamPosition, is_of_stream
from anyamqp.protocol.subscribing import (
    ClosedChannel,
    Declares,
    Effects,
    GiveBack,
    OnCancel,
    Reading,
    Refuse,
    SubscriptionEffect,
    Unsettled,
)
from anyamqp.protocol.waking import Wakeable
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds between attempts to consume from a missing queue."""
_LONGEST_RETRY: Final = 2.0
"""Seconds between attempts to consume from a queue that our last link locks, or that recovery will declare."""

_PAUSE_AT: Final = 1000
"""Waiting deliveries at which reading pauses, for a consumer without a prefetch."""

_EXCESS: Final = 4
_MORE_EXCESS: Final = 100
"""A consumer accepts ``_EXCESS`` times its prefetch plus ``_MORE_EXCESS`` unsettled deliveries. A broker that sends
more is faulty. A mirrored queue delivers unsettled messages again whenever another of its nodes takes over."""


class Subscription:
    """One consumer, over all of its channels and links.

    Each method for an event returns effects; the caller carries them out at once, in order. It takes deliveries from
    the left of :attr:`waiting`; a task that waits for one adds itself to :attr:`wakers`.

    Args:
        request: its first basic.consume.
        prefetch: the most unsettled deliveries; 0 for any number.
        on_cancel: the reaction to basic.cancel.
    """

    __slots__ = (
        "_ends",
        "_kept",
        "_lifecycle",
        "_most_unsettled",
        "_on_cancel",
        "_pause_at",
        "_pauses",
        "_prefetch",
        "_refusal",
        "_request",
        "deadline",
        "error",
        "is_reading_paused",
        "pause",
        "position",
        "waiting",
        "wakers",
    )

    def __init__(self, request: methods.Basic.Consume, *, prefetch: int, on_cancel: OnCancel) -> None:
        enough = _EXCESS * prefetch + _MORE_EXCESS if prefetch and not request.no_ack else math.inf
        self.waiting: deque[Delivery] = deque()
        """Deliveries that were not handed out."""
        self.wakers: set[Wakeable] = set()
        """Set at each delivery and at the end."""
        self.position: StreamPosition = StreamPosition(request.arguments)
        """Its position, if its queue is a stream."""
        self.deadline: float = math.inf
        """When to call :meth:`due` next; infinity for never."""
        self.error: AnyamqpError | None = None
        """The error that the iteration raises at its end; None for an end without an error."""
        self.is_reading_paused: bool = False
        """Whether the link was asked to pause reading."""
        self.pause: float = 0.0
        """Seconds to wait before the channel of :attr:`ConsumerEffect.OPEN_LATER` is opened."""
        self._lifecycle = CONSUMER.begin()
        self._request = request
        self._prefetch = prefetch
        self._most_unsettled = enough
        self._pause_at = _PAUSE_AT if enough == math.inf else max(_PAUSE_AT, enough)
        self._on_cancel: OnCancel = on_cancel
        self._ends = ChannelEnds(request, on_cancel)
        self._pauses = Pauses(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._kept: list[Delivery] = []
        """Deliveries to give back when basic.cancel is answered."""
        self._refusal: AnyamqpError | None = None
        """The last temporary refusal of the broker; None once it consumes."""

    @property
    def state(self) -> ConsumerState:
        """The state of its life cycle."""
        return self._lifecycle.state

    @property
    def not_back(self) -> str | None:
        """The reason why it does not consume again after a loss; None if it consumes, or waits for its queue."""
        if self.state is not ConsumerState.RESUBSCRIBING:
            return None
        return "the broker has not answered yet" if self._refusal is None else reason_of(self._refusal)

    # --- the user -----------------------------------------------------------------------------------------------------

    def enter(self, now: float) -> Effects:
        """The block begins."""
        return self._fire(ConsumerEvent.ENTERED, now)

    @property
    def is_paused(self) -> bool:
        """Whether it has no channel until the end of a pause."""
        return self.state in PAUSED

    def check_entering(self, error: AnyamqpError) -> bool:
        """Whether another channel follows one that was closed with ``error`` while the block is entered.

        Raises:
            AnyamqpError: ``error``; the consumer has ended before its first consume-ok.
        """
        if self.state is ConsumerState.NEVER_CONSUMED:
            raise error
        return self.state not in OVER

    def entering_failed(self, now: float) -> Effects:
        """Entering raised an error or was cancelled; the block does not begin."""
        return self._fire(ConsumerEvent.ENTERING_FAILED, now)

    def emptied(self) -> Effects:
        """All waiting deliveries were handed out."""
        return self._resume_reading()

    def stop(self, now: float) -> Effects:
        """End the iteration. If :attr:`ConsumerEffect.CANCEL` is among the effects, :meth:`cancel_answered` follows."""
        return self._fire(ConsumerEvent.STOPPED, now)

    def cancel_answered(self, now: float) -> Effects:
        """The broker has answered our basic.cancel, or will not answer it."""
        return self._fire(ConsumerEvent.CANCEL_ANSWERED, now)

    def connection_closing(self, now: float) -> Effects:
        """The connection is about to be closed while its link is open."""
        return self._fire(ConsumerEvent.CONNECTION_CLOSING, now)

    def give_back(self) -> Effects:
        """Requeue the deliveries that were not handed out. Call it after :meth:`connection_closing`."""
        return (self._give_back_kept(), self._give_back())

    def connection_closed(self, error: AnyamqpError, now: float) -> Effects:
        """The connection is closed for good."""
        return self._fire(ConsumerEvent.CONNECTION_CLOSED, now, error)

    def due(self, now: float) -> Effects:
        """:attr:`deadline` may have passed."""
        if now < self.deadline:
            return ()
        self.deadline = math.inf
        return self._fire(ConsumerEvent.DUE, now)

    # --- its channel --------------------------------------------------------------------------------------------------

    def setup(self, now: float, wall: float) -> list[Method]:
        """The channel is being opened on a link. Returns the requests to send on it.

        Args:
            now: seconds on the event loop's clock.
            wall: seconds on the system's clock.
        """
        if ConsumerEffect.SUBSCRIBE not in self._fire(ConsumerEvent.ATTACHED, now):
            return []
        consume = self._request.replace(arguments=self.position.arguments(now, wall))
        return [methods.Basic.Qos(prefetch_count=self._prefetch), consume]

    def opened(self, now: float, *, is_stream: bool) -> Effects:
        """The broker answered basic.consume.

        Args:
            now: seconds on the event loop's clock.
            is_stream: whether the queue was declared as a stream on this connection.
        """
        self._ends.opened(now)
        if not self.position.opened(now, is_declared=is_stream):
            return self._fire(ConsumerEvent.OPENED_LATE, now)
        self._pauses.reset()
        self._refusal = None
        return self._fire(ConsumerEvent.OPENED, now)

    def delivered(self, deliveries: Sequence[Delivery], channel: Unsettled) -> Effects:
        """Deliveries came on its channel on the current link."""
        if not deliveries:
            return ()
        if self._lifecycle.state in OVER and not self._request.no_ack:
            for delivery in deliveries:
                delivery.nack(requeue=True)
            return ()
        waiting = self.waiting
        waiting.extend(deliveries)
        for waker in self.wakers:
            waker.set()
        channel.delivered += len(deliveries)
        held = max(len(waiting), channel.unsettled)
        if held > self._most_unsettled and not is_of_stream(deliveries[-1]):
            text = f"delivered {held:g} messages without settlement to a consumer whose prefetch is {self._prefetch}"
            return (Refuse(PreconditionFailed(f"the broker {text}", method="basic.deliver", found_by=Side.CLIENT)),)
        if len(waiting) >= self._pause_at and not self.is_reading_paused:
            self.is_reading_paused = True
            return (Reading.PAUSE,)
        return ()

    def cancelled(self, now: float) -> Effects:
        """The broker sent basic.cancel."""
        waits = self._on_cancel == "resubscribe"
        return self._fire(ConsumerEvent.GIVEN_NOTICE if waits else ConsumerEvent.CANCELLED, now)

    def queue_found(self, queue: str, now: float) -> Effects:
        """The queue exists, although the broker has cancelled its consumer."""
        if self._ends.has_lived(now):
            return self._fire(ConsumerEvent.QUEUE_FOUND, now)
        return self._fire(ConsumerEvent.CANCELLED_TOO_OFTEN, now, queue=queue)

    def lost(self, now: float, lock_grace: float) -> Effects:
        """The link of its channel has ended.

        Args:
            now: seconds on the event loop's clock.
            lock_grace: seconds for which the broker may keep the locks of that link.
        """
        self._ends.lost(now, lock_grace)
        return self._fire(ConsumerEvent.LOST, now)

    def channel_failed(
        self, error: AnyamqpError, channel: ClosedChannel, connection: Declares, queue: str, now: float
    ) -> Effects:
        """Its channel is closed for good.

        Args:
            error: the reason.
            channel: the channel.
            connection: its connection.
            queue: the current name of the queue.
            now: seconds on the event loop's clock.
        """
        event = self._ends.meaning(error, connection, now)
        return self._fire(event, now, error if isinstance(error, ReplyError) else channel.closed_error(), queue=queue)

    def channel_refused(self, error: AnyamqpError, now: float) -> Effects:
        """A fresh channel could not be registered."""
        if isinstance(error, ChannelLimitReached):
            return self._fire(ConsumerEvent.NO_CHANNEL, now)
        return self._fire(ConsumerEvent.REFUSED, now, error)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _cancelled_error(self, queue: str, cause: AnyamqpError | None) -> ConsumerCancelled | None:
        if self._on_cancel == "end":
            return None
        why = "again and again although the queue exists" if cause is None else "which is gone"
        error = ConsumerCancelled(f"the broker cancelled the consumer of queue {queue!r}, {why}")
        error.__cause__ = cause
        return error

    def _fire(
        self, event: ConsumerEvent, now: float, error: AnyamqpError | None = None, *, queue: str = ""
    ) -> list[SubscriptionEffect]:
        effects: list[SubscriptionEffect] = []
        for effect in self._lifecycle.fire(event).effects:
            if effect is ConsumerEffect.DROP:
                self._take_waiting()
                effects += self._resume_reading()
            elif effect is ConsumerEffect.GIVE_BACK:
                effects += (self._give_back(), *self._resume_reading())
            elif effect is ConsumerEffect.GIVE_BACK_LATER:
                self._kept = self._take_waiting()
            elif effect is ConsumerEffect.GIVE_BACK_KEPT:
                effects.append(self._give_back_kept())
            elif effect is ConsumerEffect.PAUSE:
                self.deadline = now + self._pauses.next()
            elif effect is ConsumerEffect.OPEN_LATER:
                self._refusal = error
                self.pause = min(self._pauses.next(), _LONGEST_RETRY)
                effects.append(effect)
            elif effect is ConsumerEffect.END:
                effects += self._end(None)
            elif effect is ConsumerEffect.FAIL:
                effects += self._end(error)
            elif effect is ConsumerEffect.FAIL_CANCELLED:
                effects += self._end(self._cancelled_error(queue, error))
            else:
                effects.append(effect)
        return effects

    def _end(self, error: AnyamqpError | None) -> Effects:
        self.deadline = math.inf
        self.error = error
        for waker in self.wakers:
            waker.set()
        return self._resume_reading()

    def _take_waiting(self) -> list[Delivery]:
        """Remove and return the waiting deliveries. With no_ack they stay: the broker no longer has them."""
        if self._request.no_ack:
            return []
        taken = list(self.waiting)
        self.waiting.clear()
        return taken

    def _give_back(self) -> GiveBack:
        return GiveBack(self._take_waiting())

    def _give_back_kept(self) -> GiveBack:
        kept, self._kept = self._kept, []
        return GiveBack(kept)

    def _resume_reading(self) -> Effects:
        if not self.is_reading_paused:
            return ()
        self.is_reading_paused = False
        return (Reading.RESUME,)
