"""The plugin for pytest on a RabbitMQ: ``--amqp-url``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.rabbitmq import Node

pytest_plugins = ("pytester",)

EXAMPLES = Path(__file__).parents[2] / "examples" / "testing"
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:anyamqp", "-p", "anyamqp.testing.plugin")

SOURCE = """
import anyio
import pytest
from anyamqp import Message
from anyamqp.testing import eventually

@pytest.mark.anyio
async def test_it(amqp_broker, amqp_connection):
    async with amqp_connection.channel() as channel, amqp_connection.publisher() as publisher:
        await channel.declare_exchange("of the plugin", "fanout")
        await channel.declare_queue("of the plugin", message_ttl=60)
        await channel.declare_queue("own", exclusive=True)
        generated = await channel.declare_queue()
        await channel.bind_queue("of the plugin", exchange="of the plugin")
        for body in (b"1", b"2" * 200_000):
            await publisher.publish(Message(body), exchange="of the plugin")
        queue = amqp_broker.queue("of the plugin")
        assert (queue.messages, queue.consumers) == (2, 0)
        assert [len(body) for body in queue.bodies()] == [1, 200_000]
        assert [len(body) for body in amqp_broker.published(exchange="of the plugin").bodies] == [1, 200_000]
        async with amqp_connection.consumer("of the plugin", prefetch=1) as consumer:
            assert queue.consumers == 1
            async for delivery in consumer:
                delivery.ack()
                break
        with pytest.raises(LookupError, match="no queue 'nowhere' in "):
            amqp_broker.queue("nowhere")
        await eventually(lambda: amqp_broker.connection("test").channels == (1, 2))
    await amqp_connection.close()
    await eventually(lambda: not amqp_broker.connections)
"""


def test_same_test_passes_on_rabbitmq_and_leaves_nothing_there(pytester: pytest.Pytester, shared_node: Node) -> None:
    pytester.makepyfile(SOURCE)
    pytester.runpytest_inprocess(*PLUGINS).assert_outcomes(passed=2)
    before = shared_node.ctl("list_queues", "name")
    pytester.runpytest_inprocess(*PLUGINS, f"--amqp-url={shared_node.url}").assert_outcomes(passed=2)
    assert shared_node.ctl("list_queues", "name") == before
    assert "of the plugin" not in shared_node.ctl("list_exchanges", "name")


def test_worked_examples_pass_on_rabbitmq(pytester: pytest.Pytester, shared_node: Node) -> None:
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, pytester.path)
    result = pytester.runpytest_inprocess(*PLUGINS, f"--amqp-url={shared_node.url}")
    result.assert_outcomes(passed=15, skipped=10)
