"""Minimal reproductions of bugs found above ``protocol/``."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

import anyamqp
from anyamqp import Message
from anyamqp.net import link
from anyamqp.testing import Broker
from support.stepping import cancel_at
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


async def test_the_only_channel_there_may_be_comes_back_after_the_topology() -> None:
    """Recovery declares on a channel of its own, whose number must be free again before the user's is reopened."""
    async with (
        Broker(channel_max=1) as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
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
        anyamqp.connect(URL, dial=broker.dial) as connection,
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
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.publisher() as publisher:
            broker.close_channels(406, "PRECONDITION_FAILED - an operator's doing")
            assert (await publisher.publish(Message(b"after"), routing_key="q", timeout=5)).message_id


@pytest.mark.parametrize("body", ["text", bytearray(b"x"), None, 7])
def test_body_that_is_not_bytes_is_refused_where_it_is_made(body: object) -> None:
    """Found out when it is sent, it would cost the task that reads for everybody."""
    with pytest.raises(anyamqp.InvalidArgument, match="instead of bytes"):
        Message(body)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_channels_that_are_closed_while_recovery_is_under_way_stay_closed() -> None:
    eager = anyamqp.ReconnectPolicy(maximum=0.001)
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial, reconnect=eager) as connection:
        for turns in range(20):
            channels = [connection.channel() for _ in range(5)]
            for channel in channels:
                await channel.__aenter__()
            broker.reset_connections()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:
                for channel in channels:
                    tasks.start_soon(channel.close)
            await connection.wait_ready(10)
            assert {channel.state for channel in channels} == {anyamqp.State.CLOSED}
        await eventually(lambda: broker.channel_count == connection.stats.open_channels == 0)


async def test_consumer_that_waits_for_its_queue_ends_with_the_connection() -> None:
    """It has no channel at that time, which is how others hear of the end."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q", on_cancel="resubscribe") as consumer:
            await channel.delete_queue("q")
            await eventually(lambda: not consumer.is_consuming)
            await connection.close()
            with anyio.fail_after(5), pytest.raises(anyamqp.ConnectionClosed):
                await anext(consumer)


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
async def test_consumer_that_the_broker_has_ended_does_not_consume_again_after_a_loss(
    on_cancel: anyamqp.OnCancel,
) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        async with connection.consumer("q", on_cancel=on_cancel) as consumer:
            await channel.delete_queue("q")
            with contextlib.suppress(anyamqp.ConsumerCancelled):
                async for _ in consumer:
                    pass
            await channel.declare_queue("q")
            broker.reset_connections()
            await connection.wait_ready(10)
            await publisher.publish(Message(b"for somebody else"), routing_key="q")
            assert (broker.queues["q"].consumers, broker.queues["q"].unacked) == (0, 0)


async def test_request_that_a_blocked_broker_does_not_read_says_so_when_its_time_is_up() -> None:
    """RabbitMQ reads nothing at all from a connection that it has blocked."""
    settings = replace(anyamqp.Settings.from_urls(URL), request_timeout=0.3)
    async with (
        Broker() as broker,
        anyamqp.connect(settings, dial=broker.dial) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        broker.block()
        await publisher.publish(Message(b"the broker tells only who publishes"), routing_key="q")
        await eventually(lambda: connection.state is anyamqp.State.BLOCKED)
        with pytest.raises(anyamqp.RequestTimeout, match=r"queue\.declare: .* the connection: low on memory"):
            await channel.declare_queue("q")
        broker.unblock()
        await connection.wait_unblocked(5)


class Poisonous(anyio.abc.ByteStream):
    """A transport to a broker that closes the connection for a body, as RabbitMQ does for what it cannot read."""

    def __init__(self, stream: anyio.abc.ByteStream, broker: Broker) -> None:
        self._stream = stream
        self._broker = broker

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        if b"poison" in item:
            self._broker.close_connections(541, "INTERNAL_ERROR")
            return
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_publish_that_costs_every_link_is_found_and_the_others_go_on() -> None:
    """Found with RabbitMQ 3.10 and an infinite float in a header: sent again and again, it cost link after link."""

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        return Poisonous(await broker.dial(), broker)

    eager = anyamqp.ReconnectPolicy(initial=0.01, maximum=0.02)
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=dial, reconnect=eager) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        bodies = [b"1", b"2", b"poison", b"3", b"4"]
        publications = [await publisher.submit(Message(body), routing_key="q") for body in bodies]
        with anyio.fail_after(20), pytest.raises(anyamqp.InternalError):
            await publications[2]
        await publisher.flush()
        assert broker.queues["q"].bodies() == [b"1", b"2", b"3", b"4"]


async def test_the_end_of_a_link_is_told_before_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the process is: a publish between the end of the session and its news was refused as InvalidUse."""
    monkeypatch.setattr(link, "_TURN", -1.0)  # each event takes longer than a turn may
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, reconnect=anyamqp.ReconnectPolicy.constant(0.01)) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        for losses in range(10):
            broker.reset_connections()
            while connection.stats.reconnects == losses:
                await publisher.submit(Message(b"m"), routing_key="q")
                await anyio.lowlevel.checkpoint()
        await publisher.flush()
