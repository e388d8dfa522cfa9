"""A consumer's subscription, without an event loop: its channels, and its ends."""

from __future__ import annotations

import math

import pytest

from anyamqp.errors import (
    AccessRefused,
    AnyamqpError,
    ChannelClosed,
    ChannelLimitReached,
    ConnectionClosed,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    Side,
)
from anyamqp.message import Message
from anyamqp.protocol.lifecycle.consumer import ConsumerEffect, ConsumerState
from anyamqp.protocol.subscribing import GiveBack, OnCancel, Reading
from anyamqp.wire import methods
from support.subscribing import Waker, World

LATE = PreconditionFailed("delivery acknowledgement timed out")
LOCKED = ResourceLocked("locked", method="basic.consume")
GONE = NotFound("no queue 'q'", method="basic.consume")


def consuming(on_cancel: OnCancel = "raise", **options: object) -> World:
    world = World(on_cancel, **options)  # type: ignore[arg-type]
    world.enter()
    world.open()
    return world


# --- subscribing ----------------------------------------------------------------------------------------------------


def test_setup_limits_the_prefetch_and_consumes() -> None:
    world = World(prefetch=7)
    world.enter()
    qos, consume = world.requests
    assert qos == methods.Basic.Qos(prefetch_count=7)
    assert consume == methods.Basic.Consume(queue="q", consumer_tag="tag")


def test_a_channel_that_moves_after_stop_consumes_nothing() -> None:
    world = consuming()
    world.stop()
    world.lose()
    world.link()
    assert world.requests == []
    world.open()
    assert world.core.state is ConsumerState.STOPPING


def test_the_topology_hears_of_the_first_consume_ok_alone() -> None:
    world = consuming()
    world.lose()
    world.link()
    world.open()
    assert world.told == {ConsumerEffect.TELL_STARTED: 1}


def test_deliveries_of_a_lost_link_are_dropped() -> None:
    world = consuming()
    world.deliver(2)
    world.lose()
    assert not world.core.waiting
    assert world.on_link.given_back == 0


@pytest.mark.parametrize("is_there", [False, True])
def test_entering_that_fails_ends_the_consumer_and_its_channel(*, is_there: bool) -> None:
    world = World("resubscribe")
    world.enter()
    if not is_there:
        world.end_channel(GONE)
    world.fail_entering()
    assert (world.core.state, world.channel) == (ConsumerState.NEVER_CONSUMED, "closed")


def test_a_failed_enter_after_consume_ok_ends_the_consumer() -> None:
    world = consuming()
    world.fail_entering()
    assert world.core.state is ConsumerState.ENDED
    assert world.told[ConsumerEffect.TELL_ENDED] == 1
    assert world.channel == "closed"


# --- a channel that the broker closes -------------------------------------------------------------------------------


def test_the_third_young_end_in_a_row_ends_the_consumer() -> None:
    world = consuming()
    for _ in range(2):
        world.end_channel(LATE)
        world.open()
    world.end_channel(LATE)
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, LATE)


def test_a_channel_that_lived_for_a_second_forgives_two_young_ends() -> None:
    world = consuming()
    for pause in (0.0, 0.0, 1.0, 0.0, 0.0, 1.0):
        world.now += pause
        world.end_channel(LATE)
        world.open()
    assert world.core.state is ConsumerState.CONSUMING


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(PreconditionFailed("unknown argument", method="basic.consume"), id="the consumer's request"),
        pytest.param(PreconditionFailed("too large", found_by=Side.CLIENT), id="found by us"),
        pytest.param(ChannelClosed("closed"), id="not the broker's"),
    ],
)
def test_errors_that_would_come_again_end_the_consumer(error: AnyamqpError) -> None:
    world = consuming()
    world.now += 10
    world.end_channel(error)
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, error)


