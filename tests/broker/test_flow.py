"""The memory alarm: the state, the wait of publishes, and everything that continues."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    ChannelEvent,
    Connection,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionEvent,
    Message,
    Publication,
    Publisher,
    PublishTimeout,
    ReadyTimeout,
    Settings,
    State,
    Transition,
)
from anyamqp.testing import FaultProxy
from support.queues import take_bodies, unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 90.0
REASON = "low on memory"


@pytest.fixture(scope="module")
def alarmed_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose alarms disturb nobody else."""
    with closing(Node(tmp_path_factory.mktemp("alarmed-node"), name="alarmed")) as node:
        node.start()
        yield node


@dataclass
class Alarm:
    """The node's memory alarm."""

    node: Node
    is_raised: bool = False

    async def set(self) -> None:
        self.is_raised = True
        await anyio.to_thread.run_sync(self.node.set_memory_alarm)

    async def clear(self) -> None:
        if self.is_raised:
            await anyio.to_thread.run_sync(self.node.clear_memory_alarm)
            self.is_raised = False


@dataclass(frozen=True)
class Bench:
    """A connection that publishes, another one that does not, and a queue."""

    connection: Connection
    other: Connection
    alarm: Alarm
    queue: str

    async def block(self, publisher: Publisher) -> Publication:
        """Raise the alarm, and publish once: the broker then blocks the connection, and reads the publish later."""
        await self.alarm.set()
        publication = await publisher.submit(Message(b"provokes"), routing_key=self.queue)
        await eventually(lambda: self.connection.state is State.BLOCKED)
        return publication

    async def bodies(self) -> list[bytes]:
        """Take all messages out of the queue."""
        async with self.other.channel() as channel:
            return await take_bodies(channel, self.queue)


@asynccontextmanager
async def a_bench(node: Node, settings: Settings | None = None) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    alarm = Alarm(node)
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url) as other, other.channel() as channel:
            await channel.declare_queue(queue)
            try:
                async with anyamqp.connect(settings or node.url) as connection:
                    try:
                        yield Bench(connection, other, alarm, queue)
                    finally:
                        with anyio.CancelScope(shield=True):
                            await alarm.clear()
            finally:
                await channel.delete_queue(queue)


# --- the state ------------------------------------------------------------------------------------------------------


async def test_an_alarm_shows_as_a_state_with_its_reason_and_so_does_its_end(alarmed_node: Node) -> None:
    seen: list[Transition] = []
    async with (
        a_bench(alarmed_node) as bench,
        bench.connection.publisher() as publisher,
        anyio.create_task_group() as tasks,
    ):

        async def watch() -> None:
            async for transition in bench.connection.transitions():
                seen.append(transition)  # noqa: PERF401 - looked at before the end

        tasks.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        await bench.block(publisher)
        since = bench.connection.stats.blocked_since
        assert bench.connection.stats.state is State.BLOCKED
        assert since is not None
        await bench.alarm.clear()
        await bench.connection.wait_unblocked(LIMIT)
        assert (bench.connection.state, bench.connection.stats.blocked_since) == (State.OPEN, None)
        await anyio.wait_all_tasks_blocked()
        connection = [one for one in seen if one.machine == "connection"]
        assert [(one.event, one.target, one.reason) for one in connection] == [
            (ConnectionEvent.BLOCKED, State.BLOCKED, REASON),
            (ConnectionEvent.UNBLOCKED, State.OPEN, None),
        ]
        channels = {one.machine for one in seen} - {"connection"}
        assert channels
        for channel in channels:
            assert [(one.event, one.target) for one in seen if one.machine == channel] == [
                (ChannelEvent.BLOCKED, State.BLOCKED),
                (ChannelEvent.UNBLOCKED, State.OPEN),
            ]
        assert seen[0].at >= since
        await publisher.flush()
        tasks.cancel_scope.cancel()


