"""The outbox of a publisher, without an event loop: each outcome, the order, and when it asks for a channel."""

from __future__ import annotations

import math

import pytest

from anyamqp.errors import (
    ChannelClosed,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionForced,
    FrameError,
    InternalError,
    InvalidArgument,
    InvalidTransition,
    Nacked,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from anyamqp.protocol.lifecycle.publisher import PublisherState
from anyamqp.protocol.pending import CONFIRMED, PendingPublish
from anyamqp.protocol.publishing import OpenChannel, PublishPolicy, RefuseWaiting, ReportConfirm
from support.observer import Observer
from support.outboxes import TOO_LARGE, Publishing

NO_EXCHANGE = NotFound("NOT_FOUND - no exchange 'gone'", method="basic.publish")
OTHER = PreconditionFailed("PRECONDITION_FAILED - something else")


@pytest.fixture(autouse=True)
def observer(monkeypatch: pytest.MonkeyPatch) -> Observer:
    """Holds every publish against the table of a publish (invariants 2 and 3)."""
    observer = Observer()
    observer.watch(monkeypatch)
    return observer


def outcomes(*publishes: PendingPublish) -> list[object]:
    return [pending.outcome if pending.outcome in (None, CONFIRMED) else type(pending.outcome) for pending in publishes]


class Bell:
    """Counts how often its task was woken."""

    def __init__(self) -> None:
        self.rings = 0

    def set(self) -> None:
        self.rings += 1


# --- confirms -------------------------------------------------------------------------------------------------------


def test_acked_publish_is_confirmed_and_its_room_is_free() -> None:
    p = Publishing(window=1)
    one = p.publish(b"1")
    assert (p.channel.bodies, one.outcome) == ([b"1"], None)
    assert not p.window.try_take(1)
    p.ack(1)
    assert (one.outcome, one.attempts, one.body) == (CONFIRMED, 1, b"")
    assert p.window.try_take(1)


def test_publishes_before_the_channel_is_ready_wait_and_keep_their_order() -> None:
    """Invariant 5."""
    p = Publishing(is_open=False)
    assert p.state() is PublisherState.STARTING
    p.publish(b"1")
    p.outbox.channel_opened(p.now)
    p.publish(b"2")
    assert p.state() is PublisherState.HELD
    assert p.channel.bodies == []
    p.ready()
    p.publish(b"3")
    assert p.channel.bodies == [b"1", b"2", b"3"]
    assert p.state() is PublisherState.FLOWING


def test_publishes_go_on_when_the_channel_takes_them_again() -> None:
    """After channel.flow."""
    p = Publishing()
    p.hold()
    p.publish(b"1")
    assert p.channel.bodies == []
    p.ready()
    assert p.channel.bodies == [b"1"]
    assert p.state() is PublisherState.FLOWING


def test_only_a_publish_that_waits_alone_leaves_at_once() -> None:
    p = Publishing()
    p.channel.flushes.clear()
    p.publish(b"1", is_awaited=True)
    p.publish(b"2", is_awaited=True)
    assert p.channel.flushes == [True, False]


def test_multiple_ack_confirms_all_up_to_its_tag() -> None:
    p = Publishing()
    publishes = [p.publish(b"%d" % number) for number in range(4)]
    p.ack(3, multiple=True)
    assert outcomes(*publishes) == [CONFIRMED, CONFIRMED, CONFIRMED, None]
    assert p.outbox.counters.unsettled == 1


def test_confirm_that_no_publish_has_is_reported() -> None:
    p = Publishing()
    p.ack(7)
    assert p.effects == [ReportConfirm(7)]


def test_nacked_publish_fails() -> None:
    p = Publishing()
    one = p.publish(b"1")
    p.nack(1)
    assert outcomes(one) == [Nacked]


def test_returned_publish_is_unroutable_once_it_is_confirmed() -> None:
    p = Publishing()
    one, two = p.publish(b"1"), p.publish(b"2", message_id="two")
    p.send_back(b"2", "two")
    assert outcomes(one, two) == [None, None]
    p.ack(2, multiple=True)
    assert outcomes(one, two) == [CONFIRMED, Unroutable]


def test_returned_publish_that_is_nacked_is_unroutable() -> None:
    p = Publishing()
    one = p.publish(b"1", message_id="one")
    p.send_back(b"1", "one")
    p.nack(1)
    assert outcomes(one) == [Unroutable]


def test_returns_of_equal_publishes_belong_to_them_in_their_order() -> None:
    p = Publishing()
    publishes = [p.publish(b"same", message_id="same") for _ in range(3)]
    p.send_back(b"same", "same")
    p.ack(1)
    p.send_back(b"same", "same")
    p.ack(3, multiple=True)
    assert outcomes(*publishes) == [Unroutable, Unroutable, CONFIRMED]


def test_a_return_out_of_order_belongs_to_a_publish_that_was_not_returned_yet() -> None:
    p = Publishing()
    one, other, two = p.publish(b"x", message_id="same"), p.publish(b"y"), p.publish(b"x", message_id="same")
    p.send_back(b"x", "same")
    p.send_back(b"x", "same")
    p.send_back(b"y", other.message_id)
    p.ack(3, multiple=True)
    assert outcomes(one, other, two) == [Unroutable] * 3


def test_a_late_return_of_an_equal_publish_is_not_taken_for_one_that_was_returned() -> None:
    """The first was returned, then one after it, and only then the second that looks like the first."""
    p = Publishing()
    one, two, other = p.publish(b"x", message_id="same"), p.publish(b"x", message_id="same"), p.publish(b"y")
    p.send_back(b"x", "same")
    p.send_back(b"y", other.message_id)
    p.send_back(b"x", "same")
    p.ack(3, multiple=True)
    assert outcomes(one, two, other) == [Unroutable] * 3


def test_returns_on_a_new_channel_are_matched_from_its_beginning() -> None:
    p = Publishing()
    for number in range(3):
        p.publish(b"same", message_id="same")
        if number < 2:
            p.send_back(b"same", "same")
    p.lose()
    p.open()
    p.send_back(b"same", "same")
    assert [pending.returned is not None for pending in p.outbox.ledger.outstanding()] == [True, False, False]


def test_publish_that_does_not_fit_a_frame_fails_alone() -> None:
    p = Publishing()
    one, large, two = p.publish(b"1"), p.publish(TOO_LARGE), p.publish(b"2")
    p.ack(2, multiple=True)
    assert outcomes(one, large, two) == [CONFIRMED, InvalidArgument, CONFIRMED]


# --- losses ---------------------------------------------------------------------------------------------------------


def test_publishes_that_a_loss_caught_are_sent_again_before_the_others() -> None:
    """Invariant 5."""
    p = Publishing()
    publishes = [p.publish(b"%d" % number) for number in range(3)]
    p.ack(2)
    p.lose(TransportError("reset"))
    publishes.append(p.publish(b"3"))
    assert p.state() is PublisherState.AWAY
    p.channel.bodies.clear()
    p.open()
    assert p.channel.bodies == [b"0", b"2", b"3"]
    p.ack(3, multiple=True)
    assert outcomes(*publishes) == [CONFIRMED] * 4
    assert [pending.attempts for pending in publishes] == [2, 1, 2, 1]


def test_publishes_wait_on_a_new_link_until_recovery_is_done() -> None:
    p = Publishing()
    p.publish(b"1")
    p.lose()
    p.outbox.channel_opened(p.now)
    assert p.state() is PublisherState.HELD
    p.outbox.blocked("memory", p.now, p.now)
    assert p.state() is PublisherState.HELD
    assert p.channel.bodies == [b"1"]
    p.ready()
    assert p.channel.bodies == [b"1", b"1"]


def test_return_does_not_outlive_its_link() -> None:
    p = Publishing()
    one = p.publish(b"1", message_id="one")
    p.send_back(b"1", "one")
    p.lose()
    p.open()
    p.ack(1)
    assert outcomes(one) == [CONFIRMED]


def test_publish_that_may_not_be_sent_again_has_an_unknown_outcome() -> None:
    p = Publishing(policy=PublishPolicy(resend=False))
    lost = p.publish(b"1")
    error = TransportError("reset")
    p.lose(error)
    unsent = p.publish(b"2")
    assert outcomes(lost, unsent) == [OutcomeUnknown, None]
    assert isinstance(lost.outcome, OutcomeUnknown)
    assert lost.outcome.__cause__ is error
    p.open()
    assert p.channel.bodies[1:] == [b"2"]


def test_cancelled_publish_is_not_sent_again() -> None:
    p = Publishing()
    one, two = p.publish(b"1"), p.publish(b"2")
    one.time_out()
    p.lose()
    p.open()
    assert p.channel.bodies == [b"1", b"2", b"2"]
    assert outcomes(one, two) == [PublishTimeout, None]


@pytest.mark.parametrize("error", [None, TransportError("reset"), ConnectionForced("CONNECTION_FORCED - shutdown")])
def test_loss_that_no_publish_caused_is_followed_by_no_probing(error: TransportError | None) -> None:
    p = Publishing()
    p.publish(b"1")
    p.publish(b"2")
    p.lose(error)
    p.open()
    assert p.channel.bodies == [b"1", b"2", b"1", b"2"]
    assert p.state() is PublisherState.FLOWING


# --- probing --------------------------------------------------------------------------------------------------------


def test_suspects_are_sent_one_at_a_time_and_the_guilty_one_fails_alone() -> None:
    p = Publishing()
    good, bad, other = p.publish(b"good"), p.publish(b"bad", exchange="gone"), p.publish(b"other")
    p.fail(NO_EXCHANGE)
    assert p.effects == [OpenChannel(0.0)]
    assert p.state() is PublisherState.AWAY_WITH_SUSPECTS
    p.open()
    assert p.state() is PublisherState.PROBING
    assert p.channel.bodies == [b"good"]
    p.ack(1)
    assert p.channel.bodies == [b"good", b"bad"]
    p.fail(NO_EXCHANGE)
    assert outcomes(good, bad, other) == [CONFIRMED, NotFound, None]
    p.open()
    p.ack(1)
    assert outcomes(good, bad, other) == [CONFIRMED, NotFound, CONFIRMED]
    assert p.state() is PublisherState.FLOWING


def test_suspects_wait_on_a_new_channel_until_recovery_is_done() -> None:
    p = Publishing()
    p.publish(b"1")
    p.publish(b"2")
    p.fail(NO_EXCHANGE)
    p.outbox.channel_opened(p.now)
    assert p.state() is PublisherState.HELD_WITH_SUSPECTS
    p.outbox.blocked("memory", p.now, p.now)
    assert p.state() is PublisherState.HELD_WITH_SUSPECTS
    p.lose()
    assert p.state() is PublisherState.AWAY_WITH_SUSPECTS


def test_probing_goes_on_when_the_channel_takes_publishes_again() -> None:
    """After channel.flow."""
    p = Publishing()
    p.publish(b"1")
    p.publish(b"2")
    p.publish(b"3")
    p.fail(NO_EXCHANGE)
    p.open()
    p.hold()
    p.ack(1)
    assert p.channel.bodies == [b"1"]
    p.ready()
    assert p.channel.bodies == [b"1", b"2"]
    assert p.state() is PublisherState.PROBING


def test_probing_ends_with_the_last_suspect() -> None:
    p = Publishing()
    publishes = [p.publish(b"%d" % number) for number in range(2)]
    p.fail(OTHER)
    publishes += [p.publish(b"%d" % number) for number in range(2, 5)]
    p.open()
    p.ack(1)
    assert p.channel.bodies == [b"0", b"1"]
    p.ack(2)
    assert p.channel.bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert p.state() is PublisherState.FLOWING


def test_suspects_stay_suspects_over_a_loss_and_a_block() -> None:
    p = Publishing()
    for number in range(3):
        p.publish(b"%d" % number)
    p.fail(NO_EXCHANGE)
    p.open()
    p.hold()
    p.outbox.blocked("memory", p.now, p.now)
    assert p.state() is PublisherState.HELD_WITH_SUSPECTS
    p.outbox.unblocked()
    p.ready()
    p.lose(TransportError("reset"))
    assert p.state() is PublisherState.AWAY_WITH_SUSPECTS
    p.channel.bodies.clear()
    p.open()
    assert (p.state(), p.channel.bodies) == (PublisherState.PROBING, [b"0"])


def test_probing_ends_when_nobody_waits_for_the_suspects_any_more() -> None:
    p = Publishing()
    suspects = [p.publish(b"1"), p.publish(b"2")]
    p.fail(NO_EXCHANGE)
    for pending in suspects:
        pending.time_out()
    p.publish(b"3")
    p.publish(b"4")
    p.open()
    assert p.channel.bodies == [b"3", b"4"]
    assert p.state() is PublisherState.FLOWING


def test_suspects_that_time_out_while_others_wait_for_room_end_the_suspicion() -> None:
    p = Publishing(window=2)
    suspects = [p.publish(b"1"), p.publish(b"2")]
    p.fail(NO_EXCHANGE)
    for pending in suspects:
        pending.time_out()
    bell = Bell()
    waiter = p.outbox.wait_for_room(suspects[0], bell, p.now)
    assert waiter.is_granted
    assert bell.rings == 1
    assert p.state() is PublisherState.AWAY


@pytest.mark.parametrize("error", [FrameError("FRAME_ERROR"), InternalError("INTERNAL_ERROR", method="basic.publish")])
def test_publish_for_which_the_broker_closes_the_link_is_found_by_probing(error: FrameError | InternalError) -> None:
    p = Publishing()
    good, bad = p.publish(b"good"), p.publish(b"bad")
    p.lose(error)
    p.open()
    p.ack(1)
    for _ in range(3):
        p.lose(error)
        p.open()
    assert outcomes(good, bad) == [CONFIRMED, type(error)]


def test_link_that_is_closed_before_the_channel_is_open_leaves_the_suspicion_as_it_is() -> None:
    p = Publishing()
    p.publish(b"1")
    p.publish(b"2")
    p.fail(NO_EXCHANGE)
    p.lose(FrameError("FRAME_ERROR"))
    p.open()
    assert p.channel.bodies == [b"1"]


def test_close_that_names_no_publish_is_blamed_at_the_third_time() -> None:
    p = Publishing()
    one = p.publish(b"1")
    for _ in range(2):
        p.fail(OTHER)
        assert one.outcome is None
        p.open()
    p.fail(OTHER)
    assert outcomes(one) == [PreconditionFailed]


def test_close_without_resending_settles_what_was_sent() -> None:
    p = Publishing(policy=PublishPolicy(resend=False))
    publishes = [p.publish(b"1"), p.publish(b"2")]
    p.fail(NO_EXCHANGE)
    assert outcomes(*publishes) == [OutcomeUnknown, OutcomeUnknown]
    assert p.state() is PublisherState.AWAY


# --- channels -------------------------------------------------------------------------------------------------------


def test_channels_that_die_young_and_in_vain_come_after_growing_pauses_until_the_outbox_gives_up() -> None:
    p = Publishing()
    for _ in range(7):
        p.fail(OTHER)
        p.open()
    assert p.effects == [OpenChannel(delay) for delay in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0)]
    one = p.publish(b"1")
    p.fail(OTHER)
    assert len(p.effects) == 7
    assert outcomes(one) == [PreconditionFailed]
    assert p.state() is PublisherState.CLOSED
    with pytest.raises(PreconditionFailed):
        p.publish(b"2")


