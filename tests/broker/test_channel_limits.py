"""How many channels there may be: ``channel_max``, waiting for a free number, and the pool."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import pytest

import anyamqp
from anyamqp import (
    Channel,
    ChannelLimitReached,
    ChannelPool,
    Connection,
    ContentTooLarge,
    InvalidArgument,
    InvalidUse,
    Message,
    NotFound,
    ReconnectPolicy,
    RequestTimeout,
    Settings,
    State,
)
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.stepping import cancel_at
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)


@asynccontextmanager
async def connected(
    node: Node, *, channel_max: int = 2047, max_message_size: int = 1 << 20, port: int | None = None
) -> AsyncGenerator[Connection, None]:
    url = f"amqp://guest:guest@{node.host}:{port or node.port}/"
    settings = replace(
        Settings.from_urls(url), channel_max=channel_max, max_message_size=max_message_size, reconnect=EAGER
    )
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(settings) as connection:
            yield connection


async def break_channel(channel: Channel) -> None:
    """Have the broker close it."""
    with pytest.raises(NotFound):
        await channel.declare_queue(unique("missing"), passive=True)
    await eventually(lambda: channel.state is State.CLOSED)


async def is_usable(channel: Channel) -> bool:
    await channel.set_qos(1)
    return channel.state is State.OPEN


# --- the limit --------------------------------------------------------------------------------------------------------


async def test_one_channel_too_many_is_refused_by_a_clear_text(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=2) as connection, connection.channel() as one, connection.channel():
        with pytest.raises(ChannelLimitReached) as caught:
            async with connection.channel():
                pytest.fail("three channels where two are allowed")
        assert str(caught.value) == "all 2 channels that the connection may have are open"
        assert await is_usable(one)
        assert (connection.stats.open_channels, connection.stats.link_number) == (2, 1)


async def test_publishers_consumers_and_rpc_clients_count_as_channels(shared_node: Node) -> None:
    queue = unique("queue")
    async with connected(shared_node, channel_max=1) as connection:
        async with connection.channel() as channel:
            await channel.declare_queue(queue)
            for needs_one in (connection.publisher, connection.rpc_client, lambda: connection.consumer(queue)):
                with pytest.raises(ChannelLimitReached):
                    async with needs_one():
                        pytest.fail("two channels where one is allowed")
        for needs_one in (connection.publisher, connection.rpc_client, lambda: connection.consumer(queue)):
            async with needs_one():
                assert connection.stats.open_channels == 1
        async with connection.channel() as channel:
            await channel.delete_queue(queue)


async def test_a_number_is_given_back_only_with_close_ok(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with connected(shared_node, channel_max=1, port=proxy.port) as connection:
            async with anyio.create_task_group() as tasks, connection.channel() as first:
                proxy.black_hole()
                tasks.start_soon(first.close)
                await eventually(lambda: first.state is State.CLOSING)
                with pytest.raises(ChannelLimitReached):
                    await connection.channel().__aenter__()
                proxy.heal()
                await eventually(lambda: first.state is State.CLOSED)
            async with connection.channel() as second:
                assert await is_usable(second)
            assert connection.stats.link_number == 1


async def test_a_channel_that_the_broker_closed_gives_its_number_back(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection:
        for _ in range(3):
            channel = connection.channel()
            await channel.__aenter__()
            await break_channel(channel)
        async with connection.channel() as usable:
            assert await is_usable(usable)


# --- waiting for a number ---------------------------------------------------------------------------------------------


async def test_waiting_gets_the_number_as_soon_as_a_channel_is_closed(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=2) as connection, connection.channel():
        in_the_way = connection.channel()
        await in_the_way.__aenter__()
        got: list[bool] = []

        async def wait() -> None:
            async with connection.channel(wait=30) as channel:
                got.append(await is_usable(channel))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            with anyio.fail_after(10):
                await in_the_way.close()
                await eventually(lambda: got == [True])


async def test_waiting_gets_the_number_of_a_channel_that_the_broker_closed(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection, connection.channel() as in_the_way:
        got: list[bool] = []

        async def wait() -> None:
            async with connection.channel(wait=30) as channel:
                got.append(await is_usable(channel))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await break_channel(in_the_way)
            await eventually(lambda: got == [True])


async def test_waiting_gets_the_number_of_a_channel_closed_for_a_fault(shared_node: Node) -> None:
    queue = unique("queue")
    async with (
        connected(shared_node) as other,
        other.channel() as channel,
        other.publisher() as publisher,
        connected(shared_node, channel_max=1, max_message_size=1000) as connection,
    ):
        await channel.declare_queue(queue)
        try:
            async with connection.consumer(queue) as consumer:
                got: list[bool] = []

                async def wait() -> None:
                    async with connection.channel(wait=30) as channel:
                        got.append(await is_usable(channel))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await anyio.wait_all_tasks_blocked()
                    await publisher.publish(Message(bytes(1001)), routing_key=queue)
                    with pytest.raises(ContentTooLarge):
                        await anext(consumer)
                    await eventually(lambda: got == [True])
        finally:
            await channel.delete_queue(queue)


async def test_waiting_ends_with_the_same_error_when_its_time_is_over(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection, connection.channel():
        began = anyio.current_time()
        with pytest.raises(ChannelLimitReached, match="all 1 channels"):
            async with connection.channel(wait=0.5):
                pytest.fail("two channels where one is allowed")
        assert 0.5 <= anyio.current_time() - began < 10
        assert connection.stats.open_channels == 1


async def test_not_more_of_those_that_wait_go_on_than_there_are_numbers(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=3) as connection:
        most = 0
        done: list[bool] = []

        async def use() -> None:
            nonlocal most
            async with connection.channel(wait=30) as channel:
                most = max(most, connection.stats.open_channels)
                done.append(await is_usable(channel))

        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(use)
        assert (most, done) == (3, [True] * 40)


async def test_whoever_is_cancelled_while_waiting_takes_no_number(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection:
        async with connection.channel():

            async def wait() -> None:
                async with connection.channel(wait=30):
                    pytest.fail("two channels where one is allowed")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        async with connection.channel() as channel:
            assert await is_usable(channel)


async def test_waiting_ends_when_the_connection_is_closed(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection, connection.channel():
        ended: list[str] = []

        async def wait() -> None:
            with pytest.raises(anyamqp.ConnectionClosed):
                await connection.channel(wait=30).__aenter__()
            ended.append("ConnectionClosed")

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await connection.close()
        assert ended == ["ConnectionClosed"]


async def test_a_channel_too_many_while_the_connection_is_away_is_refused_as_such(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with (
            connected(shared_node, channel_max=1, port=proxy.port) as connection,
            connection.channel() as first,
        ):
            proxy.refuse()
            proxy.reset()
            await eventually(lambda: connection.state is State.RECONNECTING)
            refused: list[str] = []

            async def open_one_more() -> None:
                with pytest.raises(ChannelLimitReached, match="all 1 channels"):
                    await connection.channel().__aenter__()
                refused.append("ChannelLimitReached")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(open_one_more)
                await anyio.wait_all_tasks_blocked()
                proxy.accept()
            assert refused == ["ChannelLimitReached"]
            assert await is_usable(first)


async def test_waiting_for_a_number_goes_on_over_a_loss(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with connected(shared_node, channel_max=1, port=proxy.port) as connection:
            got: list[bool] = []

            async def wait() -> None:
                async with connection.channel(wait=30) as channel:
                    got.append(await is_usable(channel))

            async with anyio.create_task_group() as tasks, connection.channel() as first:
                proxy.refuse()
                proxy.reset()
                await eventually(lambda: connection.state is State.RECONNECTING)
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                proxy.accept()
                assert await is_usable(first)
                assert got == []
            assert got == [True]


# --- the pool ---------------------------------------------------------------------------------------------------------


async def test_a_pool_lends_so_many_and_reuses_them(shared_node: Node) -> None:
    async with connected(shared_node) as connection:
        async with connection.channel_pool(3) as pool:
            lent: set[Channel] = set()
            now = most = 0

            async def use() -> None:
                nonlocal now, most
                async with pool.channel() as channel:
                    now += 1
                    most = max(most, now)
                    lent.add(channel)
                    assert await is_usable(channel)
                    now -= 1

            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(use)
            assert (most, len(lent), connection.stats.open_channels) == (3, 3, 3)
        assert connection.stats.open_channels == 0


async def test_a_pool_of_no_channels_is_refused(shared_node: Node) -> None:
    async with connected(shared_node) as connection:
        with pytest.raises(InvalidArgument, match="size"):
            connection.channel_pool(0)


async def test_borrowing_ends_when_its_time_is_over_and_works_later(shared_node: Node) -> None:
    async with connected(shared_node) as connection, connection.channel_pool(1) as pool:
        async with pool.channel():
            began = anyio.current_time()
            with pytest.raises(RequestTimeout, match=r"0\.5 s"):
                async with pool.channel(timeout=0.5):
                    pytest.fail("two channels of a pool of one")
            assert 0.5 <= anyio.current_time() - began < 10
        async with pool.channel(timeout=20) as channel:
            assert await is_usable(channel)


async def test_a_channel_that_was_closed_is_not_lent_again(shared_node: Node) -> None:
    async with connected(shared_node) as connection, connection.channel_pool(1) as pool:
        async with pool.channel() as broken:
            await break_channel(broken)
        async with pool.channel(timeout=20) as other:
            assert other is not broken
            assert await is_usable(other)
            assert connection.stats.open_channels == 1


async def test_a_channel_that_was_closed_after_it_was_given_back_is_not_lent_again(shared_node: Node) -> None:
    async with connected(shared_node) as connection, connection.channel_pool(1) as pool:
        async with pool.channel() as first:
            pass
        await break_channel(first)
        async with pool.channel(timeout=20) as other:
            assert other is not first
            assert await is_usable(other)


async def test_channels_of_a_pool_survive_a_loss(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with connected(shared_node, port=proxy.port) as connection, connection.channel_pool(2) as pool:
            async with pool.channel() as idle:
                pass
            async with pool.channel() as first:
                assert first is idle
                proxy.reset()
                await eventually(lambda: connection.stats.reconnects == 1, within=20)
                assert await is_usable(first)
            async with pool.channel() as again:
                assert again is first


async def test_whoever_is_cancelled_while_borrowing_takes_no_place(shared_node: Node) -> None:
    async with connected(shared_node) as connection, connection.channel_pool(1) as pool:

        async def borrow() -> None:
            async with pool.channel() as channel:
                await is_usable(channel)

        steps = 0
        while await cancel_at(steps + 1, borrow):
            steps += 1
        assert steps >= 3
        async with pool.channel(timeout=20) as channel:
            assert await is_usable(channel)
        await eventually(lambda: connection.stats.open_channels == 1)


async def test_a_pool_waits_for_a_number_that_somebody_else_has(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=1) as connection, connection.channel_pool(2) as pool:
        got: list[bool] = []

        async def borrow() -> None:
            async with pool.channel(timeout=20) as channel:
                got.append(await is_usable(channel))

        async with anyio.create_task_group() as tasks, connection.channel():
            tasks.start_soon(borrow)
            await anyio.wait_all_tasks_blocked()
            assert got == []
        assert got == [True]


async def test_a_pool_that_is_larger_than_the_limit_lends_what_was_given_back(shared_node: Node) -> None:
    async with connected(shared_node, channel_max=2) as connection, connection.channel_pool(5) as pool:
        got: list[bool] = []

        async def borrow() -> None:
            async with pool.channel(timeout=20) as channel:
                got.append(await is_usable(channel))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(borrow)
        assert got == [True] * 20


async def test_a_wait_for_a_number_counts_towards_the_time_to_borrow(shared_node: Node) -> None:
    async with (
        connected(shared_node, channel_max=1) as connection,
        connection.channel(),
        connection.channel_pool(2) as pool,
    ):
        with pytest.raises(RequestTimeout, match=r"0\.5 s"):
            async with pool.channel(timeout=0.5):
                pytest.fail("two channels where one is allowed")


async def test_a_pool_lends_nothing_outside_its_block_and_leaves_nothing(shared_node: Node) -> None:
    async with connected(shared_node) as connection:
        outer: ChannelPool
        async with AsyncExitStack() as lent:
            async with connection.channel_pool(3) as outer:
                async with outer.channel():
                    pass
                last = await lent.enter_async_context(outer.channel())
            with pytest.raises(InvalidUse, match="closed"):
                async with outer.channel():
                    pytest.fail("lent by a closed pool")
            assert await is_usable(last)
        await eventually(lambda: connection.stats.open_channels == 0)
