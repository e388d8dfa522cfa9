"""Events that may end a consumer: a deleted queue, an ack that took too long, lost permissions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    AccessRefused,
    Channel,
    Connection,
    Consumer,
    ConsumerCancelled,
    Credentials,
    Delivery,
    Message,
    NotFound,
    QueueType,
    ReconnectPolicy,
    State,
)
from anyamqp.testing import FaultProxy
from support.queues import depth, unique, until_depth
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)


@pytest.fixture(scope="module")
def impatient_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that waits two seconds for an acknowledgement, and looks twice a second."""
    folder = tmp_path_factory.mktemp("impatient-node")
    config, advanced = {"consumer_timeout": "2000"}, "{rabbit, [{channel_tick_interval, 500}]}"
    with closing(Node(folder, config=config, advanced=advanced, name="impatient")) as node:
        node.start()
        yield node


@dataclass(frozen=True)
class Bench:
    """A queue that another connection than the consumer's declares, fills and deletes; and a network that breaks."""

    connection: Connection
    other: Connection
    channel: Channel
    queue: str
    queue_type: QueueType
    proxy: FaultProxy

    async def publish(self, *bodies: bytes) -> None:
        async with self.other.publisher() as publisher:
            for body in bodies:
                await publisher.submit(Message(body), routing_key=self.queue)

    async def declare(self) -> None:
        await self.channel.declare_queue(self.queue, queue_type=self.queue_type)

    async def delete(self) -> None:
        await self.channel.delete_queue(self.queue)

    async def ready(self) -> int:
        return await depth(self.channel, self.queue)

    async def until_ready(self, expected: int) -> None:
        """Wait until so many messages wait: the broker handles acks and returns in its own time."""
        await until_depth(self.channel, self.queue, expected)

    async def delete_while_away(self) -> None:
        """Cut the connection, delete the queue, and let the connection come back."""
        reconnects = self.connection.stats.reconnects
        self.proxy.refuse()
        self.proxy.reset()
        await eventually(lambda: self.connection.state is State.RECONNECTING)
        await self.delete()
        self.proxy.accept()
        await eventually(
            lambda: self.connection.stats.reconnects > reconnects and self.connection.state is State.OPEN, within=30
        )

    async def lose(self) -> None:
        """Cut the connection, and wait until it is back."""
        reconnects = self.connection.stats.reconnects
        self.proxy.reset()
        await eventually(
            lambda: self.connection.stats.reconnects > reconnects and self.connection.state is State.OPEN, within=30
        )


