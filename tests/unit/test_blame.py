"""Who is to blame for a close."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from anyamqp.errors import (
    AnyamqpError,
    ConnectionForced,
    FrameError,
    InternalError,
    NotAllowed,
    NotFound,
    ReplyError,
    Side,
    TransportError,
)
from anyamqp.protocol import blame


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
