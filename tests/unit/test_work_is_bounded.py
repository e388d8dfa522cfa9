"""A message takes the same work however many channels are open and however much is unconfirmed, unacked or declared.

Work is counted, not timed, so that a cost that grows is seen at once and on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import pytest

from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError
from anyamqp.message import Properties
from anyamqp.protocol.acks import Acks
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.events import ConfirmsReceived, ContentsReceived
from anyamqp.protocol.topology import Recorded, Topology
from anyamqp.protocol.window import Window, WindowWaiter
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import build, encode_method
from support.amqp import Dialogue, all_events, content, opened
from support.work import Work

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not

MANY_CHANNELS: Final = 1000
MANY: Final = 10_000
MESSAGES: Final = 200
NEARLY: Final = 0.05
"""By how much of the smaller one two amounts of work may differ: what is done once for many messages is in them."""

BODY: Final = bytes(100)
ROUTE: Final = Route("", "features.live", mandatory=True)
PROPERTIES: Final = encode_properties(Properties(message_id="0" * 32))


def steps(act: Callable[[], object]) -> int:
    """The work of doing it once, after it was done once: what is remembered from the first time counts for nobody."""
    act()
    with Work() as work:
        act()
    return work.steps


def assert_flat(few: int, many: int) -> None:
    assert few > MESSAGES  # or nothing was counted
    assert many == pytest.approx(few, rel=NEARLY)


def with_channels(count: int) -> tuple[Dialogue, list[int]]:
    """A session with so many open channels, and their numbers."""
    dialogue = opened()
    return dialogue, [dialogue.open_channel() for _ in range(count)]


def used(numbers: Sequence[int], *, in_turn: bool) -> list[int]:
    """The channel of each message."""
    return [numbers[place % len(numbers)] if in_turn else numbers[-1] for place in range(MESSAGES)]


# --- channels -------------------------------------------------------------------------------------------------------


def work_of_publishing(channels: int, *, in_turn: bool) -> int:
    dialogue, numbers = with_channels(channels)
    session = dialogue.session
    routes = {number: Route("", "features.live", mandatory=True) for number in numbers}  # each publisher has its own
    order = used(numbers, in_turn=in_turn)

    def publish() -> None:
        for number in order:
            session.publish(number, routes[number], PROPERTIES, BODY)
        assert len(dialogue.output()) > MESSAGES * len(BODY)

    return steps(publish)


@pytest.mark.parametrize("in_turn", [False, True], ids=["on one of them", "on each in turn"])
def test_publishing_takes_no_more_work_with_a_thousand_channels(*, in_turn: bool) -> None:
    few = work_of_publishing(1, in_turn=in_turn)
    assert_flat(few, work_of_publishing(MANY_CHANNELS, in_turn=in_turn))


def work_of_receiving(channels: int) -> int:
    dialogue, numbers = with_channels(channels)
    session = dialogue.session
    deliver = build(methods.Basic.Deliver, "anyamqp-0", 1, exchange="", routing_key="features.live")
    data = content(numbers[-1], deliver, BODY) * MESSAGES

    def receive() -> None:
        session.receive(data, dialogue.now)
        (told,) = all_events(session)
        assert isinstance(told, ContentsReceived)
        assert len(told.contents) == MESSAGES

    all_events(session)
    return steps(receive)


def test_receiving_takes_no_more_work_with_a_thousand_channels() -> None:
    assert_flat(work_of_receiving(1), work_of_receiving(MANY_CHANNELS))


def work_of_confirms(channels: int, *, in_turn: bool) -> int:
    dialogue, numbers = with_channels(channels)
    session = dialogue.session
    order = used(numbers, in_turn=in_turn)
    data = b"".join(encode_method(number, build(methods.Basic.Ack, 1)) for number in order)

    def receive() -> None:
        session.receive(data, dialogue.now)
        assert (
            sum(len(event.confirms) for event in all_events(session) if isinstance(event, ConfirmsReceived)) == MESSAGES
        )

    all_events(session)
    return steps(receive)


@pytest.mark.parametrize(("channels", "in_turn"), [(1, False), (2, True)], ids=["on one of them", "on each in turn"])
def test_a_confirm_takes_no_more_work_with_a_thousand_channels(channels: int, *, in_turn: bool) -> None:
    few = work_of_confirms(channels, in_turn=in_turn)
    assert_flat(few, work_of_confirms(MANY_CHANNELS, in_turn=in_turn))


def work_of_acknowledging(channels: int) -> int:
    dialogue, numbers = with_channels(channels)
    session = dialogue.session

    def acknowledge() -> None:
        for tag in range(1, MESSAGES + 1):
            session.ack(numbers[-1], tag, multiple=False)
            assert dialogue.output()

    return steps(acknowledge)


def test_acknowledging_takes_no_more_work_with_a_thousand_channels() -> None:
    assert_flat(work_of_acknowledging(1), work_of_acknowledging(MANY_CHANNELS))


# --- what waits -----------------------------------------------------------------------------------------------------


def work_of_settling(outstanding: int, *, newest_first: bool) -> float:
    """Of each of so many publishes, from being recorded to being confirmed."""

    def publish_and_settle() -> None:
        ledger: Ledger[int] = Ledger()
        tags = [ledger.add(item) for item in range(outstanding)]
        for tag in reversed(tags) if newest_first else tags:
            assert len(ledger.settle(tag, multiple=False)) == 1

    return steps(publish_and_settle) / outstanding


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_a_confirm_takes_no_more_work_with_ten_thousand_unconfirmed(*, newest_first: bool) -> None:
    few = work_of_settling(MANY // 10, newest_first=newest_first)
    assert work_of_settling(MANY, newest_first=newest_first) == pytest.approx(few, rel=NEARLY)


def work_of_taking_room(taken: int) -> int:
    window = Window(taken + 1, 1 << 40)
    for _ in range(taken):
        assert window.try_take(1)

    def take_and_give_back() -> None:
        for _ in range(MESSAGES):
            assert window.try_take(1)
            window.give_back(1)

    return steps(take_and_give_back)


def test_room_in_the_window_takes_no_more_work_with_ten_thousand_in_it() -> None:
    assert_flat(work_of_taking_room(1), work_of_taking_room(MANY))


def work_of_acks(unacked: int, *, newest_first: bool) -> float:
    """Of each of so many acks."""

    def acknowledge() -> None:
        acks = Acks()
        tags = range(1, unacked + 1)
        for tag in reversed(tags) if newest_first else tags:
            acks.ack(tag)
            assert len(acks.take()) == 1

    return steps(acknowledge) / unacked


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_an_ack_takes_no_more_work_with_ten_thousand_unacked(*, newest_first: bool) -> None:
    few = work_of_acks(MANY // 10, newest_first=newest_first)
    assert work_of_acks(MANY, newest_first=newest_first) == pytest.approx(few, rel=NEARLY)


# --- the topology ---------------------------------------------------------------------------------------------------


class Declarer:
    """A channel that declares."""

    def fail(self, error: AnyamqpError) -> None:
        """Nothing is asked of it."""


def with_queues(count: int) -> tuple[Topology, list[Recorded]]:
    topology, channel = Topology(RecoveryMode.EVERYTHING), Declarer()
    for number in range(count):
        name = f"queue-{number}"
        reply = methods.Queue.DeclareOk(name, 0, 0)
        topology.record(channel, build(methods.Queue.Declare, queue=name), reply)
        bind = build(methods.Queue.Bind, queue=name, exchange="market", routing_key=name)
        topology.record(channel, bind, methods.Queue.BindOk())
    return topology, topology.queues()


def work_of_declaring_again(queues: int) -> int:
    topology, recorded = with_queues(queues)
    last = recorded[-MESSAGES:]

    def declare() -> None:
        for one in last:
            topology.as_sent(one.request)
            topology.declared_again(one, methods.Queue.DeclareOk(one.entity.name, 0, 0))

    return steps(declare)


def test_recovering_a_queue_takes_no_more_work_with_ten_thousand_of_them() -> None:
    assert_flat(work_of_declaring_again(MESSAGES), work_of_declaring_again(MANY))


def work_of_ending(queues: int, end: Callable[[Topology, Recorded], None]) -> int:
    """Of ending the first of so many queues and a few more."""
    topology, recorded = with_queues(queues + 2 * MESSAGES)
    left = iter(recorded)

    def end_some() -> None:
        for one in islice(left, MESSAGES):
            end(topology, one)

    work = steps(end_some)
    assert len(topology.queues()) == queues
    return work


def delete(topology: Topology, recorded: Recorded) -> None:
    topology.record(Declarer(), methods.Queue.Delete(queue=recorded.entity.name), methods.Queue.DeleteOk(0))


@pytest.mark.parametrize("end", [delete, Topology.forget])
def test_ending_a_queue_takes_no_more_work_among_ten_thousand(end: Callable[[Topology, Recorded], None]) -> None:
    assert_flat(work_of_ending(MESSAGES, end), work_of_ending(MANY, end))


# --- who waits for room ---------------------------------------------------------------------------------------------


class Waiting(WindowWaiter):
    """A waiter; comparing it with another is work that is counted."""

    def __init__(self, deadline: float) -> None:
        super().__init__(1, deadline, Never())

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = WindowWaiter.__hash__


class Never:
    """Wakes nobody."""

    def set(self) -> None:
        """Nobody is woken."""


def work_of_giving_up(waiting: int, *, newest_first: bool) -> float:
    """Of each of so many who wait for room and are cancelled, and of a look at the next deadline after each."""
    window = Window(1, 1)
    assert window.try_take(1)
    waiters = [Waiting(float(number)) for number in range(waiting)]
    for waiter in waiters:
        window.wait(waiter)
    with Work() as work:
        for waiter in reversed(waiters) if newest_first else waiters:
            window.withdraw(waiter)
            assert window.nearest >= 0
    assert window.nearest == math.inf
    assert not window.try_take(1)
    return work.steps / waiting


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_giving_up_takes_no_more_work_with_thousands_waiting(*, newest_first: bool) -> None:
    few = work_of_giving_up(MANY // 50, newest_first=newest_first)
    assert work_of_giving_up(MANY // 5, newest_first=newest_first) == pytest.approx(few, rel=NEARLY)


def work_of_expiring(waiting: int) -> float:
    """Of each of so many who wait for room until deadlines of their own."""
    window = Window(1, 1)
    assert window.try_take(1)
    waiters = [Waiting(float(number)) for number in range(waiting)]
    for waiter in waiters:
        window.wait(waiter)
    with Work() as work:
        while (deadline := window.nearest) < math.inf:
            window.dismiss(deadline)
    return work.steps / waiting


def test_a_deadline_takes_no_more_work_with_thousands_waiting() -> None:
    few = work_of_expiring(MANY // 50)
    assert work_of_expiring(MANY // 5) == pytest.approx(few, rel=NEARLY)
