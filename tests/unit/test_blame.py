"""Who is to blame for a close."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from anyamqp.errors import (
    AnyamqpError,
    ConnectionForced,
    ConnectionLost,
    FrameError,
    InternalError,
    NotAllowed,
    NotFound,
    ReplyError,
    Side,
    TransportError,
)
from anyamqp.protocol import blame
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods


class Sent(NamedTuple):
    """A call whose request was sent."""

    exchange: str
    attempts: int = 1


@pytest.mark.parametrize(
    ("error", "may_be"),
    [
        (FrameError("x"), True),
        (InternalError("x", method="basic.publish"), True),
        (NotAllowed("x", method="queue.declare"), False),
        (FrameError("x", found_by=Side.CLIENT), False),
        (ConnectionForced("x"), False),
        (NotFound("x", method="basic.publish"), False),
        (TransportError("reset"), False),
        (None, False),
    ],
)
def test_link_may_be_closed_for_a_publish(error: AnyamqpError | None, *, may_be: bool) -> None:
    assert blame.may_be_for_a_publish(error) is may_be


@pytest.mark.parametrize(
    ("error", "closes", "is_guilty"),
    [
        (NotFound("x", method="basic.publish"), 1, True),
        (NotFound("x", method="basic.ack"), 2, False),
        (NotFound("x", method="basic.ack"), 3, True),
        (NotFound("x"), 1, False),
        (TransportError("x"), 1, False),
    ],
)
def test_only_publish_on_its_way_is_guilty(error: AnyamqpError, closes: int, *, is_guilty: bool) -> None:
    assert blame.is_guilty_alone(error, closes) is is_guilty


@pytest.mark.parametrize(
    ("error", "sent", "guilty"),
    [
        (NotFound("no exchange 'a'", method="basic.publish"), [Sent("a"), Sent("b"), Sent("")], [Sent("a")]),
        (NotFound("no exchange", method="basic.publish"), [Sent("a"), Sent("b"), Sent("")], [Sent("a"), Sent("b")]),
        (NotFound("x", method="basic.publish"), [Sent("")], [Sent("")]),
        (NotFound("x"), [Sent("")], []),
        (NotFound("x", method="basic.publish"), [Sent(""), Sent("")], []),
        (NotFound("x"), [Sent("", 2), Sent("", 3)], [Sent("", 3)]),
        (NotFound("no exchange 'a\\n'", method="basic.publish"), [Sent("a\n"), Sent("b")], [Sent("a\n")]),
        (NotFound("x"), [], []),
    ],
)
def test_guilty_calls(error: ReplyError, sent: list[Sent], guilty: list[Sent]) -> None:
    assert blame.guilty_calls(error, sent, 3) == guilty


# --- requests -------------------------------------------------------------------------------------------------------

DECLARE, BIND = methods.Queue.Declare(queue="q"), methods.Queue.Bind(queue="q", exchange="x")


def sent() -> list[Request]:
    return [Request(DECLARE), Request(BIND), Request(DECLARE)]


def test_link_was_closed_for_the_oldest_request_of_the_method_that_the_broker_names() -> None:
    requests = sent()
    assert blame.guilty_request(NotAllowed("x", method="queue.bind"), requests) is requests[1]


@pytest.mark.parametrize("error", [None, TransportError("reset"), FrameError("x"), NotAllowed("x", method="tx.select")])
def test_link_was_closed_for_no_request_of_ours(error: AnyamqpError | None) -> None:
    assert blame.guilty_request(error, sent()) is None


@pytest.mark.parametrize(("method", "place"), [("queue.bind", 1), ("queue.declare", 0), (None, 0)])
def test_channel_was_closed_for_the_oldest_request_of_the_method(method: str | None, place: int) -> None:
    requests = sent()
    assert blame.refused_request(NotFound("x", method=method), requests) is requests[place]


def test_channel_was_closed_for_no_request_of_ours() -> None:
    assert blame.refused_request(NotFound("x", method="basic.ack"), sent()) is None
    assert blame.refused_request(TransportError("reset"), sent()) is None


def test_request_that_a_loss_caught_is_sent_again() -> None:
    assert blame.Tries(repeat=True).failed(Request(DECLARE)) is None


def test_request_that_may_not_be_repeated_is_lost_with_its_link() -> None:
    error = blame.Tries(repeat=False).failed(Request(DECLARE))
    assert isinstance(error, ConnectionLost)
    assert "queue.declare" in str(error)


def test_request_that_was_refused_is_not_sent_again() -> None:
    request = Request(DECLARE)
    request.error = NotFound("x")
    assert blame.Tries(repeat=True).failed(request) is request.error


def test_third_unexplained_close_in_a_row_is_for_the_request_that_was_under_way_each_time() -> None:
    tries, close = blame.Tries(repeat=True), FrameError("x")
    outcomes: list[AnyamqpError | None] = []
    for _ in range(3):
        request = Request(DECLARE)
        request.suspicion = close
        outcomes.append(tries.failed(request))
    assert outcomes == [None, None, close]
