"""The smallest version of each fault that was found in the floors above the protocol."""

from __future__ import annotations

import pytest

import holdfast
from holdfast import Message
from holdfast.testing import Broker
from support.stepping import cancel_at

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


async def test_the_only_channel_there_may_be_comes_back_after_the_topology() -> None:
    """Recovery declares on a channel of its own, whose number must be free again before the user's is reopened."""
    async with (
        Broker(channel_max=1) as broker,
        holdfast.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        queue = await channel.declare_queue("q")
        broker.reset_connections()
        await connection.wait_ready(10)
        assert (await channel.get(queue)) is None
        assert connection.stats.open_channels == 1


async def test_an_innocent_publish_is_not_blamed_for_one_whose_caller_was_cancelled() -> None:
    async with (
        Broker() as broker,
        holdfast.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.publisher() as publisher:
            broker.freeze()
            assert await cancel_at(1, lambda: publisher.publish(Message(b"guilty"), exchange="missing"))
            innocent = await publisher.submit(Message(b"innocent"), routing_key="q")
            broker.thaw()
            assert (await innocent).attempts == 2


async def test_publisher_goes_on_when_its_channel_is_closed_while_it_is_idle() -> None:
    async with (
        Broker() as broker,
        holdfast.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.publisher() as publisher:
            broker.close_channels(406, "PRECONDITION_FAILED - an operator's doing")
            assert (await publisher.publish(Message(b"after"), routing_key="q", timeout=5)).message_id
