"""The effect of each keyword of ``declare_queue`` on RabbitMQ, and reading a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    Channel,
    Connection,
    Delivery,
    InvalidArgument,
    Message,
    Nacked,
    NotFound,
    Publisher,
    QueueType,
    StreamOffset,
)
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


class Bench:
    def __init__(self, connection: Connection, channel: Channel, publisher: Publisher) -> None:
        self.connection = connection
        self.channel = channel
        self.publisher = publisher
        self.queue = unique("arguments")
        self.dead = unique("dead")

    async def publish(self, *bodies: bytes, priority: int | None = None) -> None:
        for body in bodies:
            await self.publisher.publish(Message(body, priority=priority), routing_key=self.queue)

    async def taken(self, count: int, queue: str | None = None) -> list[Delivery]:
        """The first so many deliveries from a queue, acknowledged."""
        deliveries: list[Delivery] = []
        async with self.connection.consumer(queue or self.queue) as consumer:
            async for delivery in consumer:
                delivery.ack()
                deliveries.append(delivery)
                if len(deliveries) == count:
                    break
        return deliveries


@asynccontextmanager
async def bench(url: str) -> AsyncGenerator[Bench, None]:
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            made = Bench(connection, channel, publisher)
            yield made
            for queue in (made.queue, made.dead):
                await channel.delete_queue(queue)


@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
async def test_the_type_is_what_the_broker_shows(shared_node: Node, kind: QueueType) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, queue_type=kind)
        listed = await anyio.to_thread.run_sync(
            lambda: shared_node.ctl("--formatter", "json", "list_queues", "name", "type")
        )
        assert {"name": made.queue, "type": kind} in json.loads(listed)


async def test_messages_older_than_message_ttl_are_dead_lettered_under_another_key(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.dead)
        await made.channel.declare_queue(
            made.queue, message_ttl=0.2, dead_letter_exchange="", dead_letter_routing_key=made.dead
        )
        await made.publish(b"too old")
        (delivery,) = await made.taken(1, made.dead)
        # RabbitMQ 3.x also says it in headers of its own, which are plain text.
        assert delivery.headers["x-first-death-queue"] == made.queue
        assert delivery.headers["x-first-death-reason"] == "expired"


async def test_a_queue_that_nobody_uses_for_expires_is_gone(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, expires=0.3)

        async def is_there() -> bool:
            async with made.connection.channel() as channel:
                try:
                    await channel.get(made.queue, no_ack=True)  # a passive declaration would count as a use
                except NotFound:
                    return False
            return True

        assert await is_there()
        with anyio.move_on_after(20):
            while True:
                await anyio.sleep(0.5)  # each look is a use, so the interval must be longer than the expiry
                if not await is_there():
                    return
        pytest.fail("still there")


async def test_more_than_max_length_drops_the_oldest(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, max_length=2)
        await made.publish(b"1", b"2", b"3")
        assert [delivery.body for delivery in await made.taken(2)] == [b"2", b"3"]


async def test_more_than_max_length_bytes_drops_the_oldest(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, max_length_bytes=10)
        await made.publish(b"11111", b"22222", b"33333")
        assert [delivery.body for delivery in await made.taken(2)] == [b"22222", b"33333"]


async def test_overflow_reject_publish_nacks_what_does_not_fit(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, max_length=1, overflow="reject-publish")
        await made.publish(b"fits")
        # The broker looks at the length a little later than it confirms.
        with pytest.raises(Nacked):
            await made.publish(*[b"does not"] * 100)


async def test_the_highest_priority_is_served_first(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, max_priority=5)
        for priority in (1, 5, 3):
            await made.publish(b"%d" % priority, priority=priority)
        assert [delivery.body for delivery in await made.taken(3)] == [b"5", b"3", b"1"]


async def test_a_single_active_consumer_gets_everything_until_it_ends(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, single_active_consumer=True)
        async with made.connection.consumer(made.queue) as first, made.connection.consumer(made.queue) as second:
            await made.publish(b"1", b"2")
            for body in (b"1", b"2"):
                delivery = await anext(first)
                assert delivery.body == body
                delivery.ack()
            await first.stop()
            await made.publish(b"3")
            delivery = await anext(second)
            assert delivery.body == b"3"
            delivery.ack()


@asynccontextmanager
async def with_limit(url: str) -> AsyncGenerator[Bench, None]:
    """A bench whose queue dead-letters a message that failed more than twice."""
    async with bench(url) as made:
        await made.channel.declare_queue(made.dead)
        await made.channel.declare_queue(
            made.queue,
            queue_type="quorum",
            delivery_limit=2,
            dead_letter_exchange="",
            dead_letter_routing_key=made.dead,
        )
        yield made


async def test_delivery_limit_dead_letters_often_rejected_messages(shared_node: Node) -> None:
    async with with_limit(shared_node.url) as made:
        await made.publish(b"poison")
        counts: list[int | None] = []
        async with made.connection.consumer(made.queue) as consumer:
            async for delivery in consumer:
                counts.append(delivery.delivery_count)
                delivery.reject(requeue=True)
                if len(counts) == 3:
                    break
            (dead,) = await made.taken(1, made.dead)
        assert counts == [None, 1, 2]
        assert dead.body == b"poison"


async def test_delivery_limit_counts_nacks_where_the_broker_does(shared_node: Node) -> None:
    async with with_limit(shared_node.url) as made:
        await made.publish(b"poison")
        async with made.connection.consumer(made.queue) as consumer:
            for _ in range(3):
                (await anext(consumer)).nack()
            if shared_node.facts.nack_counts_towards_limit:
                (dead,) = await made.taken(1, made.dead)
                assert dead.body == b"poison"
            else:
                again = await anext(consumer)
                assert (again.body, again.redelivered, again.delivery_count) == (b"poison", True, None)
                again.ack()


async def test_a_plain_table_says_the_rest(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await made.channel.declare_queue(made.queue, max_length=5, arguments={"x-queue-mode": "lazy"})
        listed = await anyio.to_thread.run_sync(
            lambda: shared_node.ctl("--formatter", "json", "list_queues", "name", "arguments")
        )
        (arguments,) = [row["arguments"] for row in json.loads(listed) if row["name"] == made.queue]
        expected: set[tuple[str, str, object]] = {
            ("x-max-length", "signedint", 5),
            ("x-queue-mode", "longstr", "lazy"),
        }
        if shared_node.facts.records_default_queue_type:
            expected.add(("x-queue-type", "longstr", "classic"))
        assert {tuple(each) for each in arguments} == expected


@pytest.mark.parametrize("kind", ["quorum", "stream"])
async def test_a_replicated_queue_that_is_not_durable_is_refused_before_anything_is_sent(
    shared_node: Node, kind: QueueType
) -> None:
    async with bench(shared_node.url) as made:
        sent = made.connection.stats.frames_sent
        with pytest.raises(InvalidArgument, match=f"a {kind} queue is durable"):
            await made.channel.declare_queue(made.queue, queue_type=kind, exclusive=True)
        assert made.connection.stats.frames_sent == sent


# --- streams ----------------------------------------------------------------------------------------------------------


def has_come_back(connection: Connection, reconnects: int) -> bool:
    return connection.stats.reconnects > reconnects


async def stream(made: Bench, count: int) -> None:
    await made.channel.declare_queue(made.queue, queue_type="stream")
    await made.publish(*(b"%d" % number for number in range(count)))


@pytest.mark.parametrize(
    ("offset", "first"),
    [
        ("first", 0),
        (7, 7),
        (datetime.now(UTC) - timedelta(hours=1), 0),
        ("1h", 0),
    ],
    ids=["first", "a number", "a time", "an interval"],
)
async def test_a_stream_is_read_from_where_one_asks(shared_node: Node, offset: StreamOffset, first: int) -> None:
    async with bench(shared_node.url) as made:
        await stream(made, 10)
        async with made.connection.consumer(made.queue, stream_offset=offset) as consumer:
            for number in range(first, 10):
                delivery = await anext(consumer)
                assert (delivery.stream_offset, delivery.body) == (number, b"%d" % number)
                delivery.ack()


async def test_a_stream_is_read_from_what_comes_next(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await stream(made, 5)
        async with made.connection.consumer(made.queue, stream_offset="next") as consumer:
            await made.publish(b"5")
            assert (await anext(consumer)).body == b"5"


@pytest.mark.parametrize("offset", ["next", None], ids=["next", "the default"])
async def test_a_stream_that_was_lost_before_its_first_delivery_misses_nothing(
    shared_node: Node, offset: StreamOffset | None
) -> None:
    async with bench(shared_node.url) as made:
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
            policy = anyamqp.ReconnectPolicy(maximum=0.1, stable_after=0.0)
            async with anyamqp.connect(url, reconnect=policy) as connection, connection.channel() as channel:
                await channel.declare_queue(made.queue, queue_type="stream")
                async with connection.consumer(made.queue, stream_offset=offset) as consumer:
                    for loss in range(2):
                        proxy.refuse()
                        proxy.reset()
                        await eventually(lambda: connection.state is not anyamqp.State.OPEN)
                        await made.publish(b"missed %d" % loss)
                        proxy.accept()
                        await eventually(partial(has_come_back, connection, loss))
                    await made.publish(b"after")
                    with anyio.fail_after(20):
                        bodies = [(await anext(consumer)).body for _ in range(3)]
                    assert bodies == [b"missed 0", b"missed 1", b"after"]


async def test_a_stream_is_read_again_by_whoever_asks_again(shared_node: Node) -> None:
    async with bench(shared_node.url) as made:
        await stream(made, 3)
        for _ in range(2):
            async with made.connection.consumer(made.queue, stream_offset="first") as consumer:
                for number in range(3):
                    delivery = await anext(consumer)
                    assert delivery.stream_offset == number
                    delivery.ack()


async def test_a_stream_is_read_on_after_losses_with_nothing_missed_and_nothing_twice(shared_node: Node) -> None:
    count = 500
    async with bench(shared_node.url) as made:
        await stream(made, count)
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
            policy = anyamqp.ReconnectPolicy(maximum=0.1, stable_after=0.0)
            async with (
                anyamqp.connect(url, reconnect=policy) as connection,
                connection.consumer(made.queue, stream_offset="first", prefetch=20) as consumer,
            ):
                for number in range(count):
                    if number % 100 == 50:
                        losses = connection.stats.reconnects
                        proxy.reset()
                        await eventually(partial(has_come_back, connection, losses))
                    delivery = await anext(consumer)
                    assert delivery.stream_offset == number
                    if not delivery.is_stale:
                        delivery.ack()
