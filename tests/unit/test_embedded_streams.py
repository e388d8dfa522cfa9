"""Streams of the embedded broker under a clock of the test's own: ages, times and intervals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from anyamqp import Message
from anyamqp.message import FieldTable, FieldValue
from anyamqp.testing.embedded.consumer_arguments import Terms
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.queues import Declaration, Queue
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.timers import Timers
from anyamqp.testing.embedded.versions import RULES


class Reader:
    """A consumer that takes everything."""

    def __init__(self) -> None:
        self.priority = 0
        self.unacked = 0
        self.bodies: list[bytes] = []

    def can_take(self) -> bool:
        return True

    def take(self, queue: Queue, entry: Entry) -> None:  # noqa: ARG002
        self.bodies.append(entry.message.body)

    def cancel(self) -> None: ...


class World:
    """A stream, and the time in seconds since 1970."""

    def __init__(self, arguments: FieldTable | None = None) -> None:
        self.now = 1000.0
        model = Model(rules=RULES["4.3"], timers=Timers(lambda: self.now))
        declaration = Declaration("s", durable=True, arguments={"x-queue-type": "stream", **(arguments or {})})
        self.stream = model.declare_queue(declaration, self)

    def put(self, *bodies: bytes) -> None:
        """Append a message each second."""
        for body in bodies:
            self.stream.put(Message(body), "", "s")
            self.now += 1

    def read(self, offset: FieldValue) -> list[bytes]:
        """What a consumer reads from an offset on."""
        reader = Reader()
        terms = Terms(prefetch=100, arguments={"x-stream-offset": offset})
        self.stream.check_consumer(terms)
        self.stream.add_consumer(reader, terms)
        self.stream.pump()
        self.stream.remove_consumer(reader)
        return reader.bodies


@pytest.mark.parametrize(
    ("second", "expected"),
    [(0, [b"0", b"1", b"2"]), (1000, [b"0", b"1", b"2"]), (1001, [b"1", b"2"]), (1002, [b"2"]), (1003, [])],
)
def test_a_time_finds_the_first_message_that_came_then(second: int, expected: list[bytes]) -> None:
    world = World()
    world.put(b"0", b"1", b"2")
    assert world.read(datetime.fromtimestamp(second, UTC)) == expected


def test_an_interval_finds_the_messages_that_came_in_it() -> None:
    world = World()
    world.put(b"0", b"1", b"2")
    assert world.read("2s") == [b"1", b"2"]
    assert world.read("1m") == [b"0", b"1", b"2"]
    world.now += 60
    assert world.read("1m") == []


def test_segments_older_than_the_age_are_dropped_when_the_last_one_is_full() -> None:
    world = World({"x-max-age": "10s", "x-stream-max-segment-size-bytes": 100})
    world.put(bytes(50), bytes(50))
    world.now += 10
    world.put(b"few")
    assert len(world.read("first")) == 3
    world.put(bytes(200))
    assert world.read("first") == [b"few", bytes(200)]


def test_a_restart_loses_nothing() -> None:
    world = World()
    world.stream.put(Message(b"transient", persistent=False), "", "s")
    world.stream.restart()
    assert world.read("first") == [b"transient"]
