"""The relay between the connections of a test and a RabbitMQ."""

from __future__ import annotations

import socket
import struct

import anyio
import anyio.abc
import pytest

from anyamqp.testing import Broker, eventually
from anyamqp.testing.remote import RemoteBroker

pytestmark = pytest.mark.anyio


async def test_end_of_a_client_reaches_the_broker(other_broker: Broker) -> None:
    async with RemoteBroker(other_broker.url) as broker:
        stream = await broker.dial()
        await eventually(lambda: len(broker.connections) == 1)
        await stream.aclose()
        await eventually(lambda: not broker.connections)


async def test_reset_of_a_client_reaches_the_broker(other_broker: Broker) -> None:
    async with RemoteBroker(other_broker.url) as broker:
        stream = await broker.dial()
        await eventually(lambda: len(broker.connections) == 1)
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await eventually(lambda: not broker.connections)
