"""The first test of the guide."""

import pytest

from anyamqp import Connection, Message
from anyamqp.testing import AnyBroker


@pytest.mark.anyio
async def test_order_is_queued(amqp_broker: AnyBroker, amqp_connection: Connection) -> None:
    async with amqp_connection.channel() as channel:
        await channel.declare_queue("orders")
    async with amqp_connection.publisher() as publisher:
        await publisher.publish(Message(b"tea"), routing_key="orders")

    assert amqp_broker.queue("orders").bodies() == [b"tea"]
    assert amqp_broker.published(routing_key="orders").one().body == b"tea"
