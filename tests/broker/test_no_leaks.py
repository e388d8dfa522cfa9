"""Ten thousand publishes and a hundred losses leave the broker with as many channels as at the start.

Two of the ways in which clients wear brokers out: a new channel at every use (it piles up on the broker), and a new
channel after every error beside the old one. Invariant 6: the broker's channel count equals the client's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Message, Publication, ReconnectPolicy, Settings, State
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import BrokerConnection, Node
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio

LOSSES = 100
MESSAGES_BETWEEN = 100
CHANNELS = 4
"""A publisher's, a consumer's, a plain one, and one that a pool lent."""


def named(node: Node, name: str) -> list[BrokerConnection]:
    return [connection for connection in node.connections() if connection.connection_name == name]


async def channels_of_the_only_connection(node: Node, name: str) -> int:
    """How many channels the broker counts, once it has noticed the end of the connections that were lost."""
    with anyio.fail_after(30):
        while True:
            mine = await anyio.to_thread.run_sync(named, node, name)
            if len(mine) == 1:
                return mine[0].channels


def has_another_link(connection: Connection, number: int) -> bool:
    return connection.stats.link_number > number


async def lose_again_and_again(node: Node, lose: Callable[[FaultProxy], None], *, losses: int, messages: int) -> None:
    name = unique("leaks")
    queue = unique("queue")
    with FaultProxy(node.host, node.port) as proxy, anyio.fail_after(120):
        settings = replace(
            Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/"),
            reconnect=ReconnectPolicy.constant(0.01),
            name=name,
        )
        async with (
            anyamqp.connect(settings) as connection,
            connection.channel() as channel,
            connection.channel_pool(2) as pool,
        ):
            await channel.declare_queue(queue)
            async with connection.publisher() as publisher, connection.consumer(queue) as consumer:
                seen: dict[bytes, int] = {}
                everything = losses * messages

                async def consume() -> None:
                    while len(seen) < everything:
                        async with await anext(consumer) as delivery:
                            seen[delivery.body] = seen.get(delivery.body, 0) + 1

                async with pool.channel() as lent:
                    await lent.set_qos(1)
                tasks = len(running_tasks())
                assert connection.stats.open_channels == CHANNELS
                assert await channels_of_the_only_connection(node, name) == CHANNELS
                async with anyio.create_task_group() as group:
                    group.start_soon(consume)
                    submitted: list[Publication] = []
                    for _ in range(losses):
                        await connection.wait_ready(20)
                        link = connection.stats.link_number
                        for n in range(messages):
                            body = b"%d" % len(submitted)
                            submitted.append(await publisher.submit(Message(body), routing_key=queue))
                            if n == messages // 2:
                                await anyio.to_thread.run_sync(lose, proxy)
                        await eventually(partial(has_another_link, connection, link), within=20)
                    for publication in submitted:
                        await publication
                # Invariant 4: all that was confirmed arrived. The order is another test's: this consumer loses its link
                # too, and a broker that has not noticed that yet gives the next link newer messages first.
                assert set(seen) == {b"%d" % n for n in range(everything)}
                await connection.wait_ready(20)
                async with pool.channel() as lent:
                    await lent.set_qos(2)
                await eventually(lambda: connection.stats.open_channels == CHANNELS)
                assert await channels_of_the_only_connection(node, name) == CHANNELS
                assert len(running_tasks()) == tasks
                assert connection.state is State.OPEN
                assert connection.stats.reconnects >= losses
                assert connection.stats.unconfirmed == 0
                # Invariant 1: one live socket, also from the network's point of view.
                assert proxy.max_live_connections == 1
                assert connection.stats.dials == proxy.connections_total
            await channel.delete_queue(queue)


async def test_ten_thousand_publishes_and_a_hundred_resets_leave_no_channel(shared_node: Node) -> None:
    await lose_again_and_again(shared_node, FaultProxy.reset, losses=LOSSES, messages=MESSAGES_BETWEEN)


async def test_closes_by_the_brokers_operator_leave_no_channel(shared_node: Node) -> None:
    def close_all(_: FaultProxy) -> None:
        shared_node.close_all_connections()

    await lose_again_and_again(shared_node, close_all, losses=3, messages=100)


async def test_a_hundred_channel_errors_leave_no_channel(shared_node: Node) -> None:
    name = unique("leaks")
    with anyio.fail_after(60):
        async with (
            anyamqp.connect(shared_node.url, name=name) as connection,
            connection.publisher() as publisher,
            connection.channel_pool(2) as pool,
        ):
            for n in range(100):
                missing = unique(f"missing-{n}")
                with pytest.raises(anyamqp.NotFound):
                    await publisher.publish(Message(b"lost"), exchange=missing)
                async with pool.channel() as lent:
                    with pytest.raises(anyamqp.NotFound):
                        await lent.declare_queue(missing, passive=True)
            await eventually(lambda: connection.stats.open_channels == 1)
            assert await channels_of_the_only_connection(shared_node, name) == 1
            assert connection.stats.link_number == 1
