"""The window of a publisher, without an event loop: which waiters get room, in which order, and which give up."""

from __future__ import annotations

import math

from anyamqp.protocol.window import Window, WindowWaiter

SIZE = 10


class Bell:
    """Counts how often its task was woken."""

    def __init__(self) -> None:
        self.rings = 0

    def set(self) -> None:
        self.rings += 1


class Waiting(WindowWaiter):
    """A waiter whose waker can be looked at."""

    def __init__(self, window: Window, size: int, deadline: float = math.inf) -> None:
        self.bell = Bell()
        super().__init__(size, deadline, self.bell)
        window.wait(self)

    @property
    def is_dismissed(self) -> bool:
        return self.bell.rings == 1 and not self.is_granted


def test_room_is_granted_in_the_order_in_which_it_was_wanted() -> None:
    window = Window(100, SIZE)
    first, second, third = Waiting(window, SIZE), Waiting(window, SIZE), Waiting(window, 1)
    assert first.is_granted
    window.give_back(SIZE)
    assert second.is_granted
    assert not third.is_granted
    window.give_back(SIZE)
    assert third.is_granted
    assert [one.bell.rings for one in (first, second, third)] == [1, 1, 1]


def test_room_is_not_taken_past_a_waiter() -> None:
    window = Window(100, SIZE)
    assert window.try_take(SIZE - 1)
    Waiting(window, 2)
    assert not window.try_take(1)


def test_a_message_larger_than_the_window_gets_in_alone() -> None:
    window = Window(100, SIZE)
    assert window.try_take(SIZE + 1)
    assert not window.try_take(0)
    window.give_back(SIZE + 1)
    assert window.try_take(0)


def test_the_count_bounds_the_window_as_well() -> None:
    window = Window(2, SIZE)
    assert window.try_take(1)
    assert window.try_take(1)
    assert not window.try_take(1)
    window.give_back(2, count=2)
    assert window.try_take(1)


def test_a_waiter_past_its_deadline_makes_way_for_those_behind() -> None:
    window = Window(100, SIZE)
    first, late, small = Waiting(window, 6), Waiting(window, 8, deadline=1.0), Waiting(window, 1, deadline=2.0)
    assert window.nearest == 1.0
    window.dismiss(1.5)
    assert first.is_granted
    assert late.is_dismissed
    assert small.is_granted
    assert window.nearest == math.inf
    assert window.try_take(SIZE - 7)
    assert not window.try_take(1)


def test_a_waiter_without_a_deadline_is_dismissed_at_the_end_of_time() -> None:
    window = Window(100, SIZE)
    first, patient = Waiting(window, SIZE), Waiting(window, 1)
    window.dismiss(math.inf)
    assert first.is_granted
    assert patient.is_dismissed


def test_a_waiter_that_withdraws_makes_way_for_those_behind() -> None:
    window = Window(100, SIZE)
    assert window.try_take(6)
    large, small = Waiting(window, 8), Waiting(window, 1)
    window.withdraw(large)
    assert small.is_granted
    assert large.bell.rings == 0


def test_a_waiter_that_withdraws_when_it_was_granted_gives_the_room_back() -> None:
    window = Window(1, SIZE)
    assert window.try_take(1)
    waiter = Waiting(window, 1)
    window.give_back(1)
    assert waiter.is_granted
    window.withdraw(waiter)
    assert window.try_take(1)


def test_a_waiter_that_withdraws_after_its_dismissal_gives_nothing_back() -> None:
    window = Window(1, SIZE)
    assert window.try_take(1)
    waiter = Waiting(window, 1, deadline=1.0)
    window.dismiss(1.0)
    window.withdraw(waiter)
    assert not window.try_take(1)
