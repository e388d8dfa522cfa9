"""Known problems of other clients, on RabbitMQ. Each test names the issue threads.

docs/pains.md has the whole list; here are those that no other test holds.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sized
from functools import partial

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import ConnectionClosed, ConnectionEvent, Delivery, Message, ReconnectPolicy, State
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)

Loss = Callable[[Node, FaultProxy], Awaitable[None]]


def through(proxy: FaultProxy, query: str = "") -> str:
    return f"amqp://guest:guest@{proxy.host}:{proxy.port}/{query}"


def consumers_of(node: Node, queue: str) -> list[str]:
    """The tags of a queue's consumers, as the broker sees them."""
    rows = json.loads(node.ctl("--formatter", "json", "list_consumers"))
    return [row["consumer_tag"] for row in rows if row["queue_name"] == queue]


def came_back(connection: anyamqp.Connection, reconnects: int) -> bool:
    return connection.stats.reconnects > reconnects and connection.state is State.OPEN


def len_exceeds(things: Sized, count: int) -> bool:
    return len(things) > count


async def end_of_stream(_: Node, proxy: FaultProxy) -> None:
    proxy.finish()


async def reset(_: Node, proxy: FaultProxy) -> None:
    proxy.reset()


async def silence(_: Node, proxy: FaultProxy) -> None:
    proxy.strand()


async def close_by_an_operator(node: Node, _: FaultProxy) -> None:
    await anyio.to_thread.run_sync(node.close_all_connections)


@pytest.mark.parametrize("loss", [end_of_stream, reset, silence, close_by_an_operator], ids=lambda loss: loss.__name__)
async def test_every_kind_of_loss_leads_to_the_same_recovered_state(shared_node: Node, loss: Loss) -> None:
    """aio-pika 563 and 577, aiormq 165: the connection is back, its channels are not."""
    queue = unique("same")
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with (
            anyamqp.connect(through(proxy, "?heartbeat=1"), reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(queue, exclusive=True)
            async with connection.consumer(queue, consumer_tag="the one") as consumer:
                before = connection.stats
                await loss(shared_node, proxy)
                await eventually(lambda: connection.stats.reconnects == 1 and connection.state is State.OPEN, within=30)
                await connection.wait_ready()  # a silent link's exclusive queue is locked for a while
                after = connection.stats
                assert (after.link_number, after.open_channels) == (before.link_number + 1, before.open_channels)
                assert channel.state is State.OPEN
                receipt = await publisher.publish(Message(b"on"), routing_key=queue)
                assert receipt.attempts == 1
                async for delivery in consumer:
                    assert delivery.body == b"on"
                    delivery.ack()
                    break
                assert await anyio.to_thread.run_sync(consumers_of, shared_node, queue) == ["the one"]


async def test_open_is_shown_only_when_every_consumer_is_back(shared_node: Node) -> None:
    """aio-pika 231, 626 and 536: consumers are gone after a restart, and queues that nobody holds are forgotten."""
    queues = [unique("kept") for _ in range(20)]
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with anyamqp.connect(through(proxy), reconnect=EAGER) as connection, anyio.create_task_group() as tasks:
            async with connection.channel() as channel:
                for queue in queues:
                    await channel.declare_queue(queue, exclusive=True)
            gc.collect()
            consuming: list[list[bool]] = []

            def look() -> None:
                consuming.append([consumer.is_consuming for consumer in consumers])

            async def consume(queue: str, *, task_status: anyio.abc.TaskStatus[anyamqp.Consumer]) -> None:
                async with connection.consumer(queue) as consumer:
                    task_status.started(consumer)
                    await anyio.sleep_forever()

            consumers = [await tasks.start(consume, queue) for queue in queues]

            async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
                transitions = connection.transitions()
                task_status.started()
                async for transition in transitions:
                    if transition.event is ConnectionEvent.OPENED:
                        look()

            await tasks.start(watch)
            for seen in range(5):
                proxy.reset()
                await eventually(partial(len_exceeds, consuming, seen), within=30)
            assert all(all(each) for each in consuming)
            tasks.cancel_scope.cancel()


async def test_losses_in_the_middle_of_recovery_make_no_second_consumer(shared_node: Node) -> None:
    """aio-pika 449: a channel is restored twice, and its consumer's tag is taken."""
    queue = unique("once")
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with anyamqp.connect(through(proxy), reconnect=EAGER) as connection, connection.channel() as channel:
            await channel.declare_queue(queue, exclusive=True)
            async with connection.consumer(queue, consumer_tag="only") as consumer:
                # Each of these ends the next link somewhere between the protocol header and consume-ok.
                for size in range(200, 900, 50):
                    reconnects = connection.stats.reconnects
                    proxy.reset()
                    proxy.cut_after(size)
                    await eventually(partial(came_back, connection, reconnects), within=30)
                assert consumer.is_consuming
                assert await anyio.to_thread.run_sync(consumers_of, shared_node, queue) == ["only"]


async def test_close_may_come_from_within_an_iteration(shared_node: Node) -> None:
    """amqplib 845, java 46, dotnet 1382: closing from a handler waits for the handler, for ever."""
    queue = unique("q")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            await channel.declare_queue(queue, exclusive=True)
            async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
                await publisher.publish(Message(b"stop"), routing_key=queue)

                async def consume() -> None:
                    async for delivery in consumer:
                        delivery.ack()
                        await connection.close()

                with pytest.raises(ConnectionClosed):
                    await consume()
            assert connection.state is State.CLOSED


async def test_close_may_come_from_a_handler(shared_node: Node) -> None:
    """amqplib 845, java 46, dotnet 1382, with handlers that run beside each other."""
    queue = unique("q")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            await channel.declare_queue(queue, exclusive=True)
            async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
                await publisher.publish(Message(b"stop"), routing_key=queue)

                async def stop(delivery: Delivery) -> None:
                    delivery.ack()
                    await connection.close()

                with pytest.raises(ConnectionClosed):
                    await consumer.process(stop, concurrency=4)


async def test_a_slow_handler_keeps_no_heartbeat_back(shared_node: Node) -> None:
    """pika 93, 1104 and 1309: the broker gives up a client whose handler takes longer than two heartbeats."""
    queue = unique("q")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, heartbeat=1) as connection, connection.channel() as channel:
            await channel.declare_queue(queue, exclusive=True)
            async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
                await publisher.publish(Message(b"slow"), routing_key=queue)
                async for delivery in consumer:
                    async with delivery:
                        await anyio.sleep(4)  # the handler's own work, not a wait for something
                    break
            assert (connection.stats.link_number, connection.stats.last_error) == (1, None)


async def test_an_event_loop_that_stands_still_is_named_in_the_log(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """pika 93, 1104 and 1309, where the handler blocks the whole loop: nobody says whose fault the loss is."""
    caplog.set_level(logging.WARNING)
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, heartbeat=1) as connection:
            time.sleep(1.2)  # noqa: ASYNC251 - this is what the test is about
            await eventually(lambda: connection.stats.stalls == 1)
            assert connection.stats.link_number == 1
    assert "the event loop was blocked for" in caplog.text
