"""The options of a consumer, by their effect on a real broker; and handlers."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
    ContentTooLarge,
    Delivery,
    InvalidArgument,
    Message,
    ReconnectPolicy,
    Settings,
    State,
)
from anyamqp.testing import FaultProxy
from support.queues import depth, take_bodies, unique, until_depth
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)


@dataclass(frozen=True)
class Bench:
    """A connection, a queue with dead letters, and helpers that fill and count queues."""

    connection: Connection
    channel: Channel
    queue: str
    dead: str

    async def publish(self, *bodies: bytes, to: str | None = None) -> None:
        async with self.connection.publisher() as publisher:
            for body in bodies:
                await publisher.submit(Message(body), routing_key=to or self.queue)

    async def ready(self, queue: str | None = None) -> int:
        """How many messages are ready in the queue."""
        return await depth(self.channel, queue or self.queue)

    async def until_ready(self, expected: int, queue: str | None = None) -> None:
        """Wait until so many messages wait: the broker handles acks and returns in its own time."""
        await until_depth(self.channel, queue or self.queue, expected)

    async def take_all(self, queue: str | None = None) -> list[bytes]:
        """Take all messages out of the queue. Returns their bodies."""
        return await take_bodies(self.channel, queue or self.queue)


@asynccontextmanager
async def a_bench(node: Node, settings: Settings | None = None) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    dead = f"dead-{queue}"
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(settings or node.url, reconnect=EAGER) as connection,
            connection.channel() as channel,
        ):
            await channel.declare_queue(dead)
            await channel.declare_queue(queue, dead_letter_exchange="", dead_letter_routing_key=dead)
            try:
                yield Bench(connection, channel, queue, dead)
            finally:
                await channel.delete_queue(queue)
                await channel.delete_queue(dead)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    return [await anext(consumer) for _ in range(count)]


async def all_arrived(bench: Bench, consumer: Consumer, count: int) -> None:
    """Wait until a consumer holds so many deliveries that it has not handed out."""
    await bench.until_ready(0)
    waiting: list[Delivery] = vars(consumer)["_waiting"]
    await eventually(lambda: len(waiting) == count)


class Gate:
    """A handler whose runs wait until they are let go.

    Attributes:
        began: the bodies that it was called with, in order.
        ended: the bodies that it has finished, in order.
        running: how many run now.
        most: how many ran at one time at most.
    """

    def __init__(self) -> None:
        self.began: list[Delivery] = []
        self.ended: list[bytes] = []
        self.running = 0
        self.most = 0
        self._open = anyio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.began.append(delivery)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._open.wait()
            await anyio.lowlevel.checkpoint()
        finally:
            self.running -= 1
        self.ended.append(delivery.body)

    def open(self) -> None:
        self._open.set()


# --- options ----------------------------------------------------------------------------------------------------------


async def test_each_consumer_of_a_connection_has_its_own_prefetch(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(20))
        await bench.publish(*numbered(20), to=bench.dead)
        async with (
            bench.connection.consumer(bench.queue, prefetch=2) as narrow,
            bench.connection.consumer(bench.dead, prefetch=7) as wide,
        ):
            await take(narrow, 2)
            await take(wide, 7)
            assert (await bench.ready(), await bench.ready(bench.dead)) == (18, 13)


async def test_prefetch_of_zero_is_no_limit(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(300))
        async with bench.connection.consumer(bench.queue, prefetch=0) as consumer:
            await take(consumer, 300)
            assert await bench.ready() == 0
        await bench.until_ready(300)


async def test_no_ack_empties_the_queue_without_a_word(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(300))
        async with bench.connection.consumer(bench.queue, no_ack=True) as consumer:
            assert [delivery.body for delivery in await take(consumer, 300)] == numbered(300)
            sent = bench.connection.stats.frames_sent
            await bench.ready()
            assert bench.connection.stats.frames_sent == sent + 1
        assert await bench.ready() == 0


async def test_exclusive_is_refused_where_somebody_consumes_already(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        anyamqp.connect(shared_node.url) as other,
    ):
        async with other.consumer(bench.queue):
            with pytest.raises(AccessRefused, match="exclusive"):
                async with bench.connection.consumer(bench.queue, exclusive=True):
                    pytest.fail("exclusive beside another consumer")
        async with bench.connection.consumer(bench.queue, exclusive=True) as consumer:
            await bench.publish(b"mine")
            (await anext(consumer)).ack()


async def test_exclusive_keeps_a_second_connection_out_and_ends_with_its_block(shared_node: Node) -> None:
    async with (
        a_bench(shared_node) as bench,
        anyamqp.connect(shared_node.url) as other,
    ):
        async with bench.connection.consumer(bench.queue, exclusive=True):
            with pytest.raises(AccessRefused, match="exclusive"):
                async with other.consumer(bench.queue):
                    pytest.fail("beside an exclusive consumer")
        async with other.consumer(bench.queue) as consumer:
            await bench.publish(b"free again")
            (await anext(consumer)).ack()


@pytest.mark.parametrize(
    "options", [{"priority": 10}, {"arguments": {"x-priority": 10}}], ids=["priority", "arguments"]
)
async def test_the_consumer_with_the_higher_priority_is_served_first(
    shared_node: Node, options: dict[str, Any]
) -> None:
    async with (
        a_bench(shared_node) as bench,
        bench.connection.consumer(bench.queue, prefetch=3) as low,
        bench.connection.consumer(bench.queue, prefetch=3, **options) as high,
    ):
        await bench.publish(*numbered(4))
        assert [delivery.body for delivery in await take(high, 3)] == numbered(3)
        assert (await anext(low)).body == b"3"
        await bench.channel.purge_queue(bench.queue)


async def test_a_priority_given_twice_is_refused_before_anything_is_sent(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        with pytest.raises(InvalidArgument, match="x-priority"):
            bench.connection.consumer(bench.queue, priority=1, arguments={"x-priority": 2})


async def test_its_own_tag_is_on_deliveries_and_at_the_broker(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        tag = unique("billing")
        async with bench.connection.consumer(bench.queue, consumer_tag=tag) as consumer:
            await bench.publish(b"x")
            async with await anext(consumer) as delivery:
                assert (consumer.consumer_tag, delivery.consumer_tag) == (tag, tag)
            listed = await anyio.to_thread.run_sync(
                shared_node.ctl, "--formatter", "json", "list_consumers", "queue_name", "consumer_tag"
            )
        assert {"queue_name": bench.queue, "consumer_tag": tag} in json.loads(listed)


async def test_reply_to_and_correlation_id_are_fields_of_a_delivery(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.publisher() as publisher:
        message = Message(b"?", reply_to="answers", correlation_id="question 7")
        await publisher.publish(message, routing_key=bench.queue)
        async with bench.connection.consumer(bench.queue) as consumer, await anext(consumer) as delivery:
            assert (delivery.reply_to, delivery.correlation_id) == ("answers", "question 7")


# --- settling ---------------------------------------------------------------------------------------------------------


async def test_reject_dead_letters_and_leaves_the_others(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(3))
        async with bench.connection.consumer(bench.queue) as consumer:
            for delivery in await take(consumer, 3):
                if delivery.body == b"1":
                    delivery.reject()
                else:
                    delivery.ack()
        await bench.until_ready(1, bench.dead)
        assert (await bench.take_all(bench.dead), await bench.ready()) == ([b"1"], 0)


async def test_reject_drops_where_there_are_no_dead_letters(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"poison", b"good", to=bench.dead)
        async with bench.connection.consumer(bench.dead) as consumer:
            poison, _ = await take(consumer, 2)
            poison.reject()
        await bench.until_ready(1, bench.dead)
        assert await bench.take_all(bench.dead) == [b"good"]


async def test_reject_with_requeue_has_it_delivered_again(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer(bench.queue) as consumer:
            (await anext(consumer)).reject(requeue=True)
            async with await anext(consumer) as again:
                assert (again.body, again.redelivered) == (b"x", True)
        assert (await bench.ready(), await bench.ready(bench.dead)) == (0, 0)


async def test_nack_multiple_takes_all_that_is_older(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(5))
        async with bench.connection.consumer(bench.queue) as consumer:
            deliveries = await take(consumer, 5)
            deliveries[0].ack()
            deliveries[3].nack(requeue=False, multiple=True)
            assert [delivery.is_settled for delivery in deliveries] == [True] * 4 + [False]
        await bench.until_ready(3, bench.dead)
        await bench.until_ready(1)
        assert await bench.take_all(bench.dead) == [b"1", b"2", b"3"]
        assert await bench.take_all() == [b"4"]


async def test_nack_multiple_with_requeue_has_them_delivered_again_in_order(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(4))
        async with bench.connection.consumer(bench.queue) as consumer:
            (await take(consumer, 4))[2].nack(multiple=True)
            again = await take(consumer, 3)
            assert [(one.body, one.redelivered) for one in again] == [(b"0", True), (b"1", True), (b"2", True)]


async def test_ack_multiple_settles_all_that_is_older_and_no_more(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(5))
        async with bench.connection.consumer(bench.queue) as consumer:
            deliveries = await take(consumer, 5)
            deliveries[2].ack(multiple=True)
            assert [delivery.is_settled for delivery in deliveries] == [True] * 3 + [False] * 2
        await bench.until_ready(2)
        assert await bench.take_all() == [b"3", b"4"]


async def test_acks_that_leave_together_cost_few_frames(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(100))
        async with bench.connection.consumer(bench.queue) as consumer:
            deliveries = await take(consumer, 100)
            await bench.ready()
            sent = bench.connection.stats.frames_sent
            for delivery in deliveries:
                delivery.ack()
            # The request behind them left after them. One frame is its own.
            await bench.ready()
            assert 2 <= bench.connection.stats.frames_sent - sent <= 5
        await bench.ready()
        assert await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue) == 0


async def test_acks_out_of_order_leave_exactly_what_was_not_acked(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(100))
        kept = {0, 1, 17, 50, 98}
        async with bench.connection.consumer(bench.queue) as consumer:
            deliveries = await take(consumer, 100)
            # From both ends and in several turns of the loop, so that runs and single ones mix.
            for n in [*range(99, 60, -1), *range(0, 61, 2), *range(1, 61, 2)]:
                if n not in kept:
                    deliveries[n].ack()
                if n % 7 == 0:
                    await bench.ready()
        await bench.until_ready(len(kept))
        assert await bench.take_all() == [b"%d" % n for n in sorted(kept)]


# --- too large --------------------------------------------------------------------------------------------------------


async def test_a_message_that_is_too_large_ends_its_consumer_and_nothing_else(shared_node: Node) -> None:
    settings = replace(Settings.from_urls(shared_node.url), max_message_size=1000)
    async with (
        a_bench(shared_node, settings) as bench,
        anyamqp.connect(shared_node.url) as other,
        other.publisher() as publisher,
        bench.connection.consumer(bench.dead) as bystander,
        bench.connection.consumer(bench.queue) as consumer,
    ):
        await publisher.publish(Message(bytes(1000)), routing_key=bench.queue)
        async with await anext(consumer) as fits:
            assert len(fits.body) == 1000
        await publisher.publish(Message(bytes(1001)), routing_key=bench.queue)
        with pytest.raises(ContentTooLarge, match="1001"):
            await anext(consumer)
        with pytest.raises(ContentTooLarge):
            await anext(consumer)
        assert not consumer.is_consuming
        await bench.until_ready(1)
        await publisher.publish(Message(b"goes on"), routing_key=bench.dead)
        async with await anext(bystander) as delivery:
            assert delivery.body == b"goes on"
        assert (bench.connection.state, bench.connection.stats.link_number) == (State.OPEN, 1)


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_process_limits_concurrency_and_acks_each_delivery(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(20))
        gate = Gate()
        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, gate, concurrency=3))
            await all_arrived(bench, consumer, 17)
            assert gate.running == 3
            gate.open()
            await eventually(lambda: len(gate.ended) == 20)
            await consumer.stop()
        assert gate.most == 3
        assert sorted(gate.ended, key=int) == numbered(20)
        await bench.ready()
        assert await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue) == 0


async def test_process_of_less_than_one_handler_is_refused(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        with pytest.raises(InvalidArgument, match="concurrency"):
            await consumer.process(Gate(), concurrency=0)


async def test_stop_lets_running_handlers_finish_and_gives_the_rest_back(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(10))
        gate = Gate()
        over: list[str] = []
        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:

            async def process() -> None:
                await consumer.process(gate, concurrency=2)
                over.append("process")

            tasks.start_soon(process)
            await all_arrived(bench, consumer, 8)
            assert gate.running == 2
            await consumer.stop()
            assert (gate.running, over, consumer.is_consuming) == (2, [], False)
            await bench.until_ready(8)
            gate.open()
            await eventually(lambda: over == ["process"])
            # Inside the block still: nothing but their acks took the two out of the queue.
            await bench.ready()
            assert await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue) == 8
        assert await bench.take_all() == numbered(10)[2:]
        assert sorted(gate.ended) == [b"0", b"1"]


async def test_stop_without_acknowledgements_hands_out_what_has_arrived(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(10))
        async with bench.connection.consumer(bench.queue, no_ack=True) as consumer:
            await all_arrived(bench, consumer, 10)
            await consumer.stop()
            assert [delivery.body async for delivery in consumer] == numbered(10)
        assert await bench.ready() == 0


async def test_a_handlers_error_can_be_rejected_and_the_processing_goes_on(
    shared_node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(10))
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            handled.append(delivery.body)
            if delivery.body in (b"2", b"5"):
                raise LookupError(f"no account {delivery.body!r}")

        with caplog.at_level(logging.ERROR, "anyamqp"):
            async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
                tasks.start_soon(partial(consumer.process, handle, on_error="reject"))
                await eventually(lambda: len(handled) == 10)
                await consumer.stop()
        assert handled == numbered(10)
        await bench.until_ready(2, bench.dead)
        assert (await bench.take_all(bench.dead), await bench.take_all()) == ([b"2", b"5"], [])
        logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info is not None]
        assert logged == ["no account b'2'", "no account b'5'"]


async def test_a_handler_may_settle_by_itself(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(3))
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            handled.append(delivery.body)
            if delivery.body == b"0":
                delivery.reject()
            elif delivery.body == b"1":
                delivery.ack()
                raise LookupError("after the ack")

        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, handle, on_error="reject"))
            await eventually(lambda: len(handled) == 3)
            await consumer.stop()
        assert handled == numbered(3)
        await bench.until_ready(1, bench.dead)
        assert (await bench.take_all(bench.dead), await bench.take_all()) == ([b"0"], [])


async def test_cancelling_process_gives_back_what_is_being_handled(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(*numbered(2))
        gate = Gate()
        async with bench.connection.consumer(bench.queue, prefetch=2) as consumer:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(consumer.process, gate, concurrency=2))
                await eventually(lambda: gate.running == 2)
                tasks.cancel_scope.cancel()
            assert gate.ended == []
            assert [delivery.is_settled for delivery in gate.began] == [True, True]
            # The consumer itself was not cancelled: the broker delivers them to it again.
            again = await take(consumer, 2)
            assert sorted((one.body, one.redelivered) for one in again) == [(b"0", True), (b"1", True)]


async def test_process_goes_on_over_a_loss(shared_node: Node) -> None:
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        async with a_bench(shared_node) as bench, anyamqp.connect(settings, reconnect=EAGER) as connection:
            await bench.publish(*numbered(60))
            handled: list[bytes] = []
            resets = {10, 30}

            async def handle(delivery: Delivery) -> None:
                await anyio.lowlevel.checkpoint()
                handled.append(delivery.body)
                if len(handled) in resets:
                    resets.remove(len(handled))
                    lost = connection.stats.link_number
                    proxy.reset()
                    await eventually(lambda: connection.stats.link_number > lost)
                    assert delivery.is_stale

            async with connection.consumer(bench.queue, prefetch=5) as consumer, anyio.create_task_group() as tasks:
                tasks.start_soon(partial(consumer.process, handle, concurrency=2))
                await eventually(lambda: set(handled) == set(numbered(60)), within=30)
                with anyio.fail_after(20):
                    while await anyio.to_thread.run_sync(shared_node.queue_depth, bench.queue):
                        pass  # what was handled before a loss is delivered and handled once more
                await consumer.stop()
            assert connection.stats.reconnects == 2
            # Twice are only those that were delivered when it was lost: two losses, five deliveries each.
            assert len(handled) - 60 <= 10
