"""Carries out the effects of a consumer's subscription."""

from __future__ import annotations

import time
from collections.abc import Sequence

from anyamqp.core.channel import LogicalChannel
from anyamqp.core.hooking import ConsumerHooks
from anyamqp.core.host import ChannelHost
from anyamqp.core.link_channel import BlockFailed, LinkChannel
from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, ChannelClosed, ReplyError
from anyamqp.net.link import Link
from anyamqp.net.timers import Deadlines
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.events import Content
from anyamqp.protocol.lifecycle.channel import ChannelEvent
from anyamqp.protocol.lifecycle.consumer import ConsumerEffect
from anyamqp.protocol.ports import ChannelOwner, Consuming
from anyamqp.protocol.subscribing import Effects, GiveBack, Reading, Refuse, SubscriptionEffect
from anyamqp.protocol.subscription import Subscription
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from anyamqp.wire.methods import Method


class Receiver(ChannelOwner):
    """The channels of one consumer, one after the other.

    Args:
        host: the connection.
        registry: the connection's consumers.
        request: the consumer's first basic.consume.
        subscription: makes the decisions.
        block_failed: settles a delivery whose block raised.

    Attributes:
        hooks: the hooks of its deliveries; None if the connection has none.
    """

    def __init__(
        self,
        host: ChannelHost,
        registry: set[Consuming],
        request: methods.Basic.Consume,
        subscription: Subscription,
        block_failed: BlockFailed,
    ) -> None:
        self._host = host
        self._registry = registry
        self._queue = request.queue
        self._consumer_tag = request.consumer_tag
        self._no_ack = request.no_ack
        self._subscription = subscription
        self._block_failed = block_failed
        self._paused: Link | None = None
        """The link whose reading is paused until the consumer has caught up."""
        self._deadlines = Deadlines(host.later, self._expire)
        self._channel = LogicalChannel(host, self)
        self.hooks: ConsumerHooks | None = None if host.hooks is None else host.hooks.consumer(lambda: self.queue)

    @property
    def queue(self) -> str:
        """The current name of the queue."""
        return self._host.topology.current_name(self._queue)

    @property
    def channel(self) -> ChannelCore[LinkChannel]:
        """Its current channel."""
        return self._channel.core

    @property
    def not_back(self) -> str | None:
        """The reason why it does not consume again after a loss."""
        return self._subscription.not_back

    # --- for the consumer ---------------------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Consume. Returns when the broker has answered basic.consume, or when the consumer awaits its queue."""
        self._registry.add(self)
        try:
            self._carry_out(self._subscription.enter(self._now()))
            await self._wait_consuming()
        except BaseException:
            self._registry.discard(self)
            self._carry_out(self._subscription.entering_failed(self._now()))
            raise

    async def _wait_consuming(self) -> None:
        while not self._subscription.is_paused:
            try:
                await self._channel.wait_usable()
            except (ChannelClosed, ReplyError) as error:
                if not self._subscription.check_entering(error):
                    return  # the iteration raises the reason
            else:
                return

    async def stop(self) -> None:
        """Stop consuming, and wait until the broker has answered basic.cancel."""
        effects = self._subscription.stop(self._now())
        self._carry_out(effects)
        if ConsumerEffect.CANCEL in effects:
            try:
                await self._channel.last_request(build(methods.Basic.Cancel, consumer_tag=self._consumer_tag))
            finally:
                self._carry_out(self._subscription.cancel_answered(self._now()))

    async def close(self) -> None:
        """:meth:`stop`, then close the channel. Deliveries can no longer be settled."""
        self._registry.discard(self)
        try:
            await self.stop()
        finally:
            self._subscription.waiting.clear()
            await self._channel.close()

    def emptied(self) -> None:
        """All waiting deliveries were handed out."""
        self._carry_out(self._subscription.emptied())

    # --- for the connection -------------------------------------------------------------------------------------------

    def fail(self, error: AnyamqpError) -> None:
        """End the consumer: its queue could not be recovered."""
        self._channel.core.fail(error)

    def cancel(self) -> None:
        """The connection is about to close: cancel at the broker without awaiting the answer."""
        self._carry_out(self._subscription.connection_closing(self._now()))

    def give_back(self) -> None:
        """Requeue the deliveries that were not handed out: the end of the channel would count them as failed."""
        self._carry_out(self._subscription.give_back())

    def on_connection_closed(self, error: AnyamqpError) -> None:
        """The connection is closed. Called even without a channel, when the consumer awaits its queue."""
        self._carry_out(self._subscription.connection_closed(error, self._now()))

    # --- events of the channel ----------------------------------------------------------------------------------------

    def setup(self) -> Sequence[Method]:
        return self._subscription.setup(self._now(), time.time())

    def on_opened(self) -> None:
        is_stream = self._host.topology.is_stream(self._queue)
        self._carry_out(self._subscription.opened(self._now(), is_stream=is_stream))

    def on_contents(self, contents: Sequence[Content]) -> None:
        link_channel = self._channel.link_channel
        if link_channel is None:
            return
        link_channel.on_failed = self._block_failed
        settler = None if self._no_ack else link_channel if self.hooks is None else self.hooks.settler(link_channel)
        deliveries = [
            delivery_of(method, message, settler)
            for method, message in contents
            if isinstance(method, methods.Basic.Deliver)
        ]
        effects = self._subscription.delivered(deliveries, link_channel)
        if effects:
            self._carry_out(effects)

    def on_cancelled(self) -> None:
        self._carry_out(self._subscription.cancelled(self._now()))

    def on_lost(self, error: AnyamqpError | None) -> None:  # noqa: ARG002
        self._carry_out(self._subscription.lost(self._now(), self._host.lock_grace))

    def on_failed(self, error: AnyamqpError) -> None:
        core, host = self._channel.core, self._host
        self._carry_out(self._subscription.channel_failed(error, core, host.core, self.queue, self._now()))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._host.loop.now()

    def _expire(self, now: float) -> float:
        self._carry_out(self._subscription.due(now))
        return self._subscription.deadline

    def _carry_out(self, effects: Effects) -> None:
        for effect in effects:
            self._do(effect)
        self._deadlines.add(self._subscription.deadline)

    def _do(self, effect: SubscriptionEffect) -> None:
        match effect:
            case GiveBack(deliveries):
                self._return(deliveries)
            case Refuse(error):
                self._channel.core.take(ChannelEvent.FAILED, error)
            case Reading.PAUSE:
                self._pause_reading()
            case Reading.RESUME:
                self._resume_reading()
            case ConsumerEffect.OPEN_FIRST_CHANNEL:
                self._channel.register()
            case ConsumerEffect.OPEN_CHANNEL:
                self._open_channel()
            case ConsumerEffect.OPEN_LATER:
                self._open_channel(delay=self._subscription.pause)
            case ConsumerEffect.CLOSE_CHANNEL:
                self._channel.begin_close()
            case ConsumerEffect.ASK_FOR_QUEUE:
                request = build(methods.Queue.Declare, queue=self.queue, passive=True)
                self._channel.core.ask(request)
            case ConsumerEffect.CANCEL_UNANSWERED:
                self._channel.core.tell(build(methods.Basic.Cancel, consumer_tag=self._consumer_tag, nowait=True))
            case ConsumerEffect.TELL_STARTED:
                self._host.topology.consumer_started(self._queue)
            case ConsumerEffect.TELL_ENDED:
                self._host.topology.consumer_ended(self._queue)
            case ConsumerEffect.LOG_CANCELLED:
                self._host.journal.consumer_cancelled(self.queue)
            case ConsumerEffect.CANCEL | ConsumerEffect.SUBSCRIBE:
                pass  # stop() and setup() do it
            case (
                ConsumerEffect.PAUSE
                | ConsumerEffect.DROP
                | ConsumerEffect.GIVE_BACK
                | ConsumerEffect.GIVE_BACK_LATER
                | ConsumerEffect.GIVE_BACK_KEPT
                | ConsumerEffect.END
                | ConsumerEffect.FAIL
                | ConsumerEffect.FAIL_CANCELLED
            ):
                pass  # the subscription does it

    def _open_channel(self, *, delay: float = 0.0) -> None:
        if (refused := self._channel.renew(delay=delay)) is not None:
            self._carry_out(self._subscription.channel_refused(refused, self._now()))

    def on_reply(self, request: Method, reply: Method) -> None:  # noqa: ARG002
        self._carry_out(self._subscription.queue_found(self.queue, self._now()))

    def _return(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if not delivery.is_stale:
                delivery.nack(requeue=True)
        if self._channel.link_channel is not None:
            self._channel.link_channel.release()

    def _pause_reading(self) -> None:
        if self._channel.link_channel is not None:
            self._paused = self._channel.link_channel.link
            self._paused.pause_reading(self)

    def _resume_reading(self) -> None:
        if self._paused is not None:
            self._paused.resume_reading(self)
            self._paused = None
