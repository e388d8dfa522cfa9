"""Cancellation at every await leaves nothing behind.

Invariant 6: the broker's channel count equals the client's. Invariant 7: no task, socket or timer is left. Each
scenario is run again and again, cancelled at its first, second, third ... suspension, until it ends before that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Message, Publisher
from anyamqp.testing import Broker
from support.stepping import cancel_at
from support.waiting import eventually, running_tasks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("observer")]

URL = "amqp://guest:guest@memory/"

Scenario = Callable[[Connection, Publisher], Awaitable[object]]


@asynccontextmanager
async def broker_with_queue() -> AsyncGenerator[Broker, None]:
    async with Broker() as broker:
        async with anyamqp.connect(URL, dial=broker.dial) as connection, connection.channel() as channel:
            await channel.declare_queue("q")
        yield broker


async def publish(_: Connection, publisher: Publisher) -> None:
    await publisher.publish(Message(b"one"), routing_key="q")


async def submit(_: Connection, publisher: Publisher) -> None:
    for _n in range(6):
        await publisher.submit(Message(b"many"), routing_key="q")


async def flush(_: Connection, publisher: Publisher) -> None:
    for _n in range(3):
        await publisher.submit(Message(b"many"), routing_key="q")
    await publisher.flush()


async def open_publisher(connection: Connection, _: Publisher) -> None:
    async with connection.publisher() as publisher:
        await publisher.submit(Message(b"one"), routing_key="q")


async def declare(connection: Connection, _: Publisher) -> None:
    async with connection.channel() as channel:
        await channel.declare_queue("other")
        await channel.declare_exchange("exchange", "fanout")
        await channel.bind_queue("other", "exchange")


async def consume(connection: Connection, publisher: Publisher) -> None:
    await publisher.publish(Message(b"for the consumer"), routing_key="q")
    async with connection.consumer("q", prefetch=3) as consumer:
        async for delivery in consumer:
            async with delivery:
                return


async def get(connection: Connection, publisher: Publisher) -> None:
    await publisher.publish(Message(b"to get"), routing_key="q")
    async with connection.channel() as channel:
        delivery = await channel.get("q")
        if delivery is not None:
            delivery.ack()


async def borrow(connection: Connection, _: Publisher) -> None:
    async with connection.channel_pool(1) as pool:
        async with pool.channel() as channel:
            await channel.set_qos(5)
        async with pool.channel():
            pass


@pytest.mark.parametrize(
    "scenario", [publish, submit, flush, open_publisher, declare, consume, get, borrow], ids=lambda one: one.__name__
)
async def test_cancelled_operation_leaves_the_connection_as_it_was(scenario: Scenario) -> None:
    async with (
        broker_with_queue() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher(window=4) as publisher,
    ):
        tasks = running_tasks()
        at = 1
        while await cancel_at(at, lambda: scenario(connection, publisher)):
            at += 1
            await eventually(lambda: broker.channel_count == connection.stats.open_channels == 1)
            assert running_tasks() <= tasks
            receipt = await publisher.publish(Message(b"still works"), routing_key="q", timeout=5)
            assert receipt.attempts == 1
        assert at > 1
        assert connection.stats.link_number == 1
    assert broker.unexpected_closes == []


async def test_get_cancelled_before_its_answer_gives_the_message_back() -> None:
    async with (
        broker_with_queue() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
        connection.channel() as channel,
    ):
        await publisher.publish(Message(b"one"), routing_key="q")
        broker.freeze()
        assert await cancel_at(1, lambda: channel.get("q"))
        broker.thaw()
        delivery = await channel.get("q")  # answered behind the first get, whose message came back before
        assert delivery is None or delivery.redelivered
        if delivery is not None:
            delivery.nack(requeue=True)
        await eventually(lambda: (broker.queues["q"].messages, broker.queues["q"].unacked) == (1, 0))


async def test_cancelled_connect_leaves_nothing() -> None:
    async with broker_with_queue() as broker:
        tasks = running_tasks()

        async def whole_life() -> None:
            async with anyamqp.connect(URL, dial=broker.dial) as connection, connection.channel() as channel:
                await channel.declare_queue("q", passive=True)

        at = 1
        while await cancel_at(at, whole_life):
            at += 1
            await eventually(lambda: broker.connection_count == 0 and running_tasks() <= tasks)
        assert at > 3
        assert broker.unexpected_closes == []


async def test_cancelled_close_still_closes() -> None:
    async with broker_with_queue() as broker:
        tasks = running_tasks()

        async def close_early() -> None:
            async with (
                anyamqp.connect(URL, dial=broker.dial) as connection,
                connection.publisher() as publisher,
                connection.consumer("q"),
            ):
                await publisher.publish(Message(b"confirmed"), routing_key="q")
                await connection.close()

        at = 1
        while await cancel_at(at, close_early):
            at += 1
            await eventually(lambda: broker.connection_count == 0 and running_tasks() <= tasks)
        assert broker.unexpected_closes == []


@pytest.mark.parametrize("moment", ["dialing", "handshake", "waiting"])
async def test_leaving_while_there_is_no_connection_is_quick_and_clean(moment: str) -> None:
    async with Broker() as broker:
        if moment == "waiting":
            broker.refuse()
        elif moment == "handshake":
            broker.freeze()

        async def dial(address: anyamqp.Address) -> anyio.abc.ByteStream:
            if moment == "dialing":
                await anyio.sleep_forever()
            return await broker.dial(address)

        states: list[anyamqp.State] = []
        settings = anyamqp.Settings(close_timeout=0.2)
        with anyio.fail_after(5):
            async with anyamqp.connect(settings, dial=dial, ready_timeout=0) as connection:
                await anyio.wait_all_tasks_blocked()
                states.append(connection.state)
            states.append(connection.state)
        assert states == [anyamqp.State.CONNECTING, anyamqp.State.CLOSED]