def test_confirm_makes_the_channels_that_died_young_forgotten() -> None:
    p = Publishing()
    for _ in range(20):
        p.fail(OTHER)
        p.open()
        p.publish(b"1")
        p.ack(1)
    assert p.state() is PublisherState.FLOWING


def test_publishes_that_the_broker_names_cost_no_pause() -> None:
    p = Publishing()
    for _ in range(20):
        one = p.publish(b"1", exchange="gone")
        p.fail(NO_EXCHANGE)
        assert outcomes(one) == [NotFound]
        p.open()
    assert p.effects == [OpenChannel(0.0)] * 20


def test_error_before_the_channel_is_open_closes_the_publisher() -> None:
    p = Publishing(is_open=False)
    one = p.publish(b"1")
    p.fail(OTHER)
    assert outcomes(one) == [ChannelClosed]
    assert p.state() is PublisherState.CLOSED


def test_closed_connection_closes_the_publisher() -> None:
    p = Publishing()
    one = p.publish(b"1")
    p.fail(ConnectionClosed("closed"))
    assert outcomes(one) == [ChannelClosed]
    with pytest.raises(ChannelClosed):
        p.publish(b"2")
    assert p.window.try_take(1000)


def test_channel_that_cannot_be_had_closes_the_publisher() -> None:
    p = Publishing()
    one, two = p.publish(b"1"), p.publish(b"2")
    p.fail(OTHER)
    p.outbox.channel_refused(ConnectionClosed("closed"))
    assert outcomes(one, two) == [ConnectionClosed, ConnectionClosed]
    assert p.state() is PublisherState.CLOSED


