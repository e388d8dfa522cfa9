"""A model of a subscription's surroundings: its channel, a link, and a broker that may do anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Literal

from anyamqp.delivery import Delivery
from anyamqp.errors import (
    AccessRefused,
    AnyamqpError,
    ChannelClosed,
    ChannelLimitReached,
    ConnectionClosed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from anyamqp.message import Message
from anyamqp.protocol.lifecycle.consumer import OVER, ConsumerEffect, ConsumerState
from anyamqp.protocol.subscribing import Effects, GiveBack, OnCancel, Reading, Refuse, SubscriptionEffect
from anyamqp.protocol.subscription import Subscription
from anyamqp.wire import methods
from anyamqp.wire.methods import Method

PREFETCH = 2
AWAITING = (ConsumerState.AWAITING_QUEUE, ConsumerState.AWAITING_RETURN)


class OnLink:
    """The channel on one link, with its deliveries and their settlements."""

    thread = get_ident()
    settled_up_to = 0

    def __init__(self) -> None:
        self.is_stale = False
        self.delivered = 0
        self.given_back = 0

    @property
    def unsettled(self) -> float:
        return self.delivered - self.given_back

    def ack(self, delivery_tag: int, *, multiple: bool) -> None:
        raise AssertionError(delivery_tag, multiple)

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None:
        assert not self.is_stale, "Invariant 8: an ack never crosses links"
        assert (multiple, requeue) == (False, True), delivery_tag
        self.given_back += 1

    def reject(self, delivery_tag: int, *, requeue: bool) -> None:
        raise AssertionError(delivery_tag, requeue)

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None:
        raise AssertionError(delivery_tag, failed, after)

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None:
        raise AssertionError(delivery, raised)


class Waker:
    """Stands for a task that waits for a delivery."""

    is_set = False

    def set(self) -> None:
        self.is_set = True


class World:
    """One consumer, its channel, a link that comes and goes, and a broker that may do anything."""

    def __init__(
        self,
        on_cancel: OnCancel = "raise",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        prefetch: int = PREFETCH,
        stream_offset: str | None = None,
    ) -> None:
        arguments = {} if stream_offset is None else {"x-stream-offset": stream_offset}
        request = methods.Basic.Consume(
            queue="q", consumer_tag="tag", no_ack=no_ack, exclusive=exclusive, arguments=arguments
        )
        self.core = Subscription(request, prefetch=prefetch, on_cancel=on_cancel)
        self.on_cancel = on_cancel
        self.no_ack = no_ack
        self.now = 0.0
        self.channel: Literal["none", "detached", "opening", "open", "closed"] = "none"
        self.consumes = False
        """Whether basic.consume was sent on the current link."""
        self.has_link = True
        self.has_room = True
        self.is_declared_again = False
        """Whether the recovery declares the queue again."""
        self.ended_by: AnyamqpError = ChannelClosed("closed")
        """The error that closed the last channel."""
        self.on_link = OnLink()
        self.is_entering = False
        self.is_leaving = False
        self.is_asking = False
        self.is_stopping = False
        self.waker = Waker()
        self.core.wakers.add(self.waker)
        self.is_connected = True
        self.refused: AnyamqpError | None = None
        self.requests: list[Method] = []
        self.effects: list[SubscriptionEffect] = []
        """All effects that were carried out."""
        self.told: Counter[ConsumerEffect] = Counter()
        self.is_reading = True
        self.tag = 0

    # --- effects --------------------------------------------------------------------------------------------------

    def carry_out(self, effects: Effects) -> None:
        is_closed = False
        for effect in effects:
            is_closed = is_closed or effect is ConsumerEffect.CLOSE_CHANNEL
            assert not (is_closed and isinstance(effect, GiveBack) and effect.deliveries), "given back too late"
            self.do(effect)
        self.check()

    def do(self, effect: SubscriptionEffect) -> None:
        self.effects.append(effect)
        if isinstance(effect, GiveBack):
            for delivery in effect.deliveries:
                if not delivery.is_stale:
                    delivery.nack(requeue=True)
        elif isinstance(effect, Refuse):
            self.refused = effect.error
            self.end_channel(effect.error)
        elif isinstance(effect, Reading):
            self.is_reading = effect is Reading.RESUME
        elif effect in (
            ConsumerEffect.OPEN_FIRST_CHANNEL,
            ConsumerEffect.OPEN_CHANNEL,
            ConsumerEffect.OPEN_LATER,
        ):
            if effect is ConsumerEffect.OPEN_LATER:
                self.now += self.core.pause
            assert self.channel in ("none", "closed"), "one channel at a time"
            if self.has_room:
                self.channel = "detached"
                if self.has_link:
                    self.attach()
            else:
                self.channel = "closed"
                self.carry_out(self.core.channel_refused(ChannelLimitReached("full"), self.now))
        elif effect is ConsumerEffect.CLOSE_CHANNEL:
            assert self.is_leaving or self.channel != "closed"
            self.leave_link()
            self.channel = "closed"
        elif effect is ConsumerEffect.ASK_FOR_QUEUE:
            assert self.channel == "open"
            self.is_asking = True
        elif effect is ConsumerEffect.CANCEL:
            assert self.channel == "open"
            self.is_stopping = True
        elif effect is ConsumerEffect.CANCEL_UNANSWERED:
            assert self.channel == "open"
        else:
            self.told[effect] += 1

    def attach(self) -> None:
        self.requests = self.core.setup(self.now, self.now)
        self.channel = "opening"
        self.consumes = bool(self.requests)
        self.on_link = OnLink()

    def leave_link(self) -> None:
        self.on_link.is_stale = True
        self.is_asking = False

    def end_channel(self, error: AnyamqpError, *, is_declared_again: bool = False) -> None:
        hands_out_the_rest = self.core.state is ConsumerState.ASKING and isinstance(error, NotFound)
        self.leave_link()
        self.channel = "closed"
        self.is_declared_again, self.ended_by = is_declared_again, error
        self.carry_out(self.core.channel_failed(error, self, self, "q", self.now))
        if not (hands_out_the_rest and self.core.state in OVER):
            self.check_stale()

    def closed_error(self) -> AnyamqpError:
        return self.ended_by

    def will_declare(self, queue: str) -> bool:
        assert queue == "q"
        return self.is_declared_again

    # --- what may happen ------------------------------------------------------------------------------------------

    def moves(self) -> dict[str, Callable[[], None]]:
        """The events that can happen now, by name."""
        if not self.is_connected:
            return {"stop": self.stop}
        moves: dict[str, Callable[[], None]] = {"stop": self.stop, "close": self.close, "time": self.pass_time}
        if self.channel == "none":
            return {"stop": self.stop, "enter": self.enter}
        if self.is_entering:
            moves["entering fails"] = self.fail_entering
        if self.core.waiting:
            moves["take"] = self.take
        moves["lose" if self.has_link else "link"] = self.lose if self.has_link else self.link
        moves["room"] = self.change_room
        if self.core.deadline < math.inf:
            moves["due"] = self.due
        if self.channel in ("opening", "open"):
            moves["cancel"] = lambda: self.carry_out(self.core.cancelled(self.now))
            moves["deliver"] = self.deliver
            for name, error in errors().items():
                moves[name] = partial(self.end_channel, error)
            moves["vanish"] = lambda: self.end_channel(NotFound("gone", method="basic.consume"), is_declared_again=True)
        if self.channel == "opening":
            moves["open"] = self.open
            moves["open late"] = self.open_late
        if self.is_asking:
            moves["found"] = self.find_queue
        if self.is_stopping:
            moves["cancel-ok"] = self.answer_cancel
        return moves

    def enter(self) -> None:
        self.is_entering = True
        self.carry_out(self.core.enter(self.now))

    def fail_entering(self) -> None:
        self.is_entering = False
        self.is_leaving = True  # the channel of an ended consumer may be closed or open
        self.carry_out(self.core.entering_failed(self.now))
        self.is_leaving = False
        assert self.core.state in OVER
        assert self.channel == "closed"

    def stop(self) -> None:
        state = self.core.state
        self.carry_out(self.core.stop(self.now))
        if state in (ConsumerState.SUBSCRIBING, ConsumerState.RESUBSCRIBING):
            assert self.channel == "closed"

    def close(self) -> None:
        self.is_connected = False
        if self.has_link:
            state = self.core.state
            self.carry_out(self.core.connection_closing(self.now))
            assert self.core.state is state
            self.carry_out(self.core.give_back())
        if self.channel != "closed":
            self.end_channel(ConnectionClosed("closed"))
        self.carry_out(self.core.connection_closed(ConnectionClosed("closed"), self.now))
        if self.is_stopping:
            self.answer_cancel()

    def pass_time(self) -> None:
        self.now += 1.5

    def change_room(self) -> None:
        self.has_room = not self.has_room

    def take(self) -> None:
        delivery = self.core.waiting.popleft()
        self.core.position.follow(delivery)
        if not self.core.waiting:
            self.carry_out(self.core.emptied())

    def lose(self) -> None:
        self.has_link = False
        if self.channel in ("opening", "open"):
            self.leave_link()
            self.channel = "detached"
            self.carry_out(self.core.lost(self.now, 20.0))
            self.check_stale()

    def link(self) -> None:
        self.has_link = True
        if self.channel == "detached":
            self.attach()

    def due(self) -> None:
        self.now = max(self.now, self.core.deadline)
        self.carry_out(self.core.due(self.now))

    def deliver(self, count: int = 3, message: Message | None = None) -> None:
        deliveries: list[Delivery] = []
        for _ in range(count):
            self.tag += 1
            deliveries.append(
                Delivery(
                    message or Message(b""),
                    exchange="",
                    routing_key="q",
                    delivery_tag=self.tag,
                    redelivered=False,
                    settler=None if self.no_ack else self.on_link,
                )
            )
        self.carry_out(self.core.delivered(deliveries, self.on_link))

    def open(self) -> None:
        self.channel = "open"
        self.carry_out(self.core.opened(self.now, is_stream=False))

    def open_late(self) -> None:
        self.now += 1000
        self.open()

    def find_queue(self) -> None:
        self.is_asking = False
        self.carry_out(self.core.queue_found("q", self.now))

    def answer_cancel(self) -> None:
        self.is_stopping = False
        self.carry_out(self.core.cancel_answered(self.now))

    # --- always -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        core, state = self.core, self.core.state
        started, ended = self.told[ConsumerEffect.TELL_STARTED], self.told[ConsumerEffect.TELL_ENDED]
        assert ended <= started <= 1
        assert (core.deadline < math.inf) == (state in AWAITING)
        if state is ConsumerState.CONSUMING:
            assert self.consumes
        if state is ConsumerState.ENDED:
            assert (started, ended) == (1, 1)
        if state is ConsumerState.NEVER_CONSUMED:
            assert started == 0
        assert core.error is None or state in OVER
        if state not in OVER:
            self.waker.is_set = False
        assert self.waker.is_set == (state in OVER), "the end wakes whoever waits"
        assert core.is_reading_paused != self.is_reading

    def check_settled(self) -> None:
        """Check the state between two events, after all effects were carried out."""
        state = self.core.state
        if state is ConsumerState.NEVER_CONSUMED:
            assert self.channel == "closed"
        if state is ConsumerState.CONSUMING:
            assert self.channel == "open"
        if state in AWAITING:
            assert self.channel == "closed"
        if state in (ConsumerState.SUBSCRIBING, ConsumerState.RESUBSCRIBING):
            assert self.channel in ("detached", "opening")
        if state is ConsumerState.STOPPING:
            assert self.is_stopping
            assert self.no_ack or not self.core.waiting
        if state not in OVER:
            self.check_stale()

    def check_stale(self) -> None:
        assert not any(delivery.is_stale for delivery in self.core.waiting), "a stale delivery waits to be handed out"


def errors() -> dict[str, AnyamqpError]:
    """The errors that may close the channel, by name."""
    return {
        "not found": NotFound("gone", method="basic.consume"),
        "timed out": PreconditionFailed("late ack"),
        "locked": ResourceLocked("locked", method="basic.consume"),
        "refused": AccessRefused("refused", method="basic.consume"),
        "closed": ChannelClosed("closed"),
    }
