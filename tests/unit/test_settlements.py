"""Paused returns of one channel on one link."""

from __future__ import annotations

import math

from anyamqp.protocol.settlements import Settlements
from anyamqp.wire import methods


def back(tag: int) -> methods.Basic.Reject:
    return methods.Basic.Reject(tag, True)


def test_returns_are_due_in_the_order_of_their_times() -> None:
    settlements = Settlements()
    for tag, until in ((1, 3.0), (2, 1.0), (3, 2.0)):
        assert settlements.pause(tag, back(tag), until) == []
    assert settlements.deadline == 1.0
    assert settlements.due(0.9) == []
    assert settlements.due(2.0) == [back(2), back(3)]
    assert settlements.deadline == 3.0
    assert settlements.due(9.0) == [back(1)]
    assert settlements.deadline == math.inf


def test_multiple_settles_nothing_that_waits_to_go_back() -> None:
    settlements = Settlements()
    for tag in (1, 2, 3):
        settlements.pause(tag, back(tag), 5.0)
    assert settlements.settle_up_to(2) == [back(1), back(2)]
    assert settlements.settled_up_to == 2
    assert settlements.due(5.0) == [back(3)]


def test_the_highest_tag_settled_with_everything_before_it_stays() -> None:
    settlements = Settlements()
    settlements.settle_up_to(5)
    settlements.settle_up_to(3)
    assert settlements.settled_up_to == 5


def test_nothing_waits_once_pauses_have_ended() -> None:
    settlements = Settlements()
    settlements.pause(1, back(1), 5.0)
    assert settlements.end_pauses() == [back(1)]
    assert settlements.pause(2, back(2), 5.0) == [back(2)]
    assert settlements.deadline == math.inf


def test_a_channel_that_has_left_its_link_returns_nothing_on_it() -> None:
    """Invariant 8."""
    settlements = Settlements()
    settlements.pause(1, back(1), 5.0)
    settlements.leave()
    assert settlements.is_stale
    assert (settlements.due(9.0), settlements.end_pauses()) == ([], [])
    assert settlements.deadline == math.inf


def test_what_the_broker_took_back_is_settled() -> None:
    settlements = Settlements()
    settlements.last_tag = 7
    settlements.pause(1, back(1), 5.0)
    settlements.taken_back()
    assert settlements.settled_up_to == 7
    assert settlements.due(9.0) == []


def test_ten_thousand_pauses_that_end_one_by_one_take_no_time_to_speak_of() -> None:
    count = 10_000
    settlements = Settlements()
    for tag in range(1, count + 1):
        settlements.pause(tag, back(tag), float(count - tag))
    returned = [method.delivery_tag for now in range(count) for method in settlements.due(float(now))]
    assert returned == list(range(count, 0, -1))
