"""The consumer of the explored world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, cast

from anyamqp.core.receiver import Receiver
from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle.channel import USABLE
from anyamqp.protocol.lifecycle.consumer import OVER, ConsumerEffect, ConsumerState
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.protocol.subscribing import GiveBack, OnCancel, SubscriptionEffect
from anyamqp.protocol.subscription import Subscription
from anyamqp.wire import methods
from tools.explore.broker import QUEUE, Broker
from tools.explore.clock import NoTimer
from tools.explore.host import PlainHost
from tools.explore.link import PlainLink

_TAG: Final = "tag"
_PAUSED: Final = (ConsumerState.AWAITING_QUEUE, ConsumerState.AWAITING_RETURN)


class Consumer(Receiver):
    """The real shell of a subscription. In place of tasks that wait, :meth:`go_on` looks at the end of each step.

    Attributes:
        subscription: decides.
        held: the delivery that the user works on.
        is_entering: whether a task waits for the first consume-ok.
        farewell: the basic.cancel that a task waits for.
        leave_by: when it stops waiting for that.
        opened_at: when consume-ok came last.
        endings: how often its channel ended or its consumer was cancelled.
    """

    def __init__(self, host: PlainHost, broker: Broker, on_cancel: OnCancel) -> None:
        request = methods.Basic.Consume(queue=QUEUE, consumer_tag=_TAG)
        self.subscription: Subscription = Subscription(request, prefetch=1, on_cancel=on_cancel)
        super().__init__(host.for_shells, host.core.consumers, request, self.subscription, _block_failed)
        self._deadlines = NoTimer()
        self.held: Delivery | None = None
        self.is_entering: bool = False
        self.farewell: Request | None = None
        self.leave_by: float = math.inf
        self.opened_at: float = -math.inf
        self.endings: int = 0
        self._origins: dict[Delivery, tuple[int, int]] = {}
        """The link and the channel of each delivery that is not settled."""
        self._broker = broker
        self._notes = host.journal

    # --- the user -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The user enters the consumer's block."""
        self.is_entering = True
        self._registry.add(self)
        self._carry_out(self.subscription.enter(self._now()))

    def cancel_entering(self) -> None:
        """The user is cancelled while it enters the consumer's block, or entering fails."""
        self.is_entering = False
        self._registry.discard(self)
        self._carry_out(self.subscription.entering_failed(self._now()))

    def take(self) -> None:
        """The user takes the next delivery."""
        self.held = self.subscription.waiting.popleft()
        self.subscription.position.follow(self.held)
        if not self.subscription.waiting:
            self.emptied()

    def ack(self) -> None:
        """The user acknowledges the delivery."""
        delivery, self.held = self.held, None
        if delivery is not None:
            self._settled(delivery)
            delivery.ack()

    def leave(self) -> None:
        """The user leaves the consumer's block."""
        self._registry.discard(self)
        effects = self.subscription.stop(self._now())
        self._carry_out(effects)
        link_channel = self.channel.link_channel
        if ConsumerEffect.CANCEL not in effects:
            self._close()
        elif link_channel is None:
            self._stopped()
        else:
            link_channel.link.close_sent(link_channel.number)
            self.leave_by = link_channel.link.close_deadline(self._host.close_timeout)
            self.farewell = self.channel.send(methods.Basic.Cancel(_TAG), Purpose.FAREWELL)

    def _stopped(self) -> None:
        self.farewell, self.leave_by = None, math.inf
        self._carry_out(self.subscription.cancel_answered(self._now()))
        self._close()

    def _close(self) -> None:
        self.subscription.waiting.clear()
        self._channel.begin_close()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """The tasks that wait for consume-ok and for cancel-ok."""
        if self.is_entering:
            state = self.subscription.state
            if state in OVER:
                self.cancel_entering()
            elif state in _PAUSED or self.channel.state in USABLE:
                self.is_entering = False
        if self.farewell is not None and (self.farewell.is_over or self._now() >= self.leave_by):
            self._stopped()

    @property
    def deadline(self) -> float:
        """When :meth:`due` is to be called."""
        return min(self.subscription.deadline, self.leave_by)

    def due(self) -> None:
        """Its deadline has passed."""
        self._expire(self._now())

    # --- for the properties and the fingerprint -----------------------------------------------------------------------

    def on_opened(self) -> None:
        if self.subscription.state is ConsumerState.RESUBSCRIBING:
            self._notes.note("a consumer that came back")
        self.opened_at = self._now()
        super().on_opened()

    def on_cancelled(self) -> None:
        self.endings += 1
        super().on_cancelled()

    def on_failed(self, error: AnyamqpError) -> None:
        self.endings += 1
        super().on_failed(error)

    def on_contents(self, contents: Sequence[Content]) -> None:
        link_channel = self.channel.link_channel
        if link_channel is None:
            return
        origin = cast("PlainLink", link_channel.link).number, link_channel.number
        if self.subscription.state in OVER:
            for method, _ in contents:
                if isinstance(method, methods.Basic.Deliver):
                    self._broker.expect(*origin, method.delivery_tag)  # given back at once
        super().on_contents(contents)
        for delivery in self.subscription.waiting:
            self._origins.setdefault(delivery, origin)

    def _do(self, effect: SubscriptionEffect) -> None:
        if isinstance(effect, GiveBack):
            for delivery in effect.deliveries:
                if not delivery.is_stale:
                    self._settled(delivery)
        super()._do(effect)

    def _settled(self, delivery: Delivery) -> None:
        self._broker.expect(*self._origins.pop(delivery), delivery.delivery_tag)


async def _block_failed(delivery: Delivery, raised: BaseException) -> None:
    raise NotImplementedError(delivery, raised)  # no block of the user raises here
