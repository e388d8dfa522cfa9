"""Merged acknowledgements: their frames, and the frames that they may not overtake."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import pytest

from anyamqp.protocol.acks import Acks
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from anyamqp.wire.methods import Method
from support.amqp import Dialogue, content, expect, opened

Told = tuple[str, int, bool]
"""A frame's method, its tag, and whether it is ``multiple``."""


def told(method: Method) -> Told:
    tag = getattr(method, "delivery_tag", None) or 0
    return method_name(method), tag, bool(getattr(method, "multiple", False))


class Bench:
    """An open session with a channel and so many deliveries on it."""

    def __init__(self, deliveries: int = 10) -> None:
        self.dialogue: Dialogue = opened()
        self.session = self.dialogue.session
        self.number = self.dialogue.open_channel()
        self.delivered = 0
        self.deliver(deliveries)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.delivered += 1
            method = methods.Basic.Deliver("c", self.delivered, redelivered=False, exchange="", routing_key="q")
            self.dialogue.say(content(self.number, method, b"x"))

    def get(self, *, no_ack: bool) -> None:
        """Fetch a message."""
        self.session.request(self.number, methods.Basic.Get(queue="q", no_ack=no_ack))
        self.delivered += 1
        reply = methods.Basic.GetOk(self.delivered, redelivered=False, exchange="", routing_key="q", message_count=0)
        self.dialogue.say(content(self.number, reply, b"x"))
        self.sent()

    def ack(self, *tags: int) -> None:
        for tag in tags:
            self.session.ack(self.number, tag, multiple=False)

    def ack_up_to(self, tag: int) -> None:
        self.session.ack(self.number, tag, multiple=True)

    def nack(self, tag: int, *, multiple: bool = False) -> None:
        self.session.nack(self.number, methods.Basic.Nack(tag, multiple, requeue=True))

    def reject(self, tag: int) -> None:
        self.session.nack(self.number, methods.Basic.Reject(tag, requeue=False))

    def sent(self) -> list[Told]:
        return [told(method) for method in self.dialogue.sent_methods()]


def ack(tag: int, *, multiple: bool = False) -> Told:
    return "basic.ack", tag, multiple


# --- which frames ---------------------------------------------------------------------------------------------------


def test_one_ack_is_one_frame_that_stands_for_itself() -> None:
    bench = Bench()
    bench.ack(1)
    assert bench.sent() == [ack(1)]


@pytest.mark.parametrize("tags", [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1), (3, 1, 5, 2, 4)], ids=str)
def test_all_that_is_open_acknowledged_in_one_go_leaves_as_one_multiple_frame(tags: tuple[int, ...]) -> None:
    bench = Bench(5)
    bench.ack(*tags)
    assert bench.sent() == [ack(5, multiple=True)]


def test_acks_above_an_open_delivery_leave_one_by_one() -> None:
    bench = Bench()
    bench.ack(2, 3, 4)
    assert bench.sent() == [ack(2), ack(3), ack(4)]


def test_acks_around_an_open_delivery_are_not_merged() -> None:
    bench = Bench()
    bench.ack(5, 1, 2, 6)
    assert sorted(bench.sent()) == [ack(2, multiple=True), ack(5), ack(6)]


def test_an_ack_that_closes_a_gap_alone_is_no_multiple_frame() -> None:
    bench = Bench()
    bench.ack(2, 3)
    bench.sent()
    bench.ack(1)
    assert bench.sent() == [ack(1)]


def test_acks_that_close_a_gap_cover_what_has_left_already() -> None:
    bench = Bench()
    bench.ack(3, 4)
    bench.sent()
    bench.ack(1, 2)
    ((name, tag, multiple),) = bench.sent()
    assert (name, multiple) == ("basic.ack", True)
    assert 2 <= tag <= 4
    bench.ack(5, 6)
    assert bench.sent() == [ack(6, multiple=True)]


def test_the_next_batch_is_one_frame_again() -> None:
    bench = Bench()
    bench.ack(1, 2, 3)
    assert bench.sent() == [ack(3, multiple=True)]
    bench.ack(4, 5)
    assert bench.sent() == [ack(5, multiple=True)]


def test_nacked_deliveries_do_not_prevent_a_multiple_ack() -> None:
    bench = Bench()
    bench.nack(2)
    bench.reject(3)
    bench.sent()
    bench.ack(1, 4, 5)
    assert bench.sent() == [ack(5, multiple=True)]


