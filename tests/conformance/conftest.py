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

_ONE_LOOP = tuple(f"asyncio-embedded {version}" for version in list(RULES)[:-1])
"""The embedded broker knows no event loop, so its older versions answer on one of them."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of older versions on a second event loop."""
    left_out = {item for item in items if any(one in item.name for one in _ONE_LOOP)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


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
