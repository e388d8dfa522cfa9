"""The decisions of a recovery, stepped without an event loop: which channel opens when, and when the connection may."""

from __future__ import annotations

from typing import Any, cast

import pytest

from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError, ChannelLimitReached, InternalError, InvalidArgument
from anyamqp.protocol.channel import ChannelCore
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.declaring import Send, TellFailed
from anyamqp.protocol.lanes import PATIENCE
from anyamqp.protocol.lifecycle.channel import ChannelEvent, ChannelState
from anyamqp.protocol.lifecycle.recovery import RecoveryState
from anyamqp.protocol.ports import Consuming
from anyamqp.protocol.recovering import (
    LONGEST_REOPENING,
    Abort,
    Attach,
    Effects,
    Fail,
    RecoveryCore,
    TellBack,
    TellNotBack,
)
from anyamqp.protocol.topology import Topology
from anyamqp.wire import methods
from anyamqp.wire.frames import build

ANSWER_WITHIN = 30.0
UNEXPLAINED = InternalError("boom")
RESET = AnyamqpError("reset")
NO_NUMBER = ChannelLimitReached("all are open")


class Consumer:
    """A consumer that is not back as long as its channel is not open."""

    def __init__(self, queue: str, channel: ChannelCore[Any]) -> None:
        self.queue = queue
        self.channel = channel

    @property
    def not_back(self) -> str | None:
        return None if self.channel.state is ChannelState.OPEN_HELD else "the broker has not answered yet"


class Case:
    """A connection with channels, its recovery, and the broker, played by hand.

    Attributes:
        opened: the channels that were opened on this link, in order.
        told: what else the recovery asked for.
        errors: the reasons for which channels cannot be opened.
    """

    def __init__(self, *channels: str) -> None:
        self.topology = Topology(RecoveryMode.EVERYTHING)
        self.connection: ConnectionCore[Any] = ConnectionCore(self.topology, cast(Any, self), cast(Any, None))
        self.recovery: RecoveryCore[Any] = RecoveryCore(self.topology, self.connection, answer_within=ANSWER_WITHIN)
        self.now = 100.0
        self.opened: list[str] = []
        self.told: list[object] = []
        self.errors: dict[str, AnyamqpError] = {}
        self.seconds_to_attach = 0.0
        self.is_lane_closing = self.has_worked = False
        self.channels: dict[str, ChannelCore[Any]] = {}
        for name in channels:
            self.add(name)

    def changed(self, *_: object) -> None:
        """The connection records a change of a public state."""
        self.recovery.heard(self.now)

    def add(self, name: str, event: ChannelEvent = ChannelEvent.REGISTERED) -> ChannelCore[Any]:
        channel: ChannelCore[Any] = ChannelCore(name, self.connection, None)
        channel.take(event)
        self.connection.channels[channel] = None
        self.channels[name] = channel
        return channel

    def queue(self, name: str) -> None:
        self.topology.record(cast(Any, self), build(methods.Queue.Declare, queue=name), methods.Queue.DeclareOk(name))

    def consumer(self, queue: str, channel: str) -> None:
        self.connection.consumers.add(cast(Consuming, Consumer(queue, self.channels[channel])))

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A link is open."""
        self.opened.clear()
        self.told.clear()
        declaring = self.recovery.begin(list(self.topology.queues()), self.now, self.now)
        self.lanes = [one.lane for one in declaring.begin(self.now) if isinstance(one, Send)]
        self.due()

    def declared(self, queue: str) -> None:
        """The broker answers for a queue."""
        assert self.recovery.declaring is not None
        self.recovery.declaring.answered(self.lanes[0], methods.Queue.DeclareOk(queue), self.now)
        self.recovery.heard(self.now)
        self.due()

    def answer(self, *channels: str) -> None:
        """The broker opens channels."""
        for name in channels:
            self.channels[name].take(ChannelEvent.OPENED)
        self.due()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have the recovery and its declaring act whenever they ask for that."""
        until = self.now + seconds
        while self.deadline <= until:
            self.now = max(self.now, self.deadline)
            if self.recovery.declaring is not None:
                self.recovery.declaring.due(self.now)
            self.due()
        self.now = until

    @property
    def deadline(self) -> float:
        declaring = self.recovery.declaring
        deadline = self.recovery.deadline
        return deadline if declaring is None else min(deadline, declaring.deadline)

    def due(self) -> None:
        """The recovery acts until it has nothing to do at once."""
        self.act()
        while self.recovery.deadline <= self.now:
            self.act()

    def act(self) -> None:
        due = self.recovery.due(self.now, is_lane_closing=self.is_lane_closing, has_worked=self.has_worked)
        self.carry_out(due)

    def open(self) -> None:
        """The connection opens."""
        assert self.recovery.state is RecoveryState.SETTLED
        self.carry_out(self.recovery.opened())

    def lose(self, error: AnyamqpError) -> None:
        """The link ends; the channels are detached again."""
        self.carry_out(self.recovery.lost(error, self.now))
        for name in [name for name, channel in self.channels.items() if channel.state is not ChannelState.CLOSED]:
            self.connection.channels.pop(self.channels[name])
            self.add(name)

    def carry_out(self, effects: Effects[Any]) -> None:
        for effect in effects:
            match effect:
                case Attach(channels):
                    self.attach(list(channels))
                case Fail(channel, error):
                    self.told.append(f"shut {channel}: {error}")
                    channel.fail(error)
                case Abort(error):
                    self.told.append(f"abort: {error}")
                case TellFailed(recorded, error):
                    self.told.append(f"failed {recorded.entity}: {error}")
                case TellNotBack(missing):
                    self.told.append(missing)
                case TellBack():
                    self.told.append("back")

    def attach(self, channels: list[ChannelCore[Any]]) -> None:
        for channel in channels:
            self.now += self.seconds_to_attach
            if channel.name not in self.errors:
                assert self.recovery.is_off_link(channel)
                self.opened.append(channel.name)
                channel.take(ChannelEvent.ATTACHED)
                continue
            effects = self.recovery.unattached(channel, self.errors[channel.name], has_lanes=True)
            if not effects:
                return
            self.carry_out(effects)

    @property
    def state(self) -> RecoveryState:
        return self.recovery.state


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


def test_channels_wait_for_the_numbers_of_the_lanes_but_not_for_ever() -> None:
    case = Case("a")
    case.is_lane_closing = True
    case.begin()
    case.pass_time(0.9 * PATIENCE)
    assert (case.state, case.opened) == (RecoveryState.CLOSING_LANES, [])
    case.pass_time(0.2 * PATIENCE)
    assert (case.state, case.opened) == (RecoveryState.REOPENING, ["a"])


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


@pytest.mark.parametrize("error", [RESET, UNEXPLAINED])
def test_a_loss_after_the_opening_makes_nobody_suspicious(error: AnyamqpError) -> None:
    case = Case("late")
    case.begin()
    case.pass_time(PATIENCE)
    case.open()
    case.lose(error)
    assert case.state is RecoveryState.IDLE
    assert case.recovery.not_back == ()
