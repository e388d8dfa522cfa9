"""The position from which a consumer resumes a stream."""

from __future__ import annotations

import pytest

from anyamqp.delivery import Delivery
from anyamqp.message import FieldTable, Message
from anyamqp.protocol.stream_position import StreamPosition, is_of_stream


def from_stream(offset: int | None) -> Delivery:
    headers: FieldTable = {} if offset is None else {"x-stream-offset": offset}
    return Delivery(
        Message(b"", headers=headers), exchange="", routing_key="q", delivery_tag=1, redelivered=False, settler=None
    )


def test_it_goes_on_behind_the_last_delivery() -> None:
    position = StreamPosition({"x-stream-offset": "first", "x-priority": 1})
    assert position.arguments(0.0, 0.0) == {"x-stream-offset": "first", "x-priority": 1}
    position.follow(from_stream(41))
    assert position.arguments(9.0, 9.0) == {"x-stream-offset": 42, "x-priority": 1}


def test_a_queue_that_is_no_stream_is_asked_for_as_before() -> None:
    position = StreamPosition({})
    assert position.is_stream is None
    position.follow(from_stream(None))
    assert position.is_stream is False
    assert position.arguments(9.0, 9.0) == {}
    assert position.opened(9.0, is_declared=False)
    assert position.is_stream is None  # another queue may have the name now


@pytest.mark.parametrize(("arguments", "is_declared"), [({"x-stream-offset": "next"}, False), ({}, True)])
def test_the_end_of_a_stream_is_asked_for_as_an_interval(arguments: FieldTable, *, is_declared: bool) -> None:
    position = StreamPosition(arguments)
    assert position.arguments(10.0, 1000.0) == arguments
    assert position.opened(10.5, is_declared=is_declared)
    assert position.arguments(30.0, 1020.0) == {"x-stream-offset": "25s"}
    assert position.arguments(30.0, 4600.0) == {"x-stream-offset": "3605s"}, "the machine slept"
    assert position.arguments(30.0, 5.0) == {"x-stream-offset": "25s"}, "the system's clock was set back"


def test_a_request_that_took_too_long_is_repeated_with_twice_that_margin() -> None:
    position = StreamPosition({"x-stream-offset": "next"})
    position.arguments(0.0, 0.0)
    assert position.opened(60.0, is_declared=False), "the first one tells no interval"
    position.arguments(100.0, 100.0)
    assert not position.opened(105.1, is_declared=False)
    assert position.arguments(106.0, 106.0) == {"x-stream-offset": "117s"}
    assert position.opened(116.1, is_declared=False)


def test_deliveries_of_a_stream_bear_an_offset() -> None:
    assert [is_of_stream(from_stream(offset)) for offset in (0, None)] == [True, False]