@asynccontextmanager
async def a_bench(
    node: Node, credentials: Credentials | None = None, queue_type: QueueType = "classic"
) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    with anyio.fail_after(LIMIT), FaultProxy(node.host, node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with (
            anyamqp.connect(url, reconnect=EAGER, credentials=credentials) as connection,
            anyamqp.connect(node.url) as other,
            other.channel() as channel,
        ):
            bench = Bench(connection, other, channel, queue, queue_type, proxy)
            await bench.declare()
            try:
                yield bench
            finally:
                await bench.delete()


async def next_of(consumer: Consumer) -> Delivery:
    with anyio.fail_after(30):
        return await anext(consumer)


# --- the queue is deleted ---------------------------------------------------------------------------------------------


async def test_a_deleted_queue_raises_at_everyone_who_iterates(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        raised: list[str] = []

        async def iterate() -> None:
            with pytest.raises(ConsumerCancelled, match=bench.queue):
                await next_of(consumer)
            raised.append("ConsumerCancelled")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            tasks.start_soon(iterate)
            await anyio.lowlevel.checkpoint()
            await bench.delete()
        assert raised == ["ConsumerCancelled"] * 2
        with pytest.raises(ConsumerCancelled):
            await next_of(consumer)
        assert (consumer.is_consuming, bench.connection.stats.link_number) == (False, 1)


async def test_a_deleted_queue_raises_after_its_last_deliveries(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        await bench.publish(b"a", b"b")
        first = await next_of(consumer)
        await bench.until_ready(0)
        await bench.delete()
        await eventually(lambda: not consumer.is_consuming)
        assert (await next_of(consumer)).body == b"b"
        with pytest.raises(ConsumerCancelled):
            await next_of(consumer)
        first.ack()  # its queue is gone; the broker still accepts the ack
        async with bench.connection.channel() as channel:
            await channel.set_qos(1)


async def test_a_deleted_queue_ends_the_iteration_when_told_so(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with bench.connection.consumer(bench.queue, on_cancel="end") as consumer:
            await bench.publish(b"a")
            await bench.until_ready(0)
            await bench.delete()
            with anyio.fail_after(30):
                assert [delivery.body async for delivery in consumer] == [b"a"]
        assert (bench.connection.state, bench.connection.stats.link_number) == (State.OPEN, 1)


async def test_a_deleted_queue_is_waited_for_when_told_so(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        bench.connection.consumer(bench.queue, on_cancel="resubscribe", consumer_tag="stays") as consumer,
    ):
        for body in (b"first", b"second"):
            await bench.publish(body)
            async with await next_of(consumer) as delivery:
                assert (delivery.body, delivery.consumer_tag) == (body, "stays")
            await bench.until_ready(0)
            await bench.delete()
            await eventually(lambda: not consumer.is_consuming)
            await bench.declare()
        await bench.publish(b"third")
        async with await next_of(consumer) as delivery:
            assert delivery.body == b"third"
        assert bench.connection.stats.link_number == 1


async def test_a_consumer_that_waits_for_its_queue_can_be_stopped(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with bench.connection.consumer(bench.queue, on_cancel="resubscribe") as consumer:
            await bench.delete()
            await eventually(lambda: not consumer.is_consuming)
            await consumer.stop()
            await bench.declare()
            await bench.publish(b"not for it")
            with anyio.fail_after(30):
                assert [delivery async for delivery in consumer] == []
            assert await bench.ready() == 1
        assert bench.connection.stats.open_channels == 0


async def test_a_queue_that_is_not_there_yet_is_waited_for_when_told_so(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.delete()
        async with bench.connection.consumer(bench.queue, on_cancel="resubscribe") as consumer:
            assert not consumer.is_consuming
            await bench.declare()
            await bench.publish(b"at last")
            async with await next_of(consumer) as delivery:
                assert delivery.body == b"at last"


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
async def test_a_queue_that_was_never_there_is_not_found_otherwise(
    shared_node: Node, on_cancel: anyamqp.OnCancel
) -> None:
    async with a_bench(shared_node) as bench:
        with pytest.raises(NotFound):
            async with bench.connection.consumer(f"missing-{bench.queue}", on_cancel=on_cancel):
                pytest.fail("consumes from nothing")


async def test_a_queue_deleted_while_the_connection_was_away_is_not_found(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        await bench.delete_while_away()
        with pytest.raises(NotFound, match=bench.queue):
            await next_of(consumer)


async def test_end_applies_to_a_queue_deleted_while_away(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue, on_cancel="end") as consumer:
        await bench.delete_while_away()
        with anyio.fail_after(30):
            assert [delivery async for delivery in consumer] == []


async def test_resubscribe_applies_to_a_queue_deleted_while_away(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        bench.connection.consumer(bench.queue, on_cancel="resubscribe") as consumer,
    ):
        await bench.delete_while_away()
        assert not consumer.is_consuming
        await bench.declare()
        await bench.publish(b"at last")
        async with await next_of(consumer) as delivery:
            assert delivery.body == b"at last"


async def test_handlers_go_on_when_their_queue_comes_back(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        bench.connection.consumer(bench.queue, on_cancel="resubscribe") as consumer,
        anyio.create_task_group() as tasks,
    ):
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            handled.append(delivery.body)

        tasks.start_soon(partial(consumer.process, handle, concurrency=4))
        await bench.publish(b"before")
        await eventually(lambda: handled == [b"before"])
        await bench.delete()
        await eventually(lambda: not consumer.is_consuming)
        await bench.declare()
        await bench.publish(b"after")
        await eventually(lambda: handled == [b"before", b"after"], within=30)
        await consumer.stop()


async def test_handlers_of_a_deleted_queue_end_with_its_error(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        finish, ended = anyio.Event(), [False]

        async def handle(_: Delivery) -> None:
            await finish.wait()
            ended[0] = True

        async def delete() -> None:
            await bench.publish(b"x")
            await bench.until_ready(0)
            await bench.delete()
            await eventually(lambda: not consumer.is_consuming)
            finish.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            with pytest.raises(ConsumerCancelled, match=bench.queue):
                await consumer.process(handle, concurrency=3)
        assert ended == [True]


# --- a stopped consumer stays stopped ---------------------------------------------------------------------------------


async def test_a_stopped_consumer_does_not_consume_again_after_a_loss(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        async with bench.connection.consumer(bench.queue) as consumer:
            await consumer.stop()
            await bench.lose()
            found = await bench.channel.declare_queue(bench.queue, passive=True)
            assert found.consumer_count == 0
        assert bench.connection.stats.open_channels == 0


async def test_a_cancelled_consumer_does_not_consume_again_after_a_loss(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue, on_cancel="end") as consumer:
        await bench.delete()
        with anyio.fail_after(30):
            assert [delivery async for delivery in consumer] == []  # else it may find the queue declared below
        await bench.declare()
        await bench.lose()
        found = await bench.channel.declare_queue(bench.queue, passive=True)
        assert found.consumer_count == 0


# --- an ack that takes too long ---------------------------------------------------------------------------------------


async def test_a_late_ack_loses_the_delivery_and_not_the_consumer(
    impatient_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bench(impatient_node, queue_type="quorum") as bench:
        await bench.publish(b"slow")
        async with bench.connection.consumer(bench.queue, prefetch=1) as consumer:
            slow = await next_of(consumer)
            again = await next_of(consumer)
            assert (again.message_id, again.redelivered) == (slow.message_id, True)
            assert (slow.is_stale, again.is_stale) == (True, False)
            slow.ack()
            assert bench.connection.stats.stale_acks == 1
            again.ack()
            await bench.publish(b"goes on")
            async with await next_of(consumer) as delivery:
                assert (delivery.body, delivery.redelivered) == (b"goes on", False)
        assert await bench.ready() == 0
        assert bench.connection.stats.link_number == 1
    said = "cancelled the consumer" if impatient_node.facts.late_ack_cancels_consumer else "timed out"
    assert [text for text in caplog.messages if said in text]


async def test_an_ack_that_takes_too_long_costs_no_other_channel(impatient_node: Node) -> None:
    async with (
        a_bench(impatient_node, queue_type="quorum") as bench,
        bench.connection.channel() as channel,
        bench.connection.publisher() as publisher,
        bench.connection.consumer(bench.queue, prefetch=1) as slow_one,
        bench.connection.consumer(bench.queue, prefetch=1) as idle,
    ):
        await publisher.publish(Message(b"slow"), routing_key=bench.queue)
        slow = await next_of(slow_one)
        async with await next_of(idle) as again:
            assert again.message_id == slow.message_id
        await eventually(lambda: slow_one.is_consuming)
        await channel.set_qos(1)
        await publisher.publish(Message(b"x"), routing_key=bench.queue)
        assert bench.connection.stats.open_channels == 4
        assert bench.connection.stats.link_number == 1


async def test_an_ack_that_takes_too_long_amid_deliveries_costs_no_link(impatient_node: Node) -> None:
    """RabbitMQ closes the channel, and goes on delivering on it (rabbitmq-server, issue 13384)."""
    async with (
        a_bench(impatient_node, queue_type="quorum") as bench,
        bench.connection.consumer(bench.queue, prefetch=500) as consumer,
        bench.other.publisher() as publisher,
        anyio.create_task_group() as tasks,
    ):

        async def feed() -> None:
            while True:
                await publisher.submit(Message(b"x"), routing_key=bench.queue)

        tasks.start_soon(feed)
        slow = await next_of(consumer)
        while not slow.is_stale:
            async with await next_of(consumer):
                pass
        async with await next_of(consumer):
            tasks.cancel_scope.cancel()
        assert bench.connection.stats.link_number == 1


async def test_a_handler_that_takes_too_long_is_run_again(impatient_node: Node) -> None:
    async with a_bench(impatient_node, queue_type="quorum") as bench:
        await bench.publish(b"slow")
        runs: list[Delivery] = []
        async with bench.connection.consumer(bench.queue, prefetch=1) as consumer, anyio.create_task_group() as tasks:

            async def handle(delivery: Delivery) -> None:
                await anyio.lowlevel.checkpoint()
                runs.append(delivery)
                if len(runs) == 1:
                    await eventually(lambda: delivery.is_stale, within=30)

            tasks.start_soon(consumer.process, handle)
            await eventually(lambda: len(runs) == 2, within=30)
            await consumer.stop()
        assert [run.redelivered for run in runs] == [False, True]
        assert bench.connection.stats.stale_acks == 1
        await bench.ready()
        assert await anyio.to_thread.run_sync(impatient_node.queue_depth, bench.queue) == 0


# --- permissions ------------------------------------------------------------------------------------------------------


async def test_a_permission_that_is_revoked_ends_the_iteration_after_a_reconnect(shared_node: Node) -> None:
    user = unique("user")
    ctl = partial(anyio.to_thread.run_sync, shared_node.ctl)
    await ctl("add_user", user, "secret")
    try:
        await ctl("set_permissions", user, ".*", ".*", ".*")
        async with (
            a_bench(shared_node, Credentials(user, "secret")) as bench,
            bench.connection.consumer(bench.queue, on_cancel="resubscribe") as consumer,
        ):
            await bench.publish(b"still allowed")
            (await next_of(consumer)).ack()
            await ctl("set_permissions", user, ".*", ".*", "^$")
            await bench.lose()
            with pytest.raises(AccessRefused, match=bench.queue):
                await next_of(consumer)
            assert bench.connection.state is State.OPEN
    finally:
        await ctl("delete_user", user)


# --- auto-delete ------------------------------------------------------------------------------------------------------


async def auto_delete_queue(bench: Bench) -> str:
    name = f"auto-delete-{bench.queue}"
    async with bench.connection.channel() as channel:
        await channel.declare_queue(name, auto_delete=True)
    return name


async def test_an_auto_delete_queue_comes_back_for_its_consumer(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        name = await auto_delete_queue(bench)
        async with bench.connection.consumer(name) as consumer:
            await bench.lose()
            async with bench.other.publisher() as publisher:
                await publisher.publish(Message(b"still there"), routing_key=name)
            async with await next_of(consumer) as delivery:
                assert delivery.body == b"still there"


@pytest.mark.parametrize("leave", ["block", "stop"])
async def test_an_auto_delete_queue_is_not_declared_again_after_its_last_consumer(
    shared_node: Node, leave: str
) -> None:
    async with a_bench(shared_node) as bench:
        name = await auto_delete_queue(bench)
        async with bench.connection.consumer(name) as consumer:
            if leave == "stop":
                await consumer.stop()
                await bench.lose()
        if leave == "block":
            await bench.lose()
        async with bench.other.channel() as channel:
            with pytest.raises(NotFound, match=name):
                await channel.declare_queue(name, passive=True)
