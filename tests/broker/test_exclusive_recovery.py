"""What is exclusive comes back after a loss that the broker has not noticed yet.

A NAT entry that is dropped, a firewall that resets one side, a peer found dead a moment before the broker finds us
dead: the broker keeps the old connection, and with it the lock, for two to three heartbeat intervals.
"""

from __future__ import annotations

import anyio
import pytest

import anyamqp
from anyamqp import Connection, Consumer, Message, ReconnectPolicy
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.unnoticed import Lines
from support.waiting import eventually

pytestmark = pytest.mark.anyio

EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)


async def assert_goes_on(connection: Connection, consumer: Consumer) -> None:
    await connection.wait_ready(40)
    async with connection.publisher() as publisher:
        await publisher.publish(Message(b"after"), routing_key=consumer.queue, timeout=20)
    with anyio.fail_after(20):
        delivery = await anext(consumer)
    assert delivery.body == b"after"
    delivery.ack()


async def test_exclusive_consumer_comes_back_after_a_loss_that_the_broker_has_not_noticed(shared_node: Node) -> None:
    """403 ACCESS_REFUSED at first, queue in exclusive use; the broker lets us in two seconds later."""
    name, lines = unique("exclusive"), Lines()
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=1"
        async with (
            anyamqp.connect(url, dial=lines, reconnect=EAGER) as connection,
            connection.channel() as channel,
        ):
            await channel.declare_queue(name)
            try:
                async with connection.consumer(name, exclusive=True) as consumer:
                    await lines.lose(proxy, connection)
                    await assert_goes_on(connection, consumer)
            finally:
                await channel.delete_queue(name)


async def test_exclusive_queue_comes_back_after_a_loss_that_the_broker_has_not_noticed(shared_node: Node) -> None:
    """405 RESOURCE_LOCKED at first; the broker keeps the lock for two to three heartbeat intervals, 8 to 12 s here."""
    lines = Lines()
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=4"
        async with (
            anyamqp.connect(url, dial=lines, reconnect=EAGER) as connection,
            connection.channel() as channel,
        ):
            queue = await channel.declare_queue(unique("exclusive"), durable=False, exclusive=True)
            async with connection.consumer(queue) as consumer:
                await lines.lose(proxy, connection)
                await assert_goes_on(connection, consumer)


async def test_auto_delete_exchange_of_an_exclusive_queue_comes_back_after_an_unnoticed_loss(shared_node: Node) -> None:
    """The exchange still exists when it is declared again, and the broker deletes it with the old link's queue."""
    name, lines = unique("exclusive"), Lines()
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=4"
        async with (
            anyamqp.connect(url, dial=lines, reconnect=EAGER) as connection,
            connection.channel() as channel,
            connection.publisher(exchange=f"{name}-x") as publisher,
        ):
            await channel.declare_exchange(f"{name}-x", "fanout", auto_delete=True)
            queue = await channel.declare_queue(name, durable=False, exclusive=True)
            await channel.bind_queue(queue, f"{name}-x")
            async with connection.consumer(queue) as consumer:
                await lines.lose(proxy, connection)
                await connection.wait_ready(40)
                await publisher.publish(Message(b"by way of the binding"), timeout=20)
                with anyio.fail_after(20):
                    assert (await anext(consumer)).body == b"by way of the binding"
                await channel.set_qos(1)


async def test_consumer_that_began_under_a_second_name_follows_the_queue_to_its_third(shared_node: Node) -> None:
    """The consumer was made when the queue already had its second name."""
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with anyamqp.connect(url, reconnect=EAGER) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(durable=False, exclusive=True)
            proxy.reset()
            await eventually(lambda: connection.stats.reconnects == 1)
            async with connection.consumer(queue) as consumer:
                proxy.reset()
                await eventually(lambda: connection.stats.reconnects == 2)
                assert consumer.queue == queue.name
                await assert_goes_on(connection, consumer)
