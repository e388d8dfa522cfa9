"""Tests of code that uses another AMQP client: pika."""

import anyio.to_thread
import pika  # type: ignore[import-untyped]
import pytest

from anyamqp.testing import AnyBroker


def send_order(url: str) -> None:
    """The code under test."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare("orders")
        channel.basic_publish("", "orders", b"tea")


def test_synchronous_code(amqp_broker_in_thread: AnyBroker) -> None:
    send_order(amqp_broker_in_thread.url)
    assert amqp_broker_in_thread.queue("orders").bodies() == [b"tea"]


@pytest.mark.anyio
async def test_synchronous_code_from_an_asynchronous_test(amqp_broker: AnyBroker) -> None:
    await anyio.to_thread.run_sync(send_order, amqp_broker.url)
    assert amqp_broker.queue("orders").bodies() == [b"tea"]
