"""How long a connection may take to end when its user leaves."""

from __future__ import annotations

import math

import pytest

from anyamqp.protocol.leaving import Leaving


def test_nothing_ends_before_the_user_leaves() -> None:
    assert Leaving(10.0).deadline == math.inf


@pytest.mark.parametrize(("close_timeout", "deadline"), [(10.0, 5.6), (0.25, 5.25)])
def test_an_attempt_ends_within_the_grace_or_a_shorter_close_timeout(close_timeout: float, deadline: float) -> None:
    leaving = Leaving(close_timeout)
    leaving.attempt(5.0)
    assert leaving.deadline == deadline


@pytest.mark.parametrize(("bytes_received", "is_dropped"), [(0, True), (8, False)])
def test_a_handshake_is_dropped_if_the_broker_has_said_nothing(bytes_received: int, is_dropped: bool) -> None:
    leaving = Leaving(10.0)
    assert leaving.handshake(bytes_received, 5.0) is is_dropped
    assert leaving.deadline == 5.6


@pytest.mark.parametrize(("closes_until", "deadline"), [(15.0, 15.0), (5.0, 5.1), (2.0, 5.1)])
def test_an_open_link_ends_with_its_closes_but_may_send_the_last_one(closes_until: float, deadline: float) -> None:
    leaving = Leaving(10.0)
    leaving.link(closes_until, 5.0)
    assert leaving.deadline == deadline
