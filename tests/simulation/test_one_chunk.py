"""Methods that arrive in one chunk are handled in order: a close does not overtake the message before it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Message, State
from anyamqp.testing import Broker
from support.gate import Gate

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
QUEUE = "features.live"
LIMIT = 10.0


class Scene(NamedTuple):
    """A connection behind a gate, and one beside it."""

    broker: Broker
    gate: Gate
    connection: Connection
    other: Connection


@asynccontextmanager
async def scene() -> AsyncGenerator[Scene, None]:
    """A broker with a queue. After the gate opens, the connection is open or comes back."""
    with anyio.fail_after(LIMIT):
        async with (
            Broker() as broker,
            Gate(broker.dial) as gate,
            anyamqp.connect(URL, dial=gate.dial) as connection,
            anyamqp.connect(URL, dial=broker.dial) as other,
        ):
            async with other.channel() as channel:
                await channel.declare_queue(QUEUE)
            yield Scene(broker, gate, connection, other)
            await connection.wait_ready(LIMIT)
            assert connection.state is State.OPEN


def closes_connections(broker: Broker) -> None:
    broker.close_connections()


def closes_channels(broker: Broker) -> None:
    broker.close_channels(406, "PRECONDITION_FAILED - an operator's doing")


closes = pytest.mark.parametrize("close", [closes_connections, closes_channels], ids=["connection", "channel"])


@closes
async def test_a_delivery_and_a_close_while_the_consumer_stops(close: Callable[[Broker], None]) -> None:
    async with scene() as (broker, gate, connection, other):
        async with connection.consumer(QUEUE) as consumer, other.publisher() as publisher:
            gate.shut()
            await publisher.publish(Message(b"x"), routing_key=QUEUE)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(consumer.stop)
                await anyio.wait_all_tasks_blocked()
                close(broker)
                await gate.open()
        assert broker.queues[QUEUE].messages == 1


@closes
async def test_an_answer_to_a_cancelled_get_and_a_close(close: Callable[[Broker], None]) -> None:
    async with scene() as (broker, gate, connection, other):
        async with other.publisher() as publisher:
            await publisher.publish(Message(b"x"), routing_key=QUEUE)
        async with connection.channel() as channel:
            gate.shut()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.get, QUEUE)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            close(broker)
            await gate.open()
            await anyio.wait_all_tasks_blocked()
        assert broker.queues[QUEUE].messages == 1


async def test_the_end_of_a_block_and_a_close_with_a_backlog() -> None:
    async with scene() as (broker, gate, connection, _), connection.publisher() as publisher:
        await publisher.publish(Message(b"before"), routing_key=QUEUE)
        broker.block()
        await anyio.wait_all_tasks_blocked()
        waiting = await publisher.submit(Message(b"waits"), routing_key=QUEUE)
        gate.shut()
        broker.unblock()
        await anyio.wait_all_tasks_blocked()
        broker.close_connections()
        await gate.open()
        assert (await waiting).attempts == 2


async def test_the_end_of_a_consumer_and_of_its_channel() -> None:
    async with (
        scene() as (broker, gate, connection, other),
        connection.consumer(QUEUE, on_cancel="resubscribe"),
        other.channel() as channel,
    ):
        gate.shut()
        await channel.delete_queue(QUEUE)
        closes_channels(broker)
        await gate.open()
        await anyio.wait_all_tasks_blocked()


async def test_the_end_of_a_consumer_that_stops_and_the_answer_to_that() -> None:
    async with (
        scene() as (_, gate, connection, other),
        connection.consumer(QUEUE, on_cancel="resubscribe") as consumer,
        other.channel() as channel,
    ):
        gate.shut()
        async with anyio.create_task_group() as tasks:
            await channel.delete_queue(QUEUE)
            tasks.start_soon(consumer.stop)
            await gate.open()
