"""The broker's memory alarm: it stops reading from publishing connections, and reports the begin and the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Message, Publication, Publisher, Settings, State
from anyamqp.testing import FaultProxy
from support.queues import take_bodies, unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


@dataclass(frozen=True)
class Bench:
    """A connection with a publisher and an empty queue, and another connection that never publishes."""

    connection: Connection
    publisher: Publisher
    other: Connection
    queue: str

    async def bodies(self) -> list[bytes]:
        """Take all messages out of the queue."""
        async with self.other.channel() as channel:
            return await take_bodies(channel, self.queue)


@asynccontextmanager
async def an_alarm(node: Node) -> AsyncGenerator[None, None]:
    await anyio.to_thread.run_sync(node.set_memory_alarm)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(node.clear_memory_alarm)


@asynccontextmanager
async def a_bench(node: Node, settings: Settings | None = None) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(node.url) as other,
            other.channel() as channel,
        ):
            await channel.declare_queue(queue)
            try:
                async with (
                    anyamqp.connect(settings or node.url) as connection,
                    connection.publisher(window=1000) as publisher,
                ):
                    yield Bench(connection, publisher, other, queue)
            finally:
                await channel.delete_queue(queue)


async def provoke(bench: Bench) -> Publication:
    """Publish once, so that the broker blocks the connection. It takes the publish now, or after the alarm."""
    publication = await bench.publisher.submit(Message(b"provokes"), routing_key=bench.queue)
    await eventually(lambda: bench.connection.state is State.BLOCKED)
    return publication


async def test_publishes_wait_out_the_alarm_and_are_confirmed_in_order(shared_node: Node) -> None:
    """Invariants 3 and 5."""
    async with a_bench(shared_node) as bench:
        waiting: list[Publication] = []
        assert bench.connection.stats.blocked_since is None
        async with an_alarm(shared_node):
            started = anyio.current_time()
            await provoke(bench)
            since = bench.connection.stats.blocked_since
            assert since is not None
            assert started <= since <= anyio.current_time()
            sent = bench.connection.stats.bytes_sent
            for n in range(500):
                publication = await bench.publisher.submit(Message(b"%d" % n), routing_key=bench.queue)
                waiting.append(publication)
            await anyio.wait_all_tasks_blocked()
            assert not any(publication.is_settled for publication in waiting)
            assert bench.connection.stats.bytes_sent == sent
            await bench.connection.wait_ready(1)
        await bench.publisher.flush()
        assert (bench.connection.state, bench.connection.stats.blocked_since) == (State.OPEN, None)
        assert bench.connection.stats.link_number == 1
        assert await bench.bodies() == [b"provokes", *(b"%d" % n for n in range(500))]


async def test_a_publish_that_never_left_says_so(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with an_alarm(shared_node):
            await provoke(bench)
            with pytest.raises(anyamqp.PublishTimeout, match="never sent") as caught:
                await bench.publisher.publish(Message(b"too late"), routing_key=bench.queue, timeout=0.2)
            assert not caught.value.sent
            in_time = await bench.publisher.submit(Message(b"in time"), routing_key=bench.queue)
        await in_time
        await bench.publisher.flush()
        assert await bench.bodies() == [b"provokes", b"in time"]


async def test_a_publish_that_left_without_an_answer_says_so(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        async with a_bench(shared_node, settings) as bench:
            proxy.black_hole()
            with pytest.raises(anyamqp.PublishTimeout, match="may have it") as caught:
                await bench.publisher.publish(Message(b"unanswered"), routing_key=bench.queue, timeout=0.2)
            assert caught.value.sent
            proxy.heal()
            await bench.publisher.publish(Message(b"answered"), routing_key=bench.queue)
            assert await bench.bodies() == [b"unanswered", b"answered"]


async def test_a_connection_that_does_not_publish_is_not_blocked(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with an_alarm(shared_node), bench.other.consumer(bench.queue) as consumer:
            provoking = await provoke(bench)
            assert bench.other.state is State.OPEN
            if provoking.is_settled:
                async with await anext(consumer) as delivery:
                    assert delivery.body == b"provokes"
        await bench.publisher.flush()


async def test_a_connection_made_during_the_alarm_is_blocked_by_its_first_publish(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, AsyncExitStack() as opened:
        async with an_alarm(shared_node):
            late = await opened.enter_async_context(anyamqp.connect(shared_node.url))
            publisher = await opened.enter_async_context(late.publisher())
            assert late.state is State.OPEN
            for n in range(3):
                await publisher.submit(Message(b"%d" % n), routing_key=bench.queue)
            await eventually(lambda: late.state is State.BLOCKED)
        await publisher.flush()
        assert late.state is State.OPEN
        assert await bench.bodies() == [b"0", b"1", b"2"]


async def test_closing_while_blocked_takes_no_longer_than_the_close_timeout(shared_node: Node) -> None:
    """The broker reads nothing, so it cannot answer connection.close. Invariants 3 and 7."""
    settings = replace(Settings.from_urls(shared_node.url), close_timeout=1.0, name=unique("blocked"))
    async with a_bench(shared_node, settings) as bench:
        async with an_alarm(shared_node), bench.connection.channel(), bench.connection.consumer(bench.queue):
            await provoke(bench)
            pending = await bench.publisher.submit(Message(b"pending"), routing_key=bench.queue)
            started = anyio.current_time()
            await bench.connection.close()
            assert anyio.current_time() - started < 1.0 + 1.5
            assert bench.connection.state is State.CLOSED
            with pytest.raises(anyamqp.ConnectionClosed):
                await pending
        with pytest.raises(ExceptionGroup):
            await bench.publisher.flush()

        def is_gone() -> bool:
            return all(c.connection_name != settings.name for c in shared_node.connections())

        with anyio.fail_after(20):
            while not await anyio.to_thread.run_sync(is_gone):  # noqa: ASYNC110 - the broker announces nothing
                await anyio.sleep(0.05)


async def test_cancelling_while_blocked_is_not_held_up_by_each_block(shared_node: Node) -> None:
    settings = replace(Settings.from_urls(shared_node.url), close_timeout=1.0)
    async with a_bench(shared_node) as bench, an_alarm(shared_node):
        started = anyio.current_time()
        with anyio.CancelScope() as scope:
            async with (
                anyamqp.connect(settings) as connection,
                connection.channel(),
                connection.consumer(bench.queue),
                connection.publisher() as publisher,
            ):
                await publisher.submit(Message(b"provokes"), routing_key=bench.queue)
                await eventually(lambda: connection.state is State.BLOCKED)
                started = anyio.current_time()
                scope.cancel()
                await publisher.publish(Message(b"pending"), routing_key=bench.queue)
        assert scope.cancelled_caught
        assert anyio.current_time() - started < 1.0 + 1.5
