"""Which consumer of the embedded broker gets the next message."""

from __future__ import annotations

from anyamqp.testing.embedded.consumers import Consumers, SingleActive


class Taker:
    """A consumer with or without room."""

    def __init__(self, priority: int = 0) -> None:
        self.priority = priority
        self.unacked = 0
        self.has_room = True

    def can_take(self) -> bool:
        return self.has_room


def test_consumers_that_have_room_again_come_in_the_order_in_which_they_stepped_aside() -> None:
    consumers: Consumers[Taker] = Consumers()
    first, second = Taker(), Taker()
    for consumer in (first, second):
        consumers.add(consumer)
        consumer.has_room = False
    assert consumers.next() is None
    first.has_room = second.has_room = True
    consumers.readmit()
    assert [consumers.next(), consumers.next()] == [first, second]


def test_an_active_consumer_gives_way_once_all_of_its_messages_are_settled() -> None:
    consumers: SingleActive[Taker] = SingleActive(by_priority=True, gives_way=True)
    active, better = Taker(), Taker(priority=1)
    consumers.add(active)
    active.unacked = 1
    consumers.add(better)
    assert consumers.next() is None
    active.unacked = 0
    assert consumers.next() is better