def test_leaving_settles_everything_and_is_done_once() -> None:
    p = Publishing(policy=PublishPolicy(retry_nacked=True))
    publishes = [p.publish(b"1", deadline=5.0), p.publish(b"2")]
    p.nack(2)
    p.lose()
    publishes.append(p.publish(b"3"))
    p.outbox.close()
    assert outcomes(*publishes) == [ChannelClosed] * 3
    assert p.state() is PublisherState.CLOSING
    assert p.outbox.deadline == math.inf
    assert p.window.try_take(1000)
    p.outbox.closed()
    assert p.state() is PublisherState.CLOSED
    with pytest.raises(ChannelClosed, match="the publisher is closed"):
        p.publish(b"")


def test_publisher_that_failed_is_left_like_any_other() -> None:
    p = Publishing()
    p.fail(ConnectionClosed("closed"))
    p.outbox.blocked("memory", p.now, p.now)
    p.outbox.close()
    p.outbox.closed()
    assert p.state() is PublisherState.CLOSED


def test_events_that_cannot_be_are_refused() -> None:
    """Invariant 2."""
    p = Publishing()
    with pytest.raises(InvalidTransition):
        p.outbox.enter()
    p.lose()
    with pytest.raises(InvalidTransition):
        p.outbox.channel_ready(p.now)