def test_an_error_of_ours_ends_the_consumer_as_it_ends_calls_on_the_channel() -> None:
    world = consuming()
    calls = ChannelClosed("the channel is closed: no number is free")
    world.closed_error = lambda: calls  # type: ignore[method-assign]
    world.end_channel(ChannelLimitReached("no number is free"))
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, calls)


def test_an_error_before_consume_ok_is_one_of_entering() -> None:
    world = World()
    world.enter()
    world.end_channel(LATE)
    assert (world.core.state, world.core.error) == (ConsumerState.NEVER_CONSUMED, LATE)
    assert not world.told


@pytest.mark.parametrize(
    ("error", "exclusive"),
    [(ResourceLocked("locked"), False), (AccessRefused("in use", method="basic.consume"), True)],
)
def test_a_lock_of_our_own_earlier_link_is_waited_for_as_long_as_it_may_last(
    error: AnyamqpError, *, exclusive: bool
) -> None:
    world = consuming(exclusive=exclusive)
    world.lose()
    world.link()
    for _ in range(5):
        world.end_channel(error)
        assert world.core.state is ConsumerState.RESUBSCRIBING
    world.now += 20
    world.end_channel(error)
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, error)


def test_refused_access_is_no_lock_to_a_consumer_that_shares() -> None:
    world = consuming()
    world.lose()
    world.link()
    world.end_channel(AccessRefused("in use", method="basic.consume"))
    assert world.core.state is ConsumerState.ENDED


def test_a_queue_that_recovery_declares_again_is_consumed_from_again() -> None:
    world = World()
    world.enter()
    world.end_channel(GONE, is_declared_again=True)
    assert (world.core.state, world.channel) == (ConsumerState.SUBSCRIBING, "opening")


def test_a_consumer_that_our_last_link_locks_out_tries_again_with_growing_pauses_and_says_why() -> None:
    world = consuming()
    world.lose()
    assert world.core.not_back == "the broker has not answered yet"
    world.link()
    pauses: list[float] = []
    for _ in range(7):
        world.end_channel(LOCKED)
        pauses.append(round(world.core.pause, 3))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert world.core.not_back == "405 locked (basic.consume)"
    world.open()
    assert world.core.not_back is None


# --- a queue that is gone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
def test_a_queue_that_never_was_is_an_error(on_cancel: OnCancel) -> None:
    world = World(on_cancel)
    world.enter()
    world.end_channel(GONE)
    assert (world.core.state, world.core.error) == (ConsumerState.NEVER_CONSUMED, GONE)


@pytest.mark.parametrize(("on_cancel", "error"), [("raise", GONE), ("end", None)])
def test_a_queue_that_went_with_the_link_ends_the_consumer(on_cancel: OnCancel, error: AnyamqpError | None) -> None:
    world = consuming(on_cancel)
    world.lose()
    world.link()
    world.end_channel(GONE)
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, error)


def test_a_queue_is_waited_for_with_pauses_that_grow_and_begin_anew() -> None:
    world = World("resubscribe")
    world.enter()
    pauses: list[float] = []
    for _ in range(9):
        world.end_channel(GONE)
        pauses.append(round(world.core.deadline - world.now, 6))
        assert world.core.due(world.now) == (), "it is not due yet"
        world.due()
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    world.open()
    world.end_channel(GONE)
    assert world.core.deadline == world.now + 0.1


def test_a_full_connection_is_tried_again() -> None:
    world = consuming()
    world.has_room = False
    world.end_channel(LATE)
    assert (world.core.state, world.core.deadline) == (ConsumerState.AWAITING_RETURN, world.now + 0.1)
    world.has_room = True
    world.due()
    world.open()
    assert world.core.state is ConsumerState.CONSUMING


def test_a_pause_ends_with_the_connection() -> None:
    world = World("resubscribe")
    world.enter()
    world.end_channel(GONE)
    world.close()
    assert isinstance(world.core.error, ConnectionClosed)
    assert world.core.deadline == math.inf


