"""Tests of a web service: on asyncio and trio, on the embedded broker or on RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest

from anyamqp import Connection, State
from anyamqp.testing import AnyBroker, Broker, eventually
from orders_service import lifespan, orders_service

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(amqp_connection: Connection) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with orders_service(amqp_connection) as service:
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def test_order_reaches_billing(client: httpx.AsyncClient, amqp_broker: AnyBroker) -> None:
    response = await client.post("/orders", json={"item": "tea"})
    assert response.status_code == 202
    order = amqp_broker.published(exchange="orders").one()
    assert (order.routing_key, order.properties.content_type) == ("order.new", "application/json")
    assert amqp_broker.queue("billing").bodies() == [order.body] == [b'{"item":"tea"}']


async def test_other_paths_publish_nothing(client: httpx.AsyncClient, amqp_broker: AnyBroker) -> None:
    assert (await client.post("/order", json={})).status_code == 404
    assert not amqp_broker.published()


@pytest.mark.amqp_embedded
async def test_order_is_refused_while_the_broker_is_blocked(
    client: httpx.AsyncClient, amqp_broker: Broker, amqp_connection: Connection
) -> None:
    assert (await client.post("/orders", json={})).status_code == 202
    amqp_broker.block()
    await eventually(lambda: amqp_connection.state is State.BLOCKED)
    assert (await client.post("/orders", json={})).status_code == 503
    amqp_broker.unblock()


@pytest.mark.amqp_embedded
async def test_order_survives_a_lost_connection(client: httpx.AsyncClient, amqp_broker: Broker) -> None:
    amqp_broker.faults.before("basic.publish").reset()
    assert (await client.post("/orders", json={})).status_code == 202
    assert amqp_broker.queue("billing").messages == 1


async def test_service_names_its_connection(amqp_broker: AnyBroker) -> None:
    async with lifespan(amqp_broker.url):
        assert amqp_broker.connection("orders service").state == "open"
