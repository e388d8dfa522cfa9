"""The smallest version of each fault that was found in the floors above the protocol."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

import holdfast
from holdfast import Message
from holdfast.testing import Broker
from support.stepping import cancel_at
from support.waiting import eventually

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


@pytest.mark.parametrize("body", ["text", bytearray(b"x"), None, 7])
def test_body_that_is_not_bytes_is_refused_where_it_is_made(body: object) -> None:
    """Found out when it is sent, it would cost the task that reads for everybody."""
    with pytest.raises(holdfast.InvalidArgument, match="instead of bytes"):
        Message(body)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_channels_that_are_closed_while_recovery_is_under_way_stay_closed() -> None:
    eager = holdfast.ReconnectPolicy(maximum=0.001)
    async with Broker() as broker, holdfast.connect(URL, dial=broker.dial, reconnect=eager) as connection:
        for turns in range(20):
            channels = [connection.channel() for _ in range(5)]
            for channel in channels:
                await channel.open()
            broker.reset_connections()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:
                for channel in channels:
                    tasks.start_soon(channel.close)
            await connection.wait_ready(10)
            assert {channel.state for channel in channels} == {holdfast.State.CLOSED}
        await eventually(lambda: broker.channel_count == connection.stats.open_channels == 0)
