"""Tests of a worker on trio. Its minutes pass in no time, because trio's MockClock jumps to the next thing to do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from anyamqp import Connection, Message
from anyamqp.testing import Broker, eventually
from thumbnails import work

pytestmark = [pytest.mark.anyio, pytest.mark.amqp_embedded]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Studio:
    """Makes thumbnails, and fails as often as a test wants."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.tries: list[float] = []
        self.failures = 0

    async def make(self, picture: bytes) -> None:
        self.tries.append(trio.current_time())
        if len(self.tries) <= self.failures:
            raise ValueError("cannot read the picture")
        self.made.append(picture)


@pytest.fixture
async def studio(amqp_connection: Connection, amqp_broker: Broker) -> AsyncGenerator[Studio, None]:
    studio = Studio()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, amqp_connection, studio.make)
        await eventually(lambda: amqp_broker.queue("pictures").consumers == 1)
        yield studio
        nursery.cancel_scope.cancel()


async def test_picture_is_acknowledged_once_its_thumbnail_is_made(
    studio: Studio, amqp_broker: Broker, amqp_connection: Connection
) -> None:
    await publish(amqp_connection, b"cat.png")
    await eventually(lambda: studio.made == [b"cat.png"])
    await eventually(lambda: amqp_broker.queue("pictures").unacked == 0)
    assert amqp_broker.queue("failed pictures").messages == 0


async def test_picture_is_tried_again_after_a_minute(studio: Studio, amqp_connection: Connection) -> None:
    studio.failures = 1
    await publish(amqp_connection, b"cat.png")
    await eventually(lambda: studio.made == [b"cat.png"], within=300)
    first, second = studio.tries
    assert 60 <= second - first < 61


async def test_picture_that_fails_four_times_is_set_aside(
    studio: Studio, amqp_broker: Broker, amqp_connection: Connection
) -> None:
    studio.failures = 4
    await publish(amqp_connection, b"cat.png")
    await eventually(lambda: amqp_broker.queue("failed pictures").bodies() == [b"cat.png"], within=300)
    assert len(studio.tries) == 4


async def test_pictures_are_worked_on_after_the_broker_was_restarted(
    studio: Studio, amqp_broker: Broker, amqp_connection: Connection
) -> None:
    amqp_broker.stop()
    await trio.sleep(600)
    await amqp_broker.start()
    await amqp_connection.wait_ready()
    await publish(amqp_connection, b"cat.png")
    await eventually(lambda: studio.made == [b"cat.png"], within=300)


async def publish(connection: Connection, picture: bytes) -> None:
    async with connection.publisher() as publisher:
        await publisher.publish(Message(picture), routing_key="pictures")