def test_an_ack_up_to_a_tag_is_told_as_such_and_counts_for_those_below() -> None:
    bench = Bench()
    bench.ack_up_to(4)
    assert bench.sent() == [ack(4, multiple=True)]
    bench.ack(5, 6)
    assert bench.sent() == [ack(6, multiple=True)]


def test_a_nack_up_to_a_tag_counts_for_those_below() -> None:
    bench = Bench()
    bench.nack(4, multiple=True)
    assert bench.sent() == [("basic.nack", 4, True)]
    bench.ack(5, 6)
    assert bench.sent() == [ack(6, multiple=True)]


def test_nothing_is_sent_twice() -> None:
    bench = Bench()
    bench.ack(1, 2)
    bench.sent()
    assert bench.sent() == []
    assert not bench.session.has_output


def test_each_channel_counts_for_itself() -> None:
    bench = Bench(3)
    other = bench.dialogue.open_channel()
    bench.session.ack(other, 2, multiple=False)
    bench.ack(1, 2)
    frames = sorted((frame.channel, *told(expect(frame.payload, Method))) for frame in bench.dialogue.sent())
    assert frames == [(bench.number, *ack(2, multiple=True)), (other, *ack(2))]


def test_a_channel_that_takes_an_old_number_begins_anew() -> None:
    """Invariant 8: what was settled on the channel that had the number before counts for nothing."""
    bench = Bench(3)
    bench.ack(1, 2, 3)
    bench.session.close_channel(bench.number)
    bench.dialogue.tell(methods.Channel.CloseOk(), bench.number)
    assert bench.dialogue.open_channel() == bench.number
    bench.delivered = 0
    bench.deliver(4)
    bench.sent()
    bench.ack(2, 3)
    assert bench.sent() == [ack(2), ack(3)]


# --- what the broker settles, and what it opens again ---------------------------------------------------------------


def test_after_a_recover_the_old_deliveries_do_not_stand_in_the_way() -> None:
    """Invariant 11: what basic.recover has settled leaves no gap that is remembered for ever."""
    bench = Bench(5)
    bench.session.request(bench.number, methods.Basic.Recover(requeue=True))
    bench.dialogue.tell(methods.Basic.RecoverOk(), bench.number)
    bench.deliver(3)
    bench.sent()
    bench.ack(6, 7, 8)
    assert bench.sent() == [ack(8, multiple=True)]


def test_messages_got_without_ack_do_not_prevent_merged_acks() -> None:
    """Invariant 11: nobody will ever settle it, so the gap would be remembered for ever."""
    bench = Bench(0)
    bench.get(no_ack=True)
    bench.get(no_ack=False)
    bench.get(no_ack=False)
    bench.ack(2, 3)
    assert bench.sent() == [ack(3, multiple=True)]


def test_what_was_fetched_and_is_open_stands_in_the_way() -> None:
    bench = Bench(0)
    bench.get(no_ack=False)
    bench.get(no_ack=False)
    bench.get(no_ack=False)
    bench.ack(2, 3)
    assert bench.sent() == [ack(2), ack(3)]


def test_acks_after_a_rollback_spare_reopened_deliveries() -> None:
    """RabbitMQ, "Semantics of tx": after tx.rollback what was acknowledged in the transaction is open again."""
    bench = Bench(5)
    bench.session.request(bench.number, methods.Tx.Select())
    bench.dialogue.tell(methods.Tx.SelectOk(), bench.number)
    bench.ack(1, 2)
    bench.session.request(bench.number, methods.Tx.Rollback())
    bench.dialogue.tell(methods.Tx.RollbackOk(), bench.number)
    bench.sent()
    bench.ack(3, 4, 5)
    assert bench.sent() == [ack(3), ack(4), ack(5)]


# --- what acks may not be overtaken by ------------------------------------------------------------------------------


LATER: dict[str, Callable[[Bench], object]] = {
    "basic.nack": lambda bench: bench.nack(5),
    "basic.reject": lambda bench: bench.reject(5),
    "basic.cancel": lambda bench: bench.session.request(bench.number, methods.Basic.Cancel("c")),
    "tx.commit": lambda bench: bench.session.request(bench.number, methods.Tx.Commit()),
    "tx.rollback": lambda bench: bench.session.request(bench.number, methods.Tx.Rollback()),
    "basic.recover": lambda bench: bench.session.request(bench.number, methods.Basic.Recover(requeue=True)),
    "basic.get": lambda bench: bench.session.request(bench.number, methods.Basic.Get(queue="q")),
    "queue.delete": lambda bench: bench.session.request(bench.number, methods.Queue.Delete(queue="q")),
    "channel.close": lambda bench: bench.session.close_channel(bench.number),
    "connection.close": lambda bench: bench.session.close(bench.dialogue.now),
}