# --- basic.cancel ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
def test_a_cancelled_consumer_requeues_and_continues(on_cancel: OnCancel) -> None:
    world = consuming(on_cancel)
    world.now += 1
    world.deliver(2)
    old = world.on_link
    world.carry_out(world.core.cancelled(world.now))
    assert world.is_asking
    world.find_queue()
    assert (old.given_back, len(world.core.waiting)) == (2, 0)
    assert world.told[ConsumerEffect.LOG_CANCELLED] == 1
    world.open()
    assert world.core.state is ConsumerState.CONSUMING


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
def test_a_cancelled_consumer_whose_queue_is_gone_hands_out_the_rest(on_cancel: OnCancel) -> None:
    world = consuming(on_cancel)
    world.deliver(2)
    world.carry_out(world.core.cancelled(world.now))
    world.end_channel(NotFound("gone", method="queue.declare"))
    assert (world.core.state, len(world.core.waiting)) == (ConsumerState.ENDED, 2)
    if on_cancel == "end":
        assert world.core.error is None
    else:
        assert isinstance(world.core.error, ConsumerCancelled)
        assert str(world.core.error) == "the broker cancelled the consumer of queue 'q', which is gone"
        assert isinstance(world.core.error.__cause__, NotFound)


def test_a_consumer_that_is_cancelled_three_times_right_after_consume_ok_ends() -> None:
    world = consuming()
    for _ in range(3):
        world.carry_out(world.core.cancelled(world.now))
        world.find_queue()
        if world.channel == "opening":
            world.open()
    assert world.core.state is ConsumerState.ENDED
    assert "again and again" in str(world.core.error)


@pytest.mark.parametrize("is_answered", [False, True], ids=["stopping", "ended"])
def test_the_answer_about_the_queue_means_nothing_after_stop(*, is_answered: bool) -> None:
    """The third young end in a row is no error of a consumer that was stopped."""
    world = consuming()
    for _ in range(2):
        world.end_channel(LATE)
        world.open()
    world.carry_out(world.core.cancelled(world.now))
    world.stop()
    if is_answered:
        world.answer_cancel()
    world.find_queue()
    assert world.core.error is None
    assert world.channel == "open"


def test_a_consumer_told_to_wait_leaves_its_channel_at_once() -> None:
    world = consuming("resubscribe")
    world.deliver(2)
    old = world.on_link
    world.carry_out(world.core.cancelled(world.now))
    assert (world.core.state, world.channel) == (ConsumerState.AWAITING_RETURN, "closed")
    assert old.given_back == 2


@pytest.mark.parametrize("on_cancel", ["raise", "resubscribe", "end"])
def test_a_cancel_before_consume_ok_is_followed_by_another_attempt(on_cancel: OnCancel) -> None:
    world = World(on_cancel)
    world.enter()
    world.carry_out(world.core.cancelled(world.now))
    assert (world.core.state, world.channel) == (ConsumerState.AWAITING_QUEUE, "closed")
    world.due()
    world.open()
    world.lose()
    world.link()
    world.carry_out(world.core.cancelled(world.now))
    assert (world.core.state, world.channel) == (ConsumerState.AWAITING_RETURN, "closed")


def test_the_rest_of_a_consumer_that_was_cancelled_too_often_goes_with_the_link() -> None:
    world = consuming()
    for _ in range(2):
        world.end_channel(LATE)
        world.open()
    world.deliver(2)
    world.carry_out(world.core.cancelled(world.now))
    world.find_queue()
    assert (world.core.state, len(world.core.waiting)) == (ConsumerState.ENDED, 2)
    world.lose()
    assert not world.core.waiting


# --- deliveries -----------------------------------------------------------------------------------------------------


def test_a_broker_that_ignores_the_prefetch_is_refused() -> None:
    world = consuming(prefetch=10)
    world.deliver(140)
    assert world.refused is None
    world.deliver(1)
    assert isinstance(world.refused, PreconditionFailed)
    text = "the broker delivered 141 messages without settlement to a consumer whose prefetch is 10"
    assert world.refused.text == text
    assert (world.core.state, world.core.error) == (ConsumerState.ENDED, world.refused)


