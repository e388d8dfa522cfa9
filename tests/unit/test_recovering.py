"""The decisions of a recovery, stepped without an event loop: which channel opens when, and when the connection may."""

from __future__ import annotations

from typing import cast

import pytest

from anyamqp.errors import AnyamqpError, InvalidArgument
from anyamqp.protocol.connection import Recovering
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle import ConnectionEvent
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.recovery import RecoveryState
from anyamqp.protocol.ports import Consuming
from anyamqp.protocol.recovering import LONGEST_REOPENING
from support.recoveries import ANSWER_WITHIN, NO_NUMBER, RESET, UNEXPLAINED, Case, Consumer


class NewConsumer(Consumer):
    """A consumer that has never consumed, so that it cannot come back."""

    @property
    def not_back(self) -> str | None:
        return None


# --- one link ---------------------------------------------------------------------------------------------------------


def test_channels_open_when_the_entities_are_there_and_then_the_connection() -> None:
    case = Case("a", "b")
    case.queue("q")
    case.begin()
    assert (case.state, case.opened) == (RecoveryState.DECLARING, [])
    case.declared("q")
    assert (case.state, case.opened) == (RecoveryState.REOPENING, ["a", "b"])
    case.answer("b")
    assert case.state is RecoveryState.REOPENING
    case.answer("a")
    case.open()
    assert (case.state, case.told) == (RecoveryState.COMPLETE, [])
    assert case.recovery.declaring is None
    assert case.deadline == float("inf")


@pytest.mark.parametrize("is_careful", [False, True])
def test_channels_wait_for_the_numbers_of_the_lanes_but_not_for_ever(is_careful: bool) -> None:
    case = Case("a")
    if is_careful:
        case.begin()
        case.lose(UNEXPLAINED)
    case.is_lane_closing = True
    case.begin()
    case.pass_time(0.9 * PATIENCE)
    assert case.opened == []
    case.pass_time(0.2 * PATIENCE)
    assert case.opened == ["a"]


def test_a_channel_that_was_paused_on_an_earlier_link_is_opened() -> None:
    case = Case()
    case.add("earlier", ChannelEvent.POSTPONED)
    case.add("a")
    case.begin()
    case.add("present", ChannelEvent.POSTPONED)
    case.answer("a")
    assert case.opened == ["earlier", "a"]


def test_a_channel_that_cannot_be_opened_is_shut() -> None:
    case = Case("odd", "a")
    case.errors["odd"] = InvalidArgument("does not fit")
    case.begin()
    assert case.opened == ["a"]
    assert case.told == ["shut odd: does not fit"]
    case.answer("a")
    assert case.state is RecoveryState.SETTLED


def test_a_channel_of_a_user_who_comes_meanwhile_is_opened_at_once() -> None:
    case = Case("first")
    case.connection.recovery = cast(Recovering, case)
    case.connection.take(ConnectionEvent.STARTED, case.now)
    case.begin()
    assert case.opened == ["first"]
    case.channels["second"] = case.connection.new_channel(None)
    case.connection.register(case.channels["second"])
    assert case.recovery.deadline <= case.now
    case.due()
    assert case.channels["second"].state is ChannelState.CONNECTING_OPENING


# --- patience ---------------------------------------------------------------------------------------------------------


def test_a_channel_without_an_answer_holds_the_connection_for_half_a_second() -> None:
    case = Case("late", "a")
    case.begin()
    case.pass_time(0.8 * PATIENCE)
    case.answer("a")
    case.pass_time(0.9 * PATIENCE)
    assert case.state is RecoveryState.REOPENING
    case.pass_time(0.2 * PATIENCE)
    case.open()
    assert case.told == [("late: the broker has not answered yet",)]
    case.pass_time(1)
    case.answer("late")
    assert (case.state, case.told[1:]) == (RecoveryState.COMPLETE, ["back"])


def test_patience_begins_when_all_channels_were_sent() -> None:
    case = Case(*(f"c{number}" for number in range(100)))
    case.seconds_to_attach = 2 * LONGEST_REOPENING / 100
    case.begin()
    states: list[RecoveryState] = []
    for part in (0.9, 0.2):
        case.pass_time(part * PATIENCE)
        states.append(case.state)
    assert states == [RecoveryState.REOPENING, RecoveryState.SETTLED]


def test_news_of_anything_but_a_channel_do_not_hold_the_connection() -> None:
    case = Case("late")
    case.begin()
    for _ in range(4):
        case.pass_time(0.3 * PATIENCE)
        case.recovery.heard(case.now)
    assert case.state is RecoveryState.SETTLED


def test_trickling_answers_do_not_hold_the_connection_for_ever() -> None:
    names = [f"c{number}" for number in range(20)]
    case = Case(*names)
    case.begin()
    began_at = case.now
    for name in names:
        if case.state is not RecoveryState.REOPENING:
            break
        case.pass_time(0.8 * PATIENCE)
        case.answer(name)
    assert case.state is RecoveryState.SETTLED
    assert case.now == pytest.approx(began_at + LONGEST_REOPENING, abs=PATIENCE)