# --- nacks that are retried -----------------------------------------------------------------------------------------


def test_nacked_publish_is_sent_again_after_pauses_that_grow_until_something_is_confirmed() -> None:
    p = Publishing(policy=PublishPolicy(retry_nacked=True))
    one = p.publish(b"1")
    for tag, pause in enumerate((0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0), start=1):
        p.nack(tag)
        assert p.outbox.deadline == pytest.approx(p.now + pause)
        p.advance(pause)
        assert one.attempts == tag + 1
    p.ack(8)
    assert outcomes(one) == [CONFIRMED]
    p.publish(b"2")
    p.nack(9)
    assert p.outbox.deadline == pytest.approx(p.now + 0.05)


def test_nacked_publishes_go_in_front_of_the_backlog_in_their_order() -> None:
    """Invariant 5."""
    p = Publishing(policy=PublishPolicy(retry_nacked=True))
    for number in range(3):
        p.publish(b"%d" % number)
    p.nack(2)
    p.nack(1)
    p.hold()
    p.publish(b"3")
    p.advance(0.05)
    p.channel.bodies.clear()
    p.ready()
    assert p.channel.bodies == [b"0", b"1", b"3"]


def test_nacked_publish_that_was_returned_before_is_sent_again_as_new() -> None:
    p = Publishing(policy=PublishPolicy(retry_nacked=True))
    one = p.publish(b"1", message_id="one")
    p.send_back(b"1", "one")
    p.nack(1)
    p.advance(0.05)
    p.ack(2)
    assert outcomes(one) == [CONFIRMED]


