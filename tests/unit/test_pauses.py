"""Growing pauses."""

from __future__ import annotations

from anyamqp.protocol.pauses import Pauses


def test_pauses_are_doubled_up_to_the_longest() -> None:
    pauses = Pauses(0.1, 0.5)
    assert [pauses.next() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_free_attempts_come_without_a_pause() -> None:
    pauses = Pauses(0.1, 2.0, free=2)
    assert [pauses.next() for _ in range(4)] == [0.0, 0.0, 0.1, 0.2]


def test_a_success_begins_again_with_the_first_pause() -> None:
    pauses = Pauses(0.1, 2.0)
    pauses.next()
    pauses.next()
    pauses.reset()
    assert pauses.next() == 0.1


def test_attempts_without_end_pause_for_the_longest() -> None:
    pauses = Pauses(0.1, 2.0)
    assert [pauses.next() for _ in range(5000)][-1] == 2.0
