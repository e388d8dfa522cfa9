"""Tests of remote calls: client and server on one broker, on asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

import anyamqp
from anyamqp import Connection, RemoteError
from anyamqp.testing import AnyBroker, Broker, eventually
from prices import QUEUE, PriceClient, PriceServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(amqp_broker: AnyBroker, amqp_connection: Connection) -> AsyncGenerator[PriceClient, None]:
    """A client whose server has a connection of its own."""
    server = PriceServer({"tea": 250})
    async with (
        anyamqp.connect(amqp_broker.url, dial=amqp_broker.dial, name="server") as connection,
        anyio.create_task_group() as tasks,
        amqp_connection.rpc_client() as rpc,
    ):
        tasks.start_soon(server.serve, connection)
        await eventually(lambda: amqp_broker.queue(QUEUE).consumers == 1)
        yield PriceClient(rpc)
        tasks.cancel_scope.cancel()


async def test_price_is_answered(client: PriceClient, amqp_broker: AnyBroker) -> None:
    assert await client.price("tea") == 250
    assert amqp_broker.published(routing_key=QUEUE).one().body == b"tea"


async def test_error_of_the_server_reaches_the_client(client: PriceClient) -> None:
    with pytest.raises(RemoteError, match="coffee"):
        await client.price("coffee")
    assert await client.price("tea") == 250


@pytest.mark.amqp_embedded
async def test_call_survives_the_loss_of_both_connections(client: PriceClient, amqp_broker: Broker) -> None:
    assert await client.price("tea") == 250
    amqp_broker.reset_connections()
    await eventually(lambda: len(amqp_broker.connections) == 2)
    await eventually(lambda: amqp_broker.queue(QUEUE).consumers == 1)
    assert await client.price("tea") == 250