def test_nacked_publish_past_its_deadline_is_not_sent_again() -> None:
    p = Publishing(policy=PublishPolicy(retry_nacked=True), window=1)
    one = p.publish(b"1", deadline=0.02)
    p.nack(1)
    p.advance(0.1)
    assert outcomes(one) == [PublishTimeout]
    assert p.channel.bodies == [b"1"]
    assert p.window.try_take(1)


# --- time -----------------------------------------------------------------------------------------------------------


def test_publish_times_out_at_its_deadline_and_its_late_confirm_changes_nothing() -> None:
    p = Publishing(window=1)
    one = p.publish(b"1", deadline=2.0, message_id="one")
    assert p.outbox.deadline == 2.0
    p.outbox.due(1.9)
    assert one.outcome is None
    p.advance(2.0)
    assert isinstance(one.outcome, PublishTimeout)
    assert one.outcome.sent
    assert not p.window.try_take(1)  # the broker has it
    p.send_back(b"1", "one")
    p.ack(1)
    assert outcomes(one) == [PublishTimeout]
    assert p.window.try_take(1)


@pytest.mark.parametrize("resend", [True, False])
def test_publish_that_was_not_sent_in_time_says_so(*, resend: bool) -> None:
    p = Publishing(is_open=False, policy=PublishPolicy(resend=resend))
    one = p.publish(b"1", deadline=2.0)
    p.advance(2.0)
    assert isinstance(one.outcome, PublishTimeout)
    assert not one.outcome.sent
    p.open()
    assert p.channel.bodies == []