def test_a_stream_may_deliver_a_whole_chunk() -> None:
    world = consuming(prefetch=10)
    world.deliver(500, Message(b"", headers={"x-stream-offset": 7}))
    assert (world.refused, len(world.core.waiting)) == (None, 500)


def test_reading_pauses_at_a_thousand_and_goes_on_when_all_are_handed_out() -> None:
    world = consuming(prefetch=0)
    world.deliver(999)
    assert world.is_reading
    world.deliver(1)
    assert not world.is_reading
    world.deliver(1000)
    assert world.effects.count(Reading.PAUSE) == 1
    while world.core.waiting:
        world.take()
    assert world.is_reading


@pytest.mark.parametrize("end", ["lose", "stop", "close"])
def test_reading_goes_on_when_the_consumer_does_not(end: str) -> None:
    world = consuming(prefetch=0)
    world.deliver(1000)
    world.moves()[end]()
    assert world.is_reading


def test_whoever_waits_is_woken_by_deliveries_and_by_the_end() -> None:
    world = consuming()
    waker = Waker()
    world.core.wakers.add(waker)
    world.deliver()
    assert waker.is_set
    waker.is_set = False
    world.stop()
    assert waker.is_set


# --- leaving --------------------------------------------------------------------------------------------------------


def test_stop_gives_back_behind_basic_cancel() -> None:
    """Before it, the broker would deliver all of that to this very consumer again."""
    world = consuming()
    world.deliver(2)
    world.stop()
    assert (world.core.state, world.on_link.given_back) == (ConsumerState.STOPPING, 0)
    world.answer_cancel()
    assert (world.core.state, world.on_link.given_back) == (ConsumerState.ENDED, 2)


def test_deliveries_that_come_after_stop_go_back_at_once() -> None:
    world = consuming()
    world.stop()
    world.deliver(2)
    assert (len(world.core.waiting), world.on_link.given_back) == (0, 2)


def test_without_acknowledgements_everything_that_arrived_is_handed_out() -> None:
    world = consuming(no_ack=True)
    world.deliver(2)
    world.stop()
    world.deliver(1)
    world.answer_cancel()
    assert len(world.core.waiting) == 3
    assert all(not effect.deliveries for effect in world.effects if isinstance(effect, GiveBack))


def test_a_loss_while_stopping_needs_no_requeue() -> None:
    """Invariant 8."""
    world = consuming()
    world.deliver(2)
    world.stop()
    world.lose()
    world.answer_cancel()
    assert (world.core.state, world.on_link.given_back) == (ConsumerState.ENDED, 0)


def test_stop_before_consume_ok_closes_the_channel() -> None:
    world = World()
    world.enter()
    world.stop()
    assert (world.core.state, world.channel) == (ConsumerState.NEVER_CONSUMED, "closed")
    assert ConsumerEffect.CANCEL not in world.effects


def test_stop_before_the_block_begins_changes_nothing() -> None:
    world = World()
    world.stop()
    world.enter()
    world.open()
    assert world.core.state is ConsumerState.CONSUMING


def test_closing_requeues_everything_after_basic_cancel() -> None:
    world = consuming()
    world.deliver(2)
    on_link = world.on_link
    world.carry_out(world.core.connection_closing(world.now))
    assert world.effects[-1] is ConsumerEffect.CANCEL_UNANSWERED
    world.carry_out(world.core.give_back())
    assert on_link.given_back == 2


def test_closing_while_stopping_requeues_kept_deliveries_once() -> None:
    world = consuming()
    world.deliver(2)
    on_link = world.on_link
    world.stop()
    world.carry_out(world.core.give_back())
    world.answer_cancel()
    assert on_link.given_back == 2
