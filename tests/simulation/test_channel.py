"""Single messages on a user's channel: get, requeue, and publish without a confirm."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

import anyamqp
from anyamqp import Channel, ChannelClosed, Connection, InvalidArgument, InvalidUse, Message, RequestTimeout, Settings
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"


@asynccontextmanager
async def a_channel(settings: Settings | None = None) -> AsyncGenerator[tuple[Broker, Connection, Channel], None]:
    """A broker, a connection to it and a channel of that; the broker has a queue ``q``."""
    async with (
        Broker() as broker,
        anyamqp.connect(settings or URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        await channel.declare_queue("q")
        yield broker, connection, channel


async def test_recover_gives_back_what_was_fetched() -> None:
    async with a_channel() as (broker, _, channel):
        for body in (b"one", b"two"):
            await channel.publish(Message(body), routing_key="q")
        fetched = [await channel.get("q"), await channel.get("q")]
        assert broker.queues["q"].unacked == 2
        await channel.recover()
        assert (broker.queues["q"].unacked, broker.queues["q"].bodies()) == (0, [b"one", b"two"])
        assert [delivery and delivery.is_settled for delivery in fetched] == [True, True]
        again = await channel.get("q")
        assert again is not None
        assert not again.is_settled


async def test_a_publish_without_a_confirm_arrives() -> None:
    async with a_channel() as (broker, _, channel):
        await channel.publish(Message(b"one"), routing_key="q")
        await eventually(lambda: broker.queues["q"].bodies() == [b"one"])


async def test_a_publish_without_a_confirm_waits_for_the_link() -> None:
    async with a_channel() as (broker, connection, channel), anyio.create_task_group() as tasks:
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is anyamqp.State.RECONNECTING)
        tasks.start_soon(lambda: channel.publish(Message(b"later"), routing_key="q"))
        await anyio.wait_all_tasks_blocked()
        broker.accept()
        await eventually(lambda: broker.queues["q"].bodies() == [b"later"])


async def test_a_publish_without_a_confirm_gives_up_after_the_request_timeout() -> None:
    settings = replace(Settings.from_urls(URL), request_timeout=0.05)
    async with a_channel(settings) as (broker, connection, channel):
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is anyamqp.State.RECONNECTING)
        with pytest.raises(RequestTimeout, match=r"basic\.publish"):
            await channel.publish(Message(b"never"), routing_key="q")


async def test_a_message_that_amqp_cannot_carry_leaves_the_channel_as_it_was() -> None:
    async with a_channel() as (broker, _, channel):
        with pytest.raises(InvalidArgument):
            await channel.publish(Message(b"x"), routing_key="x" * 256)
        with pytest.raises(InvalidArgument):
            await channel.publish(Message(b"x", headers={"large": bytes(200_000)}), routing_key="q")
        await channel.publish(Message(b"fine"), routing_key="q")
        await eventually(lambda: broker.queues["q"].bodies() == [b"fine"])


async def test_a_message_above_the_largest_size_is_refused() -> None:
    async with a_channel(replace(Settings.from_urls(URL), max_message_size=10)) as (broker, _, channel):
        with pytest.raises(InvalidArgument, match="max_message_size"):
            await channel.publish(Message(bytes(11)), routing_key="q")
        await channel.publish(Message(bytes(10)), routing_key="q")
        await eventually(lambda: broker.queues["q"].bodies() == [bytes(10)])


async def test_exchanges_and_bindings_come_and_go() -> None:
    async with a_channel() as (broker, _, channel):
        await channel.declare_exchange("from", "fanout")
        await channel.declare_exchange("to", "fanout")
        await channel.bind_exchange("to", "from")
        await channel.bind_queue("q", "to")
        await channel.publish(Message(b"bound"), exchange="from")
        await channel.unbind_exchange("to", "from")
        await channel.publish(Message(b"unbound"), exchange="from")
        await channel.unbind_queue("q", "to")
        await channel.publish(Message(b"unbound as well"), exchange="to")
        await channel.delete_exchange("to")
        with pytest.raises(anyamqp.NotFound):
            await channel.declare_exchange("to", passive=True)
        assert broker.queues["q"].bodies() == [b"bound"]


async def test_an_alternate_exchange_is_given_once() -> None:
    async with a_channel() as (_, _, channel):
        with pytest.raises(InvalidArgument, match="alternate_exchange"):
            await channel.declare_exchange("x", alternate_exchange="a", arguments={"alternate-exchange": "b"})


OUTSIDE: list[Callable[[Channel], Awaitable[object]]] = [
    lambda channel: channel.declare_queue("q"),
    lambda channel: channel.get("q"),
    lambda channel: channel.set_qos(1),
    lambda channel: channel.recover(),
    lambda channel: channel.publish(Message(b"x"), routing_key="q"),
    Channel.close,
]


@pytest.mark.parametrize("call", OUTSIDE)
async def test_a_channel_works_inside_its_block(call: Callable[[Channel], Awaitable[object]]) -> None:
    async with a_channel() as (_, connection, _):
        with anyio.fail_after(1), pytest.raises(InvalidUse, match=r"inside its block: async with connection\.channel"):
            await call(connection.channel())


async def test_a_channel_is_entered_once_and_stays_open() -> None:
    async with a_channel() as (_, _, channel):
        with pytest.raises(InvalidUse, match=r"a channel is entered once; make a new one with connection\.channel\(\)"):
            async with channel:
                pytest.fail("entered twice")
        await channel.declare_queue("other")


async def test_number_of_a_channel_that_the_client_closed_for_its_input_is_free_once_the_broker_confirms() -> None:
    settings = replace(Settings.from_urls(URL), max_message_size=10)
    async with Broker(channel_max=1) as broker:
        async with anyamqp.connect(URL, dial=broker.dial) as other, other.channel() as channel:
            await channel.declare_queue("q")
            await channel.publish(Message(bytes(11)), routing_key="q")
        async with anyamqp.connect(settings, dial=broker.dial) as connection:
            broker.faults.before("channel.close-ok").delay(0.1, seconds=1)
            async with connection.channel() as channel:
                with pytest.raises(ChannelClosed, match="max_message_size is 10"):
                    await channel.get("q")
            with anyio.fail_after(5):
                async with connection.channel(wait=30):
                    assert connection.stats.open_channels == 1
