"""One suite, two brokers: each test runs on the embedded broker, as every version, and on RabbitMQ.

The RabbitMQ is the machine's, or the one of ``RABBITMQ_SCRIPTS``. Where versions differ, a test asks ``target.rules``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from anyamqp.testing import Broker
from anyamqp.testing.embedded.versions import RULES
from support.administration import Administrator, EmbeddedCommands, NodeCommands
from support.conformance import Target
from support.rabbitmq import Node


@pytest.fixture(params=[*RULES, "rabbitmq"], ids=[*(f"embedded {version}" for version in RULES), "rabbitmq"])
async def target(request: pytest.FixtureRequest) -> AsyncGenerator[Target, None]:
    """The broker under test."""
    if request.param == "rabbitmq":
        node: Node = request.getfixturevalue("shared_node")

        async def dial(_: object) -> anyio.abc.ByteStream:
            return await anyio.connect_tcp(node.host, node.port)

        yield Target(node.url, dial, node.rules, Administrator(NodeCommands(node)), is_embedded=False)
    else:
        async with Broker(version=request.param) as broker:
            administrator = Administrator(EmbeddedCommands(broker))
            url, rules = "amqp://guest:guest@memory/", RULES[request.param]
            yield Target(url, broker.dial, rules, administrator, is_embedded=True)
