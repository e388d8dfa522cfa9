"""Channels, queues, exchanges and bindings on a real broker, and the refusals that it answers with."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Channel, Connection, Message, State
from support.queues import depth, unique, until_depth
from support.rabbitmq import BrokerConnection, Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


@asynccontextmanager
async def a_channel(node: Node) -> AsyncGenerator[Channel, None]:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url) as connection, connection.channel() as channel:
            yield channel


@asynccontextmanager
async def a_queue(channel: Channel) -> AsyncGenerator[str, None]:
    name = unique("queue")
    await channel.declare_queue(name)
    try:
        yield name
    finally:
        await channel.delete_queue(name)


@asynccontextmanager
async def an_exchange(channel: Channel, kind: str) -> AsyncGenerator[str, None]:
    name = unique("exchange")
    await channel.declare_exchange(name, kind)
    try:
        yield name
    finally:
        await channel.delete_exchange(name)


async def as_the_broker_sees_it(node: Node, name: str) -> BrokerConnection:
    """The one connection of this name."""
    (mine,) = [c for c in await anyio.to_thread.run_sync(node.connections) if c.connection_name == name]
    return mine


# --- queues -----------------------------------------------------------------------------------------------------------


async def test_a_queue_is_declared_purged_and_deleted(shared_node: Node) -> None:
    async with (
        anyamqp.connect(shared_node.url) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        with anyio.fail_after(LIMIT):
            name = unique("queue")
            queue = await channel.declare_queue(name)
            assert (queue.name, queue.message_count, queue.consumer_count) == (name, 0, 0)
            for n in range(3):
                await publisher.publish(Message(b"%d" % n), routing_key=name)
            async with connection.consumer(queue, prefetch=1):
                again = await channel.declare_queue(name)
                assert again.consumer_count == 1
            await until_depth(channel, name, 3)
            assert await channel.purge_queue(queue) == 3
            assert await depth(channel, name) == 0
            await publisher.publish(Message(b"last"), routing_key=name)
            assert await channel.delete_queue(queue) == 1
            assert await channel.delete_queue(name) == 0
            with pytest.raises(anyamqp.NotFound):
                await channel.purge_queue(name)


async def test_the_broker_names_a_queue(shared_node: Node) -> None:
    async with a_channel(shared_node) as channel:
        queue = await channel.declare_queue(exclusive=True)
        assert queue.name.startswith("amq.gen-")
        assert await depth(channel, queue.name) == 0


async def test_a_queue_in_use_or_not_empty_is_not_deleted_on_condition(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as steady,
            connection.publisher() as publisher,
            a_queue(steady) as queue,
        ):
            await publisher.publish(Message(b"one"), routing_key=queue)
            async with connection.channel() as channel:
                with pytest.raises(anyamqp.PreconditionFailed):
                    await channel.delete_queue(queue, if_empty=True)
            async with connection.consumer(queue), connection.channel() as channel:
                with pytest.raises(anyamqp.PreconditionFailed):
                    await channel.delete_queue(queue, if_unused=True)
            assert (await steady.declare_queue(queue)).name == queue


async def test_different_arguments_are_a_failed_precondition_and_close_only_that_channel(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as steady:
            async with a_queue(steady) as queue, connection.channel() as channel:
                with pytest.raises(anyamqp.PreconditionFailed, match="x-message-ttl") as caught:
                    await channel.declare_queue(queue, arguments={"x-message-ttl": 1000})
                assert (caught.value.code, caught.value.method) == (406, "queue.declare")
                assert channel.state is State.CLOSED
                assert steady.state is State.OPEN
            assert (connection.state, connection.stats.link_number) == (State.OPEN, 1)


async def test_another_connections_exclusive_queue_is_locked(shared_node: Node) -> None:
    async with a_channel(shared_node) as mine, a_channel(shared_node) as theirs:
        queue = await mine.declare_queue(exclusive=True)
        with pytest.raises(anyamqp.ResourceLocked):
            await theirs.declare_queue(queue.name, passive=True)


async def test_a_missing_queue_is_not_found_and_the_channel_says_so_from_then_on(shared_node: Node) -> None:
    async with a_channel(shared_node) as channel:
        missing = unique("queue")
        with pytest.raises(anyamqp.NotFound, match=missing):
            await channel.declare_queue(missing, passive=True)
        with pytest.raises(anyamqp.ChannelClosed) as caught:
            await channel.declare_queue(unique("queue"))
        assert isinstance(caught.value.__cause__, anyamqp.NotFound)


async def test_an_auto_delete_queue_goes_with_its_last_consumer(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(unique("queue"), auto_delete=True)
            async with connection.consumer(queue):
                pass
            with pytest.raises(anyamqp.NotFound):
                await depth(channel, queue.name)


# --- exchanges and bindings -------------------------------------------------------------------------------------------


async def test_an_exchange_is_declared_checked_and_deleted(shared_node: Node) -> None:
    async with a_channel(shared_node) as channel:
        name = unique("exchange")
        await channel.declare_exchange(name, "topic", durable=False)
        await channel.declare_exchange(name, passive=True)
        await channel.delete_exchange(name)
        with pytest.raises(anyamqp.NotFound, match=name):
            await channel.declare_exchange(name, passive=True)


async def test_another_exchange_type_is_a_failed_precondition(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as steady,
            an_exchange(steady, "topic") as name,
            connection.channel() as channel,
        ):
            with pytest.raises(anyamqp.PreconditionFailed, match="type"):
                await channel.declare_exchange(name, "fanout")


async def test_a_bound_queue_gets_messages_and_an_unbound_one_does_not(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
            an_exchange(channel, "topic") as exchange,
            a_queue(channel) as queue,
        ):
            await channel.bind_queue(queue, exchange, "trade.*")
            await publisher.publish(Message(b"bound"), exchange=exchange, routing_key="trade.btc")
            delivery = await channel.get(queue, no_ack=True)
            assert delivery is not None
            assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"bound", exchange, "trade.btc")
            await channel.unbind_queue(queue, exchange, "trade.*")
            await channel.unbind_queue(queue, exchange, "trade.*")
            with pytest.raises(anyamqp.Unroutable):
                await publisher.publish(Message(b"unbound"), exchange=exchange, routing_key="trade.btc")


async def test_a_binding_routes_by_its_arguments(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
            an_exchange(channel, "headers") as exchange,
            a_queue(channel) as queue,
        ):
            arguments: anyamqp.FieldTable = {"x-match": "all", "symbol": "btc", "depth": 5}
            await channel.bind_queue(queue, exchange, arguments=arguments)
            await publisher.publish(Message(b"in", headers={"symbol": "btc", "depth": 5}), exchange=exchange)
            with pytest.raises(anyamqp.Unroutable):
                await publisher.publish(Message(b"out", headers={"symbol": "btc", "depth": 6}), exchange=exchange)
            await channel.unbind_queue(queue, exchange, arguments=arguments)
            with pytest.raises(anyamqp.Unroutable):
                await publisher.publish(Message(b"in", headers={"symbol": "btc", "depth": 5}), exchange=exchange)


async def test_exchanges_are_bound_to_each_other(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
            an_exchange(channel, "topic") as source,
            an_exchange(channel, "fanout") as destination,
            a_queue(channel) as queue,
        ):
            await channel.bind_exchange(destination, source, "trade.#")
            await channel.bind_queue(queue, destination)
            await publisher.publish(Message(b"through both"), exchange=source, routing_key="trade.btc.eur")
            assert await depth(channel, queue) == 1
            await channel.unbind_exchange(destination, source, "trade.#")
            with pytest.raises(anyamqp.Unroutable):
                await publisher.publish(Message(b"through none"), exchange=source, routing_key="trade.btc.eur")


async def test_a_used_exchange_is_not_deleted_on_condition(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as steady,
            an_exchange(steady, "fanout") as exchange,
            a_queue(steady) as queue,
            connection.channel() as channel,
        ):
            await steady.bind_queue(queue, exchange)
            with pytest.raises(anyamqp.PreconditionFailed):
                await channel.delete_exchange(exchange, if_unused=True)


async def test_binding_to_a_missing_exchange_is_not_found(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        missing = unique("exchange")
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as steady,
            a_queue(steady) as queue,
            connection.channel() as channel,
        ):
            with pytest.raises(anyamqp.NotFound, match=missing):
                await channel.bind_queue(queue, missing, "key")


# --- get --------------------------------------------------------------------------------------------------------------


async def test_get_fetches_one_message_or_none(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(shared_node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
            a_queue(channel) as queue,
        ):
            assert await channel.get(queue) is None
            for body in (b"first", b"second"):
                await publisher.publish(Message(body), routing_key=queue)
            first = await channel.get(queue)
            assert first is not None
            assert (first.body, first.message_count, first.redelivered) == (b"first", 1, False)
            assert (first.exchange, first.routing_key, first.consumer_tag) == ("", queue, None)
            first.nack()
            again = await channel.get(queue)
            assert again is not None
            assert (again.body, again.redelivered, again.message_id) == (b"first", True, first.message_id)
            again.ack()
            second = await channel.get(queue, no_ack=True)
            assert second is not None
            assert second.is_settled
            assert await channel.get(queue) is None
            assert await depth(channel, queue) == 0


async def test_get_from_a_missing_queue_is_not_found(shared_node: Node) -> None:
    async with a_channel(shared_node) as channel:
        with pytest.raises(anyamqp.NotFound):
            await channel.get(unique("queue"))


# --- logging in -------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused_at_once_and_shown_nowhere(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = unique("hunter2")
    connection = anyamqp.connect(shared_node.url, credentials=anyamqp.Credentials("guest", password))
    with anyio.fail_after(LIMIT), pytest.raises(anyamqp.LoginRefused) as caught:
        async with connection:
            pytest.fail("logged in")
    assert (connection.stats.dials, connection.state) == (1, State.CLOSED)
    assert password not in f"{caught.value!s} {caught.value!r} {connection!r} {caplog.text}"
    assert caught.value.code == 403
    assert "Login was refused" in str(caught.value)


async def test_an_unknown_virtual_host_is_refused_at_once(shared_node: Node) -> None:
    connection = anyamqp.connect(shared_node.url + "no-such-vhost")
    with anyio.fail_after(LIMIT), pytest.raises(anyamqp.NotAllowed, match="no-such-vhost"):
        async with connection:
            pytest.fail("logged in")
    assert (connection.stats.dials, connection.state) == (1, State.CLOSED)


async def test_the_broker_sees_heartbeat_name_and_product(shared_node: Node) -> None:
    name = unique("connection")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, heartbeat=7, name=name) as connection:
            seen = await as_the_broker_sees_it(shared_node, name)
            assert (seen.heartbeat, seen.state, seen.channels) == (7, "running", 0)
            assert seen.client_properties["product"] == "anyamqp"
            assert connection.tuning is not None
            assert connection.tuning.heartbeat == 7
            assert connection.server_properties["product"] == "RabbitMQ"


async def test_the_default_heartbeat_is_60_seconds(shared_node: Node) -> None:
    name = unique("connection")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, name=name):
            assert (await as_the_broker_sees_it(shared_node, name)).heartbeat == 60


# --- how many channels ------------------------------------------------------------------------------------------------


async def test_the_channel_limit_is_honoured_and_numbers_are_given_back(shared_node: Node) -> None:
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(f"{shared_node.url}?channel_max=4") as connection, AsyncExitStack() as opened:
            assert connection.tuning is not None
            assert connection.tuning.channel_max == 4
            channels = [await opened.enter_async_context(connection.channel()) for _ in range(4)]
            with pytest.raises(anyamqp.ChannelLimitReached):
                await opened.enter_async_context(connection.channel())
            with pytest.raises(anyamqp.ChannelLimitReached):
                await opened.enter_async_context(connection.publisher())
            await channels[1].close()
            async with connection.channel() as fifth:
                await fifth.set_qos(1)
                assert connection.stats.open_channels == 4
            # A channel that the broker closed gives its number back as well.
            with pytest.raises(anyamqp.NotFound):
                await channels[2].declare_queue(unique("queue"), passive=True)
            for _ in range(2):
                await opened.enter_async_context(connection.channel())
            with pytest.raises(anyamqp.ChannelLimitReached):
                await opened.enter_async_context(connection.channel())
            assert (connection.state, connection.stats.link_number) == (State.OPEN, 1)


async def test_the_brokers_own_channel_limit_is_honoured(shared_node: Node) -> None:
    await anyio.to_thread.run_sync(shared_node.eval, "application:set_env(rabbit, channel_max, 3)")
    try:
        with anyio.fail_after(LIMIT):
            async with anyamqp.connect(shared_node.url) as connection, AsyncExitStack() as opened:
                for _ in range(3):
                    await opened.enter_async_context(connection.channel())
                with pytest.raises(anyamqp.ChannelLimitReached):
                    await opened.enter_async_context(connection.channel())
                assert (connection.state, connection.stats.link_number) == (State.OPEN, 1)
    finally:
        await anyio.to_thread.run_sync(shared_node.eval, "application:set_env(rabbit, channel_max, 2047)")


async def test_thousands_of_channels_opened_and_closed_leave_none(shared_node: Node) -> None:
    """Invariant 6: the broker's channel count equals the client's."""
    name = unique("connection")
    with anyio.fail_after(60):
        async with anyamqp.connect(shared_node.url, name=name) as connection, connection.channel():

            async def cycle() -> None:
                for _ in range(80):
                    async with connection.channel():
                        pass

            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(cycle)
            await eventually(lambda: connection.stats.open_channels == 1)
            assert (await as_the_broker_sees_it(shared_node, name)).channels == 1
            assert connection.stats.link_number == 1


async def test_a_pool_lends_the_same_channels_again_and_closes_them(shared_node: Node) -> None:
    name = unique("connection")

    async def use(connection: Connection, pool: anyamqp.ChannelPool, lent: set[Channel]) -> None:
        async with pool.channel() as channel:
            lent.add(channel)
            await channel.set_qos(1)
            assert connection.stats.open_channels <= 4

    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(shared_node.url, name=name) as connection:
            async with connection.channel_pool(4) as pool:
                lent: set[Channel] = set()
                async with anyio.create_task_group() as tasks:
                    for _ in range(100):
                        tasks.start_soon(use, connection, pool, lent)
                assert len(lent) == 4
                assert (await as_the_broker_sees_it(shared_node, name)).channels == 4
                # One that an error has closed is not lent again.
                async with pool.channel() as broken:
                    with pytest.raises(anyamqp.NotFound):
                        await broken.declare_queue(unique("queue"), passive=True)
                async with pool.channel() as fresh:
                    await fresh.set_qos(1)
                    assert fresh is not broken
            assert (await as_the_broker_sees_it(shared_node, name)).channels == 0
            assert connection.stats.open_channels == 0