def test_publish_without_time_is_not_sent() -> None:
    p = Publishing()
    one = p.publish(b"1", deadline=0.0)
    assert outcomes(one) == [PublishTimeout]
    assert p.channel.bodies == []


def test_deadline_is_that_of_the_publish_that_times_out_next() -> None:
    p = Publishing()
    p.publish(b"1", deadline=3.0)
    p.publish(b"2", deadline=1.0)
    p.publish(b"3", deadline=2.0)
    assert p.outbox.deadline == 1.0
    p.advance(1.0)
    assert p.outbox.deadline == 2.0
    p.advance(2.0)
    assert p.outbox.deadline == math.inf


def test_wait_for_room_ends_at_the_deadline() -> None:
    p = Publishing(window=1)
    p.publish(b"1")
    late = PendingPublish(p.outbox.counters, p.outbox.ledger.outstanding()[0].route, "late", b"", b"2", 1.0)
    bell = Bell()
    waiter = p.outbox.wait_for_room(late, bell, p.now)
    assert p.outbox.deadline == 1.0
    p.advance(1.0)
    assert (bell.rings, waiter.is_granted) == (1, False)
    refusal = p.outbox.refusal_of(late, p.now)
    assert isinstance(refusal, PublishTimeout)
    assert not refusal.sent


# --- a broker that is blocked ---------------------------------------------------------------------------------------


