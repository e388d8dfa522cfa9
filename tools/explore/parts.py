"""The owners of channels in the explored world: a user's channel, a publisher and a consumer.

They stand for the anyio shells (:mod:`anyamqp.core.channel`, :mod:`anyamqp.core.publishing`,
:mod:`anyamqp.core.receiver`). They carry out the effects of the real objects, and hold the place of tasks that wait: a
task that would be woken is looked after at the end of each step (``go_on``). They decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

from anyamqp.core.link_channel import LinkChannel
from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.message import Properties
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.contents import delivery_of
from anyamqp.protocol.events import Confirm, Content
from anyamqp.protocol.lifecycle.channel import OVER, USABLE, ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.consumer import OVER as CONSUMER_OVER
from anyamqp.protocol.lifecycle.consumer import ConsumerEffect, ConsumerState
from anyamqp.protocol.outbox import Outbox
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.ports import ChannelOwner
from anyamqp.protocol.publishing import OpenChannel, PublishPolicy, ReportConfirm
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.protocol.subscription import Effects, GiveBack, Refuse, Subscription, SubscriptionEffect
from anyamqp.protocol.window import Window
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.methods import Method
from tools.explore.broker import QUEUE
from tools.explore.clock import Clock
from tools.explore.link import PlainLink
from tools.explore.violation import Violation

PUBLISH_TIMEOUT = 60.0
BLOCKED_TIMEOUT = 30.0
CLOSE_TIMEOUT = 10.0
LOCK_GRACE = 5.0
_TAG = "tag"
_PAUSED = (ConsumerState.AWAITING_QUEUE, ConsumerState.AWAITING_RETURN)


class Surroundings(Protocol):
    """The world, as a part of it sees it."""

    core: ConnectionCore[LinkChannel]
    clock: Clock

    def note(self, fact: str) -> None:
        """Something remarkable happened."""
        ...

    def settled(self, link: int, number: int, tag: int) -> None:
        """A delivery of a link was settled."""
        ...


class UserChannel:
    """A user's channel with one request, which is sent again if a loss caught it.

    Attributes:
        core: the channel.
        request: the request that was sent last.
        is_asking: whether a task waits for the reply.
        error: the error that ended the request.
    """

    def __init__(self, world: Surroundings) -> None:
        self.core: ChannelCore[LinkChannel] = world.core.new_channel(None)
        self.request: Request | None = None
        self.is_asking: bool = False
        self.error: AnyamqpError | None = None
        self._world = world

    def open(self) -> None:
        """The user enters the channel's block."""
        self._world.core.register(self.core)

    def ask(self) -> None:
        """The user declares a queue."""
        self.is_asking = True

    def close(self) -> None:
        """The user leaves the channel's block."""
        self.core.take(ChannelEvent.CLOSE)

    def go_on(self) -> None:
        """The task that waits for the reply."""
        if not self.is_asking:
            return
        request, core = self.request, self.core
        if request is not None and not request.is_over:
            return
        if request is not None and (request.reply is not None or request.error is not None):
            self.is_asking, self.error = False, request.error
        elif core.state in OVER:
            self.is_asking, self.error = False, core.closed_error()
        elif core.state in USABLE:
            if request is not None:
                self._world.note("a request that was sent again")
            self.request = core.send(methods.Queue.Declare(queue=QUEUE))


class Outcome:
    """Stands for the task that waits for a publish, and counts how often it is woken."""

    def __init__(self) -> None:
        self.count: int = 0

    def set(self) -> None:
        """There is an outcome."""
        self.count += 1


