"""Which channel number is taken next."""

from __future__ import annotations

import pytest

from anyamqp.errors import ChannelLimitReached
from anyamqp.protocol.channel_numbers import HIGHEST_CHANNEL, ChannelNumbers


def taken(count: int) -> ChannelNumbers:
    """Numbers of which the first ``count`` are in use."""
    numbers = ChannelNumbers()
    assert [numbers.take(count) for _ in range(count)] == [(number, False) for number in range(1, count + 1)]
    return numbers


def test_the_lowest_free_number_is_next() -> None:
    numbers = taken(3)
    numbers.release(2)
    numbers.release(1)
    assert [numbers.take(0) for _ in range(3)] == [(1, False), (2, False), (4, False)]


def test_a_number_that_the_broker_closed_is_taken_last() -> None:
    numbers = taken(3)
    numbers.retire(1)
    numbers.release(2)
    assert [numbers.take(3) for _ in range(2)] == [(2, False), (1, True)]
    with pytest.raises(ChannelLimitReached):
        numbers.take(3)


def test_a_released_number_is_not_set_aside_any_more() -> None:
    numbers = taken(1)
    numbers.retire(1)
    numbers.release(1)
    assert not numbers.is_retired(1)
    assert numbers.take(1) == (1, False)
    with pytest.raises(ChannelLimitReached):
        numbers.take(1)


def test_without_a_limit_amqp_has_65535_numbers() -> None:
    numbers = taken(HIGHEST_CHANNEL)
    with pytest.raises(ChannelLimitReached):
        numbers.take(0)
