"""The parts that depend on the event loop, on uvloop: reading, waiting, and cancellation."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Message
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def a_queue(connection: Connection) -> AsyncGenerator[str, None]:
    queue = unique("queue")
    async with connection.channel() as channel:
        await channel.declare_queue(queue)
        yield queue
        await channel.delete_queue(queue)


async def test_everything_submitted_arrives_in_order_over_resets(shared_node: Node) -> None:
    """Invariants 4 and 5."""
    count = 5000
    got: list[int] = []
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with (
            anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/") as connection,
            a_queue(connection) as queue,
        ):
            async with connection.publisher() as publisher:
                for number in range(count):
                    await publisher.submit(Message(b"%d" % number), routing_key=queue)
                    if number % 2000 == 1000:
                        proxy.reset()
            async with connection.consumer(queue) as consumer:
                async for delivery in consumer:
                    got.append(int(delivery.body))
                    delivery.ack()
                    if got[-1] == count - 1:
                        break
            assert connection.stats.reconnects >= 2
    assert list(dict.fromkeys(got)) == list(range(count))


async def test_a_call_is_answered(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            a_queue(connection) as queue,
            connection.consumer(queue) as consumer,
            connection.publisher() as publisher,
            connection.rpc_client() as rpc,
            anyio.create_task_group() as tasks,
        ):

            async def answer(request: anyamqp.Delivery) -> Message:
                return Message(request.body.upper())

            tasks.start_soon(anyamqp.serve_rpc, consumer, publisher, answer)
            assert (await rpc.call(Message(b"hello"), routing_key=queue)).body == b"HELLO"
            await consumer.stop()


async def test_a_large_body_comes_back_whole(shared_node: Node) -> None:
    body = bytes(range(256)) * 4 * 15_000  # RabbitMQ 4 takes 16 MiB at most
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            a_queue(connection) as queue,
            connection.publisher() as publisher,
            connection.consumer(queue) as consumer,
        ):
            await publisher.publish(Message(body), routing_key=queue)
            async for delivery in consumer:
                assert delivery.body == body
                delivery.ack()
                break


async def test_cancelling_the_block_closes_the_connection_properly(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        connection = anyamqp.connect(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        with anyio.CancelScope() as scope:
            async with (
                connection,
                a_queue(connection) as queue,
                connection.consumer(queue) as consumer,
            ):
                scope.cancel()
                async for _ in consumer:
                    pass
        assert scope.cancelled_caught
        assert connection.state is anyamqp.State.CLOSED
        await eventually(lambda: proxy.live_connections == 0)
