"""When another channel is opened in place of one that the broker closed."""

from __future__ import annotations

from anyamqp.protocol.reopening import Reopenings


def test_channels_that_die_young_come_after_growing_pauses_and_then_no_more() -> None:
    reopenings = Reopenings()
    delays: list[float | None] = []
    for _ in range(9):
        reopenings.opened(0.0)
        delays.append(reopenings.closed(0.9))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, None, None]


def test_channel_that_lived_for_a_second_begins_anew() -> None:
    reopenings = Reopenings()
    for _ in range(5):
        reopenings.opened(0.0)
        reopenings.closed(0.0)
    reopenings.opened(10.0)
    assert reopenings.closed(11.0) == 0.0
    assert reopenings.in_vain == 1


def test_channel_that_did_something_useful_is_not_in_vain_but_the_pauses_go_on() -> None:
    reopenings = Reopenings()
    delays: list[float | None] = []
    for _ in range(9):
        reopenings.opened(0.0)
        reopenings.in_vain = 0
        delays.append(reopenings.closed(0.5))
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