async def test_an_alarm_costs_no_link(alarmed_node: Node) -> None:
    """Invariant 1."""
    async with a_bench(alarmed_node) as bench, bench.connection.publisher() as publisher:
        for _ in range(2):
            await bench.block(publisher)
            await bench.alarm.clear()
            await publisher.flush()
        assert (bench.connection.stats.link_number, bench.connection.stats.dials) == (1, 1)
        assert await bench.bodies() == [b"provokes"] * 2


# --- waiting for its end --------------------------------------------------------------------------------------------


async def test_wait_unblocked_raises_the_reason_and_after_the_alarm_returns(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench, bench.connection.publisher() as publisher:
        await bench.block(publisher)
        with pytest.raises(ConnectionBlocked, match=REASON) as caught:
            await bench.connection.wait_unblocked(0.2)
        assert caught.value.reason == REASON
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.connection.wait_unblocked)
            await anyio.wait_all_tasks_blocked()
            await bench.alarm.clear()
        assert bench.connection.state is State.OPEN
        await publisher.flush()


async def test_wait_unblocked_returns_at_once_where_nothing_is_blocked(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench:
        await bench.connection.wait_unblocked(0)


async def test_wait_unblocked_names_another_reason_when_the_link_is_gone(alarmed_node: Node) -> None:
    with FaultProxy(alarmed_node.host, alarmed_node.port) as proxy:
        settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        async with a_bench(alarmed_node, settings) as bench:
            proxy.refuse()
            proxy.reset()
            await eventually(lambda: bench.connection.state is State.RECONNECTING)
            with pytest.raises(ReadyTimeout):
                await bench.connection.wait_unblocked(0.2)
            proxy.accept()


async def test_wait_unblocked_ends_with_the_connection(alarmed_node: Node) -> None:
    settings = replace(Settings.from_urls(alarmed_node.url), close_timeout=1.0)
    async with a_bench(alarmed_node, settings) as bench:
        raised: list[Exception] = []

        async def wait() -> None:
            try:
                await bench.connection.wait_unblocked()
            except ConnectionClosed as error:
                raised.append(error)

        async with bench.connection.publisher() as publisher, anyio.create_task_group() as tasks:
            provoking = await bench.block(publisher)
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await bench.connection.close()
            with pytest.raises(ConnectionClosed):
                await provoking
        assert len(raised) == 1


# --- how long publishes wait ----------------------------------------------------------------------------------------


async def test_no_patience_fails_a_publish_at_once(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench, bench.connection.publisher(blocked_timeout=0) as publisher:
        provoking = await bench.block(publisher)
        sent = bench.connection.stats.bytes_sent
        with pytest.raises(ConnectionBlocked, match=REASON):
            await publisher.publish(Message(b"refused"), routing_key=bench.queue)
        assert bench.connection.stats.bytes_sent == sent
        assert bench.connection.state is State.BLOCKED
        await bench.alarm.clear()
        await provoking
        await bench.connection.wait_unblocked(LIMIT)
        await publisher.publish(Message(b"later"), routing_key=bench.queue)
        assert await bench.bodies() == [b"provokes", b"later"]


async def test_a_second_of_patience_fails_a_publish_after_that_second(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench, bench.connection.publisher(blocked_timeout=1) as publisher:
        provoking = await bench.block(publisher)
        since = bench.connection.stats.blocked_since
        assert since is not None
        with pytest.raises(ConnectionBlocked, match=REASON):
            await publisher.publish(Message(b"refused"), routing_key=bench.queue)
        assert 1 <= anyio.current_time() - since < 10
        # The publishes sent before the block wait, and are confirmed in the end.
        await bench.alarm.clear()
        assert (await provoking).attempts == 1
        assert await bench.bodies() == [b"provokes"]


async def test_endless_patience_is_rewarded_after_the_alarm(alarmed_node: Node) -> None:
    """Invariants 3 and 5."""
    async with a_bench(alarmed_node) as bench, bench.connection.publisher(blocked_timeout=None) as publisher:
        await bench.block(publisher)
        publications = [
            await publisher.submit(Message(b"%d" % number), routing_key=bench.queue) for number in range(20)
        ]
        with anyio.move_on_after(0.5):
            await publications[0]
        assert not any(publication.is_settled for publication in publications)
        await bench.alarm.clear()
        assert [(await publication).attempts for publication in publications] == [1] * 20
        assert await bench.bodies() == [b"provokes", *(b"%d" % number for number in range(20))]


async def test_a_deadline_of_its_own_ends_a_publish_before_patience_does(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench, bench.connection.publisher(blocked_timeout=3600) as publisher:
        await bench.block(publisher)
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish(Message(b"late"), routing_key=bench.queue, timeout=0.2)
        assert not caught.value.sent
        await bench.alarm.clear()
        await publisher.flush()
        assert await bench.bodies() == [b"provokes"]


async def test_a_link_that_is_lost_under_the_alarm_costs_no_publish(alarmed_node: Node) -> None:
    """Invariants 3 and 5: the next link is blocked again by its first publish, and everything waits on."""
    with FaultProxy(alarmed_node.host, alarmed_node.port) as proxy:
        settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        async with a_bench(alarmed_node, settings) as bench, bench.connection.publisher() as publisher:
            await bench.block(publisher)
            for number in range(5):
                await publisher.submit(Message(b"%d" % number), routing_key=bench.queue)
            proxy.reset()
            await eventually(lambda: bench.connection.stats.reconnects == 1)
            await eventually(lambda: bench.connection.state is State.BLOCKED)
            await bench.alarm.clear()
            await publisher.flush()
            first_appearances = list(dict.fromkeys(await bench.bodies()))
            assert first_appearances == [b"provokes", *(b"%d" % number for number in range(5))]


# --- what goes on, and closing --------------------------------------------------------------------------------------


async def test_consuming_goes_on_while_another_connection_is_blocked(alarmed_node: Node) -> None:
    async with a_bench(alarmed_node) as bench, bench.connection.publisher() as publisher:
        for number in range(20):
            await publisher.submit(Message(b"%d" % number), routing_key=bench.queue)
        await publisher.flush()
        await bench.block(publisher)
        async with bench.other.consumer(bench.queue, prefetch=1) as consumer:
            for number in range(20):
                async with await anext(consumer) as delivery:
                    assert delivery.body == b"%d" % number
            assert (bench.connection.state, bench.other.state) == (State.BLOCKED, State.OPEN)
            await bench.alarm.clear()
            async with await anext(consumer) as delivery:
                assert delivery.body == b"provokes"
        await publisher.flush()


async def test_closing_while_blocked_is_bounded_by_the_close_timeout(alarmed_node: Node) -> None:
    """Invariants 3 and 7. The broker reads nothing, so it does not answer connection.close."""
    settings = replace(Settings.from_urls(alarmed_node.url), close_timeout=1.0)
    async with a_bench(alarmed_node, settings) as bench, bench.connection.publisher() as publisher:
        provoking = await bench.block(publisher)
        waiting = await publisher.submit(Message(b"waits"), routing_key=bench.queue)
        started = anyio.current_time()
        await bench.connection.close()
        assert anyio.current_time() - started < 1.0 + 1.5
        assert bench.connection.state is State.CLOSED
        for publication in (provoking, waiting):
            with pytest.raises(ConnectionClosed):
                await publication


async def test_leaving_the_block_of_a_blocked_connection_is_bounded_by_the_close_timeout(alarmed_node: Node) -> None:
    """Invariant 7."""
    settings = replace(Settings.from_urls(alarmed_node.url), close_timeout=1.0)
    async with a_bench(alarmed_node) as bench:
        started = 0.0

        async def leave() -> None:
            nonlocal started
            async with anyamqp.connect(settings) as connection, connection.publisher() as publisher:
                await bench.alarm.set()
                await publisher.submit(Message(b"provokes"), routing_key=bench.queue)
                await eventually(lambda: connection.state is State.BLOCKED)
                started = anyio.current_time()
                raise KeyError

        with pytest.raises(KeyError):
            await leave()
        # Once for the publisher's channel and once for the connection, neither of which is answered.
        assert anyio.current_time() - started < 2 * 1.0 + 1.5