def test_room_that_comes_as_the_patience_with_a_block_ends_is_given_back() -> None:
    """The window opened in time, and the task that waited for it came too late."""
    p = Publishing(window=1, policy=PublishPolicy(blocked_timeout=1.0))
    p.publish(b"1")
    late = PendingPublish(p.outbox.counters, p.outbox.ledger.outstanding()[0].route, "late", b"", b"2", math.inf)
    waiter = p.outbox.wait_for_room(late, Bell(), p.now)
    p.hold()
    p.outbox.blocked("memory", p.now, p.now)
    p.ack(1)
    assert waiter.is_granted
    p.advance(1.0)
    with pytest.raises(ConnectionBlocked, match="memory"):
        p.outbox.check_entered(late, p.now)
    assert p.window.try_take(1)


def test_block_holds_publishes_until_it_ends() -> None:
    p = Publishing()
    p.hold()
    p.outbox.blocked("memory", p.now, p.now)
    assert p.state() is PublisherState.HELD
    assert p.outbox.deadline == math.inf
    one = p.publish(b"1")
    p.advance(1000)
    p.outbox.unblocked()
    p.ready()
    p.ack(1)
    assert outcomes(one) == [CONFIRMED]


def test_publishes_that_a_block_holds_for_too_long_fail_but_not_those_that_the_broker_may_have() -> None:
    p = Publishing(policy=PublishPolicy(blocked_timeout=5.0))
    sent = p.publish(b"sent")
    p.hold()
    p.outbox.blocked("memory", since=-1.0, now=p.now)
    held = p.publish(b"held")
    assert p.outbox.block.error(p.now) is None
    assert p.outbox.deadline == 4.0
    p.advance(4.0)
    assert outcomes(sent, held) == [None, ConnectionBlocked]
    assert p.effects == [RefuseWaiting()]
    assert p.outbox.deadline == math.inf
    error = p.outbox.block.error(p.now)
    assert error is not None
    assert error.reason == "memory"
    assert isinstance(p.outbox.refusal_of(held, p.now), ConnectionBlocked)
    p.ack(1)
    assert outcomes(sent) == [CONFIRMED]


def test_publish_that_a_loss_caught_outlives_a_block() -> None:
    p = Publishing(policy=PublishPolicy(blocked_timeout=5.0, retry_nacked=True))
    lost, nacked = p.publish(b"lost"), p.publish(b"nacked")
    p.nack(2)
    p.lose()
    p.outbox.channel_opened(p.now)
    p.outbox.blocked("memory", p.now, p.now)
    new = p.publish(b"new")
    p.advance(5.0)
    assert outcomes(lost, nacked, new) == [None, ConnectionBlocked, ConnectionBlocked]
    p.outbox.unblocked()
    p.channel.bodies.clear()
    p.ready()
    assert p.channel.bodies == [b"lost"]


def test_block_that_has_lasted_too_long_already_fails_at_once() -> None:
    p = Publishing(policy=PublishPolicy(blocked_timeout=5.0), is_open=False)
    one = p.publish(b"1")
    p.outbox.blocked("memory", since=-5.0, now=p.now)
    assert outcomes(one) == [ConnectionBlocked]


def test_block_that_ended_in_time_fails_nobody() -> None:
    p = Publishing(policy=PublishPolicy(blocked_timeout=5.0))
    p.hold()
    p.outbox.blocked("memory", p.now, p.now)
    one = p.publish(b"1")
    p.outbox.unblocked()
    p.advance(5.0)
    assert one.outcome is None
    assert p.outbox.block.error(p.now) is None


# --- failures that nobody awaited -----------------------------------------------------------------------------------


def test_failures_that_nobody_awaited_are_kept_once() -> None:
    p = Publishing()
    observed, unobserved, forgotten = p.publish(b"1"), p.publish(b"2"), p.publish(b"3")
    observed.is_observed = True
    for tag in (1, 2, 3):
        p.nack(tag)
    p.outbox.counters.forget_failure(forgotten)
    failures = p.outbox.counters.take_failures()
    assert failures is not None
    assert failures.exceptions == (unobserved.outcome,)
    assert p.outbox.counters.take_failures() is None