class Publisher(ChannelOwner):
    """Stands for :class:`anyamqp.core.publishing.OutboxShell`.

    Attributes:
        outbox: decides.
        channel: its present channel.
        publishes: the publishes so far, each with its outcome.
        is_entering: whether a task waits for the first opening of the channel.
        is_leaving: whether a task waits for the close of the channel.
        leave_by: when it stops waiting for that.
        reopenings: how many channels it has had in place of closed ones.
        opened_at: when the channel was opened last.
    """

    def __init__(self, world: Surroundings) -> None:
        self.channel: ChannelCore[LinkChannel] = world.core.new_channel(self)
        self.outbox: Outbox = Outbox(
            self.channel, window=Window(100, 1 << 20), policy=PublishPolicy(blocked_timeout=BLOCKED_TIMEOUT)
        )
        self.publishes: list[tuple[PendingPublish, Outcome]] = []
        self.is_entering: bool = False
        self.is_leaving: bool = False
        self.leave_by: float = math.inf
        self.reopenings: int = 0
        self.opened_at: float = -math.inf
        self._world = world

    @property
    def unconfirmed(self) -> int:
        return self.outbox.counters.unsettled

    def enter(self) -> None:
        """The user enters the publisher's block."""
        self.is_entering = True
        self.outbox.enter()
        self._world.core.publishers.add(self)
        self.on_blocked()
        self._world.core.register(self.channel)

    def publish(self) -> None:
        """The user publishes the next message."""
        now = self._world.clock.now
        identity, outcome = str(len(self.publishes) + 1), Outcome()
        pending = PendingPublish(
            self.outbox.counters,
            Route("x", "key", mandatory=True),
            identity,
            encode_properties(Properties(message_id=identity)),
            identity.encode(),
            now + PUBLISH_TIMEOUT,
        )
        pending.waiter, pending.is_observed = outcome, True
        self.publishes.append((pending, outcome))
        error: AnyamqpError | None = self.outbox.block.error(now)
        if error is None and self.outbox.window.try_take(pending.size):
            try:
                self.outbox.accept(pending, now, is_awaited=True)
            except AnyamqpError as refused:
                error = refused
        if error is not None:
            pending.outcome = error  # raised to the user, who has it as the only outcome
            outcome.set()

    def leave(self) -> None:
        """The user leaves the publisher's block."""
        self.is_entering, self.is_leaving = False, True
        self._world.core.publishers.discard(self)
        self.outbox.close()
        self.channel.take(ChannelEvent.CLOSE)
        link = self.channel.closing_on
        self.leave_by = math.inf if link is None else link.close_deadline(CLOSE_TIMEOUT)

    def go_on(self) -> None:
        """The tasks that wait for the channel's opening and for its close."""
        if self.is_entering and self.channel.state in USABLE:
            self.is_entering = False
        elif self.is_entering and self.channel.state in OVER:
            self.leave()
        if self.is_leaving and (
            self.channel.state is not ChannelState.CLOSING
            or self.channel.closing_on is None
            or self._world.clock.now >= self.leave_by
        ):
            self.is_leaving, self.leave_by = False, math.inf
            self.outbox.closed()

    @property
    def deadline(self) -> float:
        """When :meth:`due` is to be called."""
        return min(self.outbox.deadline, self.leave_by)

    def due(self) -> None:
        """Its deadline has passed."""
        self.outbox.due(self._world.clock.now)
        self._carry_out()

    def _carry_out(self) -> None:
        for effect in self.outbox.take_effects():
            if isinstance(effect, OpenChannel):
                self._open_another(effect.delay)
            elif isinstance(effect, ReportConfirm):
                raise Violation(f"a confirm with tag {effect.delivery_tag}, which the outbox does not know")

    def _open_another(self, delay: float) -> None:
        self.reopenings += 1
        self.channel = self.outbox.channel = self._world.core.new_channel(self)
        try:
            self._world.core.register(self.channel, is_postponed=delay > 0)
        except AnyamqpError as refused:
            self.outbox.channel_refused(refused)
        if self.channel.state is ChannelState.CONNECTING_PAUSED:
            self._world.clock.later(delay, partial(self.channel.take, ChannelEvent.DUE))

    # --- events of the channel and the connection ---------------------------------------------------------------------

    @property
    def awaits_answer(self) -> bool:
        return len(self.outbox.ledger) > 0

    def setup(self) -> Sequence[Method]:
        return [methods.Confirm.Select()]

    def on_opened(self) -> None:
        self.opened_at = self._world.clock.now
        self.outbox.channel_opened(self._world.clock.now)

    def on_ready(self) -> None:
        self.outbox.channel_ready(self._world.clock.now)

    def on_confirms(self, confirms: Sequence[Confirm]) -> None:
        self.outbox.confirmed(confirms, self._world.clock.now)
        self._carry_out()

    def on_contents(self, contents: Sequence[Content]) -> None:
        for method, message in contents:
            if isinstance(method, methods.Basic.Return):
                self.outbox.returned(method, message)

    def on_held(self) -> None:
        self.outbox.held()

    def on_lost(self, error: AnyamqpError | None) -> None:
        self.outbox.link_lost(error, self._world.clock.now)

    def on_failed(self, error: AnyamqpError) -> None:
        self.outbox.channel_failed(error, self._world.clock.now)
        self._carry_out()

    def on_blocked(self) -> None:
        block = self._world.core.block
        if block is not None:
            self.outbox.blocked(block.reason, block.since, self._world.clock.now)
            self._carry_out()

    def on_unblocked(self) -> None:
        self.outbox.unblocked()


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

    def __init__(self, world: Surroundings) -> None:
        request = methods.Basic.Consume(queue=QUEUE, consumer_tag=_TAG)
        self.subscription: Subscription = Subscription(request, prefetch=1, on_cancel="raise")
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
        place = self.channel.place
        if ConsumerEffect.CANCEL not in effects:
            self._close()
        elif place is None:
            self._stopped()
        else:
            link = cast("PlainLink", place.link)
            link.close_sent(place.number)
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
            if state in CONSUMER_OVER:
                self.is_entering = False
                self._world.core.consumers.discard(self)
                self._carry_out(self.subscription.entering_failed(self._world.clock.now))
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
        self.channel.shut(error)

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
        place = self.channel.place
        if place is None:
            return
        deliveries = [
            delivery_of(method, message, place)
            for method, message in contents
            if isinstance(method, methods.Basic.Deliver)
        ]
        for delivery in deliveries:
            self._origins[delivery] = (cast("PlainLink", place.link).number, place.number)
            if self.subscription.state in CONSUMER_OVER:
                self._settled(delivery)  # given back at once
        self._carry_out(self.subscription.delivered(deliveries, place))

    def on_cancelled(self) -> None:
        self.endings += 1
        self._carry_out(self.subscription.cancelled(self._world.clock.now))

    def on_reply(self, reply: Method) -> None:  # noqa: ARG002
        self._carry_out(self.subscription.queue_found(QUEUE, self._world.clock.now))

    def on_lost(self, error: AnyamqpError | None) -> None:  # noqa: ARG002
        self._carry_out(self.subscription.lost(self._world.clock.now, LOCK_GRACE))

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
                if self.channel.place is not None:
                    self.channel.place.release()
            case Refuse(error):
                self.channel.take(ChannelEvent.FAILED, error)
            case ConsumerEffect.OPEN_FIRST_CHANNEL:
                self._world.core.register(self.channel)
            case ConsumerEffect.OPEN_CHANNEL | ConsumerEffect.OPEN_LATER:
                self._open_channel()
            case ConsumerEffect.CLOSE_CHANNEL:
                self.channel.take(ChannelEvent.CLOSE)
            case ConsumerEffect.ASK_FOR_QUEUE:
                self.channel.ask(methods.Queue.Declare(queue=QUEUE, passive=True))
            case ConsumerEffect.CANCEL_UNANSWERED:
                self.channel.tell(methods.Basic.Cancel(_TAG, nowait=True))
            case ConsumerEffect.TELL_STARTED:
                self._world.core.recorder.consumer_started(QUEUE)
            case ConsumerEffect.TELL_ENDED:
                self._world.core.recorder.consumer_ended(QUEUE)
            case _:
                pass

    def _open_channel(self) -> None:
        self.channel = self._world.core.new_channel(self)
        try:
            self._world.core.register(self.channel)
        except AnyamqpError as refused:
            self._carry_out(self.subscription.channel_refused(refused, self._world.clock.now))

    def _settled(self, delivery: Delivery) -> None:
        link, number = self._origins.pop(delivery)
        self._world.settled(link, number, delivery.delivery_tag)