@pytest.mark.parametrize("later", LATER)
def test_acks_leave_before_whatever_is_sent_after_them(later: str) -> None:
    bench = Bench()
    bench.ack(1, 2, 7)
    LATER[later](bench)
    frames = bench.sent()
    assert [name for name, _, _ in frames] == ["basic.ack", "basic.ack", later]
    assert sorted(frames[:2]) == [ack(2, multiple=True), ack(7)]


def test_acks_leave_before_a_nack_of_all_that_is_left() -> None:
    """The other way round the nack would put back what was acknowledged."""
    bench = Bench()
    bench.ack(2, 4)
    bench.nack(10, multiple=True)
    assert bench.sent() == [ack(2), ack(4), ("basic.nack", 10, True)]


def test_acks_leave_before_an_ack_of_all_that_is_left() -> None:
    bench = Bench()
    bench.ack(2)
    bench.ack_up_to(5)
    assert bench.sent() == [ack(2), ack(5, multiple=True)]


def test_nacks_keep_their_order() -> None:
    bench = Bench()
    for tag in (3, 1, 2):
        bench.nack(tag)
    assert bench.sent() == [("basic.nack", tag, False) for tag in (3, 1, 2)]


def test_acks_between_nacks_stay_between_them() -> None:
    bench = Bench()
    bench.ack(3)
    bench.nack(1)
    bench.ack(4)
    bench.reject(2)
    assert bench.sent() == [ack(3), ("basic.nack", 1, False), ack(4), ("basic.reject", 2, False)]


def test_nothing_but_close_ok_follows_the_brokers_channel_close() -> None:
    """AMQP 0-9-1, 2.2.5."""
    bench = Bench()
    bench.ack(1, 2)
    bench.dialogue.tell(methods.Channel.Close(406, "PRECONDITION_FAILED", 0, 0), bench.number)
    assert bench.sent() == [("channel.close-ok", 0, False)]


def test_nothing_but_close_ok_follows_the_brokers_connection_close() -> None:
    bench = Bench()
    bench.ack(1, 2)
    bench.dialogue.tell(methods.Connection.Close(320, "CONNECTION_FORCED", 0, 0))
    assert bench.sent() == [("connection.close-ok", 0, False)]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_in_order_nothing_is_remembered() -> None:
    """Invariant 11."""
    acks = Acks()
    for tag in range(1, 10_001):
        acks.ack(tag)
        if tag % 100 == 0:
            assert acks.take() == [(tag, True)]
            assert len(acks) == 0
    assert acks.take() == []
    acks.ack(10_001)
    acks.ack(10_002)
    assert acks.take() == [(10_002, True)]


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2], ids=["one stays open", "tags are left out"])
def test_tags_settled_out_of_order_are_not_kept_for_ever(step: int) -> None:
    """Invariant 11."""
    acks = Acks()
    tracemalloc.start()
    try:
        for tag in range(2, 2 + step * 100_000, step):
            acks.ack(tag)
            assert acks.take() == [(tag, False)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 1024 * 1024


@pytest.mark.parametrize("settle", [Acks.ack, Acks.settle], ids=["ack", "nack"])
def test_settled_tags_are_counted_in_any_order(settle: Callable[[Acks, int], None]) -> None:
    acks = Acks()
    for tag in range(2, 100_000):
        settle(acks, tag)
    acks.take()
    assert acks.settled_count == 99_998


def test_forgotten_tags_do_not_count_when_many_settle_at_once() -> None:
    acks = Acks()
    for tag in range(2, 100_000):
        acks.settle(tag)
    acks.settle_up_to(50_000)
    assert acks.settled_count == math.inf


def test_acks_that_are_remembered_no_longer_leave_one_by_one() -> None:
    acks = Acks()
    for tag in range(2, 100_000):
        acks.ack(tag)
    acks.ack(1)
    assert acks.take() == [(tag, False) for tag in (*range(2, 100_000), 1)]
