"""A broker that does not read makes publishers wait, with every way to publish (invariant 11)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
import pytest

import anyamqp
from anyamqp import Channel, Connection, Message, Publisher, PublishTimeout
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("observer")]

URL = "amqp://guest:guest@memory/"
MIB = 1024 * 1024
BODY = bytes(64 * 1024)
COUNT = 64
MOST = 3 * MIB
"""The most bytes that the client accepts: its limit in the buffer, as much being sent, and some in the transport."""

Publish = Callable[[Message], Awaitable[object]]


@asynccontextmanager
async def with_publisher(connection: Connection) -> AsyncGenerator[Publish, None]:
    async with connection.publisher(window_bytes=16 * MIB) as publisher:
        yield partial(Publisher.submit, publisher, routing_key="q")


@asynccontextmanager
async def with_channel(connection: Connection) -> AsyncGenerator[Publish, None]:
    async with connection.channel() as channel:
        yield partial(Channel.publish, channel, routing_key="q")


@pytest.mark.parametrize("way", [with_publisher, with_channel])
async def test_publishes_to_a_broker_that_does_not_read_wait(
    way: Callable[[Connection], AbstractAsyncContextManager[Publish]],
) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
        way(connection) as publish,
    ):
        await channel.declare_queue("q")
        taken = taken_first = 0

        async def publish_all() -> None:
            nonlocal taken
            for _ in range(COUNT):
                await publish(Message(BODY))
                taken += 1

        async with anyio.create_task_group() as tasks:
            broker.freeze()
            tasks.start_soon(publish_all)
            await anyio.wait_all_tasks_blocked()
            taken_first = taken
            broker.thaw()
        assert MIB < taken_first * len(BODY) < MOST
        assert taken == COUNT
        await eventually(lambda: broker.queues["q"].messages == COUNT)


async def fill(channel: Channel) -> None:
    """Publish more than a broker that does not read takes."""
    for _ in range(COUNT):
        await channel.publish(Message(BODY), routing_key="q")


async def test_a_publish_into_a_full_buffer_times_out_unsent() -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
        anyio.create_task_group() as tasks,
    ):
        await channel.declare_queue("q")
        broker.freeze()
        tasks.start_soon(fill, channel)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish(Message(b"late"), routing_key="q", timeout=0.01)
        assert not caught.value.sent
        broker.thaw()