@pytest.mark.parametrize("is_careful", [False, True])
def test_a_channel_without_a_number_holds_nothing(is_careful: bool) -> None:
    case = Case("a")
    if is_careful:
        case.begin()
        case.lose(UNEXPLAINED)
    case.errors["a"] = NO_NUMBER
    case.begin()
    case.open()
    assert case.told == [("a: waits for a number",)]
    case.errors.clear()
    case.recovery.heard(case.now)
    case.due()
    assert case.opened == ["a"]


# --- latecomers -------------------------------------------------------------------------------------------------------


def test_a_consumer_waits_for_its_late_queue() -> None:
    case = Case("a", "theirs")
    case.queue("q")
    case.consumer("q", "theirs")
    case.begin()
    case.pass_time(PATIENCE)
    assert case.opened == ["a"]
    case.answer("a")
    case.open()
    assert case.told == [("queue 'q': the broker does not answer", "consumer of queue 'q': waits for queue 'q'")]
    case.declared("q")
    assert case.opened == ["a", "theirs"]
    case.answer("theirs")
    assert (case.state, case.told[1:]) == (RecoveryState.COMPLETE, ["back"])


def test_once_the_connection_is_open_no_queue_is_declared_again() -> None:
    case = Case("late")
    case.queue("q")
    case.begin()
    case.declared("q")
    case.pass_time(PATIENCE)
    case.open()
    assert case.state is RecoveryState.LATECOMERS
    assert not case.recovery.will_declare("q", case.now)


def test_before_the_connection_is_open_a_queue_is_declared_again() -> None:
    case = Case("a")
    case.queue("q")
    case.begin()
    case.declared("q")
    assert case.recovery.will_declare("q", case.now)
    case.lose(RESET)
    assert not case.recovery.will_declare("q", case.now)


def test_a_link_that_is_lost_as_the_connection_opens_leaves_nothing() -> None:
    case = Case()
    case.begin()
    assert case.state is RecoveryState.SETTLED
    case.lose(RESET)
    case.carry_out(case.recovery.opened())
    assert (case.state, case.told) == (RecoveryState.IDLE, [])


def test_the_channel_of_a_new_consumer_is_missed_like_any_other() -> None:
    case = Case("c")
    case.connection.consumers.add(cast(Consuming, NewConsumer("q", case.channels["c"])))
    case.begin()
    case.pass_time(PATIENCE)
    case.open()
    assert case.recovery.not_back == ("c: the broker has not answered yet",)


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_link_without_any_answer_is_ended() -> None:
    case = Case("a")
    case.begin()
    case.pass_time(PATIENCE)
    case.open()
    case.pass_time(ANSWER_WITHIN - PATIENCE - 0.1)
    assert case.told == [("a: the broker has not answered yet",)]
    case.pass_time(0.1)
    assert case.told[1:] == ["abort: opening a channel: no answer within 30.0 s"]


def test_a_link_on_which_the_broker_works_is_kept() -> None:
    case = Case("a")
    case.has_worked = True
    case.begin()
    case.pass_time(PATIENCE)
    case.open()
    case.pass_time(10 * ANSWER_WITHIN)
    assert case.told == [("a: the broker has not answered yet",)]


# --- careful ----------------------------------------------------------------------------------------------------------


def test_after_an_unexplained_close_one_channel_is_opened_at_a_time_with_full_patience() -> None:
    case = Case("a", "deadly", "b")
    case.begin()
    assert case.opened == ["a", "deadly", "b"]
    case.lose(UNEXPLAINED)
    assert (case.state, case.told) == (RecoveryState.CAREFUL_IDLE, [])
    case.begin()
    case.pass_time(0.9 * ANSWER_WITHIN)
    assert (case.state, case.opened) == (RecoveryState.CAREFUL_REOPENING, ["a"])
    case.answer("a")
    assert case.opened == ["a", "deadly"]
    case.lose(UNEXPLAINED)
    assert case.told == [f"shut deadly: {UNEXPLAINED}"]
    case.begin()
    case.answer("a")
    case.answer("b")
    case.open()
    assert case.state is RecoveryState.COMPLETE


def test_a_queue_that_costs_the_link_without_a_word_is_found_with_care() -> None:
    case = Case("a")
    case.queue("q")
    case.begin()
    case.lose(UNEXPLAINED)
    assert case.state is RecoveryState.CAREFUL_IDLE
    case.begin()
    case.lose(UNEXPLAINED)
    assert case.told == [f"failed queue 'q': {UNEXPLAINED}"]


def test_a_queue_that_comes_late_is_suspected_though_the_connection_is_open() -> None:
    case = Case("a")
    case.queue("q")
    case.begin()
    case.pass_time(2 * PATIENCE)
    case.open()
    case.lose(UNEXPLAINED)
    assert case.state is RecoveryState.CAREFUL_IDLE


@pytest.mark.parametrize("error", [RESET, UNEXPLAINED])
def test_a_loss_after_the_opening_makes_nobody_suspicious(error: AnyamqpError) -> None:
    case = Case("late")
    case.begin()
    case.pass_time(PATIENCE)
    case.open()
    case.lose(error)
    assert case.state is RecoveryState.IDLE
    assert case.recovery.not_back == ()
