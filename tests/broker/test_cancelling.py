"""Tasks that are cancelled in the middle of a request to a real broker.

Invariant 6: the broker's channel count equals the client's. The connection must not pay for a task that is cancelled:
it stays on its first link, and everything else on it goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Channel, Connection, Message, Publisher
from support.queues import unique
from support.rabbitmq import BrokerConnection, Node
from support.stepping import cancel_at
from support.waiting import eventually, running_tasks

pytestmark = pytest.mark.anyio

LIMIT = 60.0
ROUNDS = 5
"""How often each scenario is cancelled at every one of its awaits: what the broker answers meanwhile differs."""


@dataclass(frozen=True)
class Bench:
    connection: Connection
    publisher: Publisher
    channel: Channel
    """Used by nothing but the requests that are cancelled."""
    queue: str


Scenario = Callable[[Bench], Awaitable[object]]


@asynccontextmanager
async def a_bench(node: Node, name: str) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(node.url) as other,
            other.channel() as steady,
            anyamqp.connect(node.url, name=name) as connection,
            connection.publisher(window=4) as publisher,
            connection.channel() as channel,
        ):
            await steady.declare_queue(queue)
            try:
                yield Bench(connection, publisher, channel, queue)
            finally:
                for suffix in ("", "-other"):
                    await steady.delete_queue(queue + suffix)
                await steady.delete_exchange(f"{queue}-exchange")


async def publish(bench: Bench) -> None:
    await bench.publisher.publish(Message(b"one"), routing_key=bench.queue)


async def submit(bench: Bench) -> None:
    for _ in range(6):
        await bench.publisher.submit(Message(b"many"), routing_key=bench.queue)
    await bench.publisher.flush()


async def open_publisher(bench: Bench) -> None:
    async with bench.connection.publisher() as publisher:
        await publisher.publish(Message(b"one"), routing_key=bench.queue)


async def declare(bench: Bench) -> None:
    await bench.channel.declare_queue(f"{bench.queue}-other")
    await bench.channel.declare_exchange(f"{bench.queue}-exchange", "fanout")
    await bench.channel.bind_queue(f"{bench.queue}-other", f"{bench.queue}-exchange")
    await bench.channel.delete_exchange(f"{bench.queue}-exchange")


async def declare_on_its_own_channel(bench: Bench) -> None:
    async with bench.connection.channel() as channel:
        await channel.declare_queue(f"{bench.queue}-other")


async def consume(bench: Bench) -> None:
    await bench.publisher.publish(Message(b"for the consumer"), routing_key=bench.queue)
    async with bench.connection.consumer(bench.queue, prefetch=3) as consumer, await anext(consumer) as delivery:
        assert delivery.body


async def be_refused(bench: Bench) -> None:
    with suppress(anyamqp.NotFound):
        async with bench.connection.channel() as channel:
            await channel.declare_queue(f"missing-{bench.queue}", passive=True)


async def publish_to_nowhere(bench: Bench) -> None:
    with suppress(anyamqp.NotFound):
        await bench.publisher.publish(Message(b"lost"), exchange=f"missing-{bench.queue}")


async def borrow(bench: Bench) -> None:
    async with bench.connection.channel_pool(1) as pool:
        async with pool.channel() as channel:
            await channel.set_qos(5)
        async with pool.channel() as channel:
            await channel.set_qos(0)


@pytest.mark.parametrize(
    "scenario",
    [
        publish,
        submit,
        open_publisher,
        declare,
        declare_on_its_own_channel,
        consume,
        be_refused,
        publish_to_nowhere,
        borrow,
    ],
    ids=lambda one: one.__name__,
)
async def test_a_cancelled_operation_leaves_the_connection_as_it_was(shared_node: Node, scenario: Scenario) -> None:
    name = unique("cancelling")
    async with a_bench(shared_node, name) as bench:
        tasks = running_tasks()
        cancelled = 0
        for _ in range(ROUNDS):
            at = 1
            while await cancel_at(at, lambda: scenario(bench)):
                at += 1
                cancelled += 1
                receipt = await bench.publisher.publish(Message(b"goes on"), routing_key=bench.queue, timeout=10)
                assert receipt.attempts >= 1
        assert cancelled >= ROUNDS
        await bench.channel.set_qos(0)
        await eventually(lambda: bench.connection.stats.open_channels == 2)
        assert bench.connection.stats.link_number == 1
        assert running_tasks() <= tasks

        def mine() -> list[BrokerConnection]:
            return [c for c in shared_node.connections() if c.connection_name == name]

        assert [c.channels for c in await anyio.to_thread.run_sync(mine)] == [2]


async def test_many_tasks_cancelled_at_once_leave_the_connection_as_it_was(shared_node: Node) -> None:
    name = unique("cancelling")
    async with a_bench(shared_node, name) as bench:
        tasks = running_tasks()
        for n in range(20):
            async with anyio.create_task_group() as group:
                for scenario in (publish, submit, open_publisher, declare_on_its_own_channel, consume, borrow):
                    group.start_soon(scenario, bench)
                await anyio.sleep(0.001 * n)
                group.cancel_scope.cancel()
        await bench.publisher.flush()
        await bench.channel.set_qos(0)
        await eventually(lambda: bench.connection.stats.open_channels == 2)
        assert bench.connection.stats.link_number == 1
        assert running_tasks() <= tasks

        def mine() -> list[BrokerConnection]:
            return [c for c in shared_node.connections() if c.connection_name == name]

        assert [c.channels for c in await anyio.to_thread.run_sync(mine)] == [2]


async def test_connects_that_are_cancelled_leave_no_connection(shared_node: Node) -> None:
    name = unique("cancelling")
    log_before = len(shared_node.log_text())

    async def whole_life() -> None:
        async with anyamqp.connect(shared_node.url, name=name) as connection, connection.channel() as channel:
            await channel.set_qos(1)

    def mine() -> list[BrokerConnection]:
        return [c for c in shared_node.connections() if c.connection_name in (name, "")]

    with anyio.fail_after(LIMIT):
        tasks = running_tasks()
        for _ in range(3):
            at = 1
            while await cancel_at(at, whole_life):
                at += 1
            assert at > 3
        await eventually(lambda: running_tasks() <= tasks)
        while await anyio.to_thread.run_sync(mine):  # noqa: ASYNC110 - the broker announces nothing
            await anyio.sleep(0.05)
    assert "closed unexpectedly" not in shared_node.log_text()[log_before:]
