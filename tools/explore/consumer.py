"""The consumer of the explored world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

from anyamqp.core.link_channel import LinkChannel
from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle.channel import USABLE, ChannelEvent
from anyamqp.protocol.lifecycle.consumer import OVER, ConsumerEffect, ConsumerState
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.protocol.subscription import Effects, GiveBack, OnCancel, Refuse, Subscription, SubscriptionEffect
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from tools.explore.broker import QUEUE
from tools.explore.link import PlainLink
from tools.explore.surroundings import CLOSE_TIMEOUT, Surroundings

_TAG: Final = "tag"
_LOCK_GRACE: Final = 5.0
"""Seconds."""

_PAUSED: Final = (ConsumerState.AWAITING_QUEUE, ConsumerState.AWAITING_RETURN)


class Consumer(ChannelOwner):
    """Stands for :class:`anyamqp.core.receiver.Receiver`.

    Attributes:
        subscription: decides.
        channel: its present channel.
        held: the delivery that the user works on.
        is_entering: whether a task waits for the first consume-ok.
        farewell: the basic.cancel that a task waits for.
        leave_by: when it stops waiting for that.
        opened_at: when consume-ok came last.
        endings: how often its channel ended or its consumer was cancelled.
    """

    def __init__(self, world: Surroundings, on_cancel: OnCancel) -> None:
        request = methods.Basic.Consume(queue=QUEUE, consumer_tag=_TAG)
        self.subscription: Subscription = Subscription(request, prefetch=1, on_cancel=on_cancel)
        self.channel: ChannelCore[LinkChannel] = world.core.new_channel(self)
        self.held: Delivery | None = None
        self.is_entering: bool = False
        self.farewell: Request | None = None
        self.leave_by: float = math.inf
        self.opened_at: float = -math.inf
        self.endings: int = 0
        self._origins: dict[Delivery, tuple[int, int]] = {}
        self._world = world

    @property
    def queue(self) -> str:
        return QUEUE

    @property
    def not_back(self) -> str | None:
        return self.subscription.not_back

    # --- the user -----------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The user enters the consumer's block."""
        self.is_entering = True
        self._world.core.consumers.add(self)
        self._carry_out(self.subscription.enter(self._world.clock.now))

    def cancel_entering(self) -> None:
        """The user is cancelled while it enters the consumer's block, or entering fails."""
        self.is_entering = False
        self._world.core.consumers.discard(self)
        self._carry_out(self.subscription.entering_failed(self._world.clock.now))

    def take(self) -> None:
        """The user takes the next delivery."""
        self.held = self.subscription.waiting.popleft()
        self.subscription.position.follow(self.held)
        if not self.subscription.waiting:
            self._carry_out(self.subscription.emptied())

    def ack(self) -> None:
        """The user acknowledges the delivery."""
        delivery, self.held = self.held, None
        if delivery is not None:
            self._settled(delivery)
            delivery.ack()

    def stop(self) -> None:
        """The user leaves the consumer's block."""
        self._world.core.consumers.discard(self)
        effects = self.subscription.stop(self._world.clock.now)
        self._carry_out(effects)
        link_channel = self.channel.link_channel
        if ConsumerEffect.CANCEL not in effects:
            self._close()
        elif link_channel is None:
            self._stopped()
        else:
            link = cast("PlainLink", link_channel.link)
            link.close_sent(link_channel.number)
            self.leave_by = link.close_deadline(CLOSE_TIMEOUT)
            self.farewell = self.channel.send(methods.Basic.Cancel(_TAG), Purpose.FAREWELL)

    def _stopped(self) -> None:
        self.farewell, self.leave_by = None, math.inf
        self._carry_out(self.subscription.cancel_answered(self._world.clock.now))
        self._close()

    def _close(self) -> None:
        self.subscription.waiting.clear()
        self.channel.take(ChannelEvent.CLOSE)

    def go_on(self) -> None:
        """The tasks that wait for consume-ok and for cancel-ok."""
        if self.is_entering:
            state = self.subscription.state
            if state in OVER:
                self.cancel_entering()
            elif state in _PAUSED or self.channel.state in USABLE:
                self.is_entering = False
        if self.farewell is not None and (self.farewell.is_over or self._world.clock.now >= self.leave_by):
            self._stopped()

    @property
    def deadline(self) -> float:
        """When :meth:`due` is to be called."""
        return min(self.subscription.deadline, self.leave_by)

    def due(self) -> None:
        """Its deadline has passed."""
        self._carry_out(self.subscription.due(self._world.clock.now))

    # --- the connection -----------------------------------------------------------------------------------------------

    def fail(self, error: AnyamqpError) -> None:
        self.channel.fail(error)

    def cancel(self) -> None:
        self._carry_out(self.subscription.connection_closing(self._world.clock.now))

    def give_back(self) -> None:
        self._carry_out(self.subscription.give_back())

    def on_connection_closed(self, error: AnyamqpError) -> None:
        self._carry_out(self.subscription.connection_closed(error, self._world.clock.now))

    # --- the channel --------------------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        return self.subscription.setup(self._world.clock.now, self._world.clock.now)

    def on_opened(self) -> None:
        if self.subscription.state is ConsumerState.RESUBSCRIBING:
            self._world.note("a consumer that came back")
        self.opened_at = self._world.clock.now
        self._carry_out(self.subscription.opened(self._world.clock.now, is_stream=False))

    def on_contents(self, contents: Sequence[Content]) -> None:
        link_channel = self.channel.link_channel
        if link_channel is None:
            return
        deliveries = [
            delivery_of(method, message, link_channel)
            for method, message in contents
            if isinstance(method, methods.Basic.Deliver)
        ]
        for delivery in deliveries:
            self._origins[delivery] = (cast("PlainLink", link_channel.link).number, link_channel.number)
            if self.subscription.state in OVER:
                self._settled(delivery)  # given back at once
        self._carry_out(self.subscription.delivered(deliveries, link_channel))

    def on_cancelled(self) -> None:
        self.endings += 1
        self._carry_out(self.subscription.cancelled(self._world.clock.now))

    def on_reply(self, reply: Method) -> None:  # noqa: ARG002
        self._carry_out(self.subscription.queue_found(QUEUE, self._world.clock.now))

    def on_lost(self, error: AnyamqpError | None) -> None:  # noqa: ARG002
        self._carry_out(self.subscription.lost(self._world.clock.now, _LOCK_GRACE))

    def on_failed(self, error: AnyamqpError) -> None:
        self.endings += 1
        ended = error if isinstance(error, ReplyError) else self.channel.closed_error()
        self._carry_out(self.subscription.channel_failed(ended, QUEUE, self._world.clock.now, is_declared_again=False))

    # --- effects ------------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: SubscriptionEffect) -> None:
        match effect:
            case GiveBack(deliveries):
                for delivery in deliveries:
                    if not delivery.is_stale:
                        self._settled(delivery)
                        delivery.nack(requeue=True)
                if self.channel.link_channel is not None:
                    self.channel.link_channel.release()
            case Refuse(error):
                self.channel.take(ChannelEvent.FAILED, error)
            case ConsumerEffect.OPEN_FIRST_CHANNEL:
                self._world.core.register(self.channel)
            case ConsumerEffect.OPEN_CHANNEL:
                self._open_channel()
            case ConsumerEffect.OPEN_LATER:
                self._open_channel(delay=self.subscription.pause)
            case ConsumerEffect.CLOSE_CHANNEL:
                self.channel.take(ChannelEvent.CLOSE)
            case ConsumerEffect.ASK_FOR_QUEUE:
                self.channel.ask(methods.Queue.Declare(queue=QUEUE, passive=True))
            case ConsumerEffect.CANCEL_UNANSWERED:
                self.channel.tell(methods.Basic.Cancel(_TAG, nowait=True))
            case ConsumerEffect.TELL_STARTED:
                self._world.core.topology.consumer_started(QUEUE)
            case ConsumerEffect.TELL_ENDED:
                self._world.core.topology.consumer_ended(QUEUE)
            case _:
                pass

    def _open_channel(self, *, delay: float = 0.0) -> None:
        self.channel = self._world.core.new_channel(self)
        try:
            self._world.register(self.channel, delay=delay)
        except AnyamqpError as refused:
            self._carry_out(self.subscription.channel_refused(refused, self._world.clock.now))

    def _settled(self, delivery: Delivery) -> None:
        link, number = self._origins.pop(delivery)
        self._world.settled(link, number, delivery.delivery_tag)
