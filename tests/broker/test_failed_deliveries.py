"""Failed deliveries on a real broker: delivery limits, dead letters, and few redeliveries."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel
import pytest

import anyamqp
from anyamqp import Channel, Connection, Consumer, Delivery, Message, Publisher, QueueType, Retry
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


@dataclass(frozen=True)
class Bench:
    """A queue whose rejected messages go to another one."""

    connection: Connection
    channel: Channel
    publisher: Publisher
    queue: str
    dead: str

    async def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.publisher.publish(Message(body), routing_key=self.queue)

    async def next_dead(self) -> Delivery:
        async with self.connection.consumer(self.dead) as consumer:
            return await next_of(consumer)

    async def again(self) -> Delivery:
        """The queue's first message, which stays there."""
        async with self.connection.consumer(self.queue) as consumer:
            return await next_of(consumer)


@asynccontextmanager
async def a_bench(node: Node, queue_type: QueueType, delivery_limit: int | None = None) -> AsyncGenerator[Bench, None]:
    name = unique("queue")
    dead = f"dead-{name}"
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(node.url) as connection, connection.channel() as channel:
            await channel.declare_queue(dead)
            options = anyamqp.QueueOptions(queue_type=queue_type, dead_letter_exchange="", dead_letter_routing_key=dead)
            if delivery_limit is not None:
                options["delivery_limit"] = delivery_limit
            await channel.declare_queue(name, **options)
            async with connection.publisher() as publisher:
                yield Bench(connection, channel, publisher, name, dead)
            await channel.delete_queue(name)
            await channel.delete_queue(dead)


async def next_of(consumer: Consumer) -> Delivery:
    with anyio.fail_after(20):
        return await anext(consumer)


class Poison:
    """A handler that always fails for b"poison".

    Attributes:
        handled: the bodies of the deliveries that it was run for.
    """

    def __init__(self) -> None:
        self.handled: list[bytes] = []

    async def __call__(self, delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        self.handled.append(delivery.body)
        if delivery.body == b"poison":
            raise LookupError("no account")


def returned_once(delivery: Delivery) -> bool:
    """Whether a quorum queue got it back once, and not as a failure where it tells the two apart (RabbitMQ 4.3)."""
    if "x-acquired-count" in delivery.headers:
        return (delivery.headers["x-acquired-count"], delivery.delivery_count) == (1, None)
    return delivery.delivery_count == 1


# --- on every queue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_process_requeues_a_poison_message_few_times_and_handles_the_rest(
    shared_node: Node, queue_type: QueueType
) -> None:
    """Measured before: 11,000 redeliveries a second on a classic queue, 1,600 on a quorum queue of RabbitMQ 4.3."""
    async with a_bench(shared_node, queue_type, delivery_limit=100 if queue_type == "quorum" else None) as bench:
        await bench.publish(b"poison", *(b"%d" % n for n in range(50)))
        poison = Poison()
        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, poison)
            await eventually(lambda: poison.handled.count(b"poison") >= 5)
            began = anyio.current_time()
            await eventually(lambda: poison.handled.count(b"poison") >= 6)
            assert anyio.current_time() - began > 0.5  # the fifth pause is one of 0.8 s
            await consumer.stop()
        assert sorted(set(poison.handled)) == sorted([b"poison", *(b"%d" % n for n in range(50))])
        assert len(poison.handled) == 50 + poison.handled.count(b"poison")


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_retry_dead_letters_after_its_limit(shared_node: Node, queue_type: QueueType) -> None:
    async with a_bench(shared_node, queue_type) as bench:
        await bench.publish(b"poison", b"good")
        poison = Poison()
        async with (
            bench.connection.consumer(bench.queue, on_error=Retry(limit=2, delay=0.05)) as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consumer.process, poison)
            assert (await bench.next_dead()).body == b"poison"
            await consumer.stop()
        assert poison.handled.count(b"poison") == 3
        assert poison.handled.count(b"good") == 1


# --- on a quorum queue ------------------------------------------------------------------------------------------------


async def test_the_delivery_limit_dead_letters_a_poison_message(shared_node: Node) -> None:
    """Measured before on RabbitMQ 4.3: with a limit of 3 it went round 8,215 times in 5 s."""
    async with a_bench(shared_node, "quorum", delivery_limit=3) as bench:
        await bench.publish(b"poison")
        poison = Poison()
        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, poison)
            assert (await bench.next_dead()).body == b"poison"
            await consumer.stop()
        assert poison.handled == [b"poison"] * 4


async def test_the_delivery_limit_holds_in_the_iterator(shared_node: Node) -> None:
    async with a_bench(shared_node, "quorum", delivery_limit=3) as bench:
        await bench.publish(b"poison")
        poison = Poison()

        async def iterate(consumer: Consumer) -> None:
            async for delivery in consumer:
                with suppress(LookupError):
                    async with delivery:
                        await poison(delivery)

        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(iterate, consumer)
            assert (await bench.next_dead()).body == b"poison"
            await consumer.stop()
        assert poison.handled == [b"poison"] * 4


async def test_an_error_that_ends_the_consumer_counts_once(shared_node: Node) -> None:
    async with a_bench(shared_node, "quorum") as bench:
        await bench.publish(b"poison")
        with suppress(LookupError):
            async with bench.connection.consumer(bench.queue) as consumer:
                async for delivery in consumer:
                    async with delivery:
                        raise LookupError("no account")
        assert (await bench.again()).delivery_count == 1


async def test_what_was_never_handed_out_goes_back_once(shared_node: Node) -> None:
    async with a_bench(shared_node, "quorum") as bench:
        await bench.publish(b"first", b"second")
        async with bench.connection.consumer(bench.queue) as consumer:
            (await next_of(consumer)).ack()
            await eventually(lambda: len(vars(consumer)["_waiting"]) == 1)
        assert returned_once(await bench.again())


async def test_retry_counts_over_all_consumers_of_a_quorum_queue(shared_node: Node) -> None:
    async with a_bench(shared_node, "quorum") as bench:
        await bench.publish(b"poison")
        for _ in range(3):
            async with bench.connection.consumer(bench.queue, on_error=Retry(limit=2, delay=0)) as consumer:
                with suppress(LookupError):
                    async with await next_of(consumer):
                        raise LookupError
        assert (await bench.next_dead()).body == b"poison"


async def test_closing_the_connection_costs_no_delivery_limit(shared_node: Node) -> None:
    """Measured before: 0 of 5 messages were left after four closes on RabbitMQ 4.3."""
    bodies = {b"%d" % n for n in range(5)}
    closes = 2 if shared_node.facts.nack_counts_towards_limit else 4
    async with a_bench(shared_node, "quorum", delivery_limit=2) as bench:
        await bench.publish(*bodies)
        for _ in range(closes):
            async with anyamqp.connect(shared_node.url) as connection, connection.consumer(bench.queue) as consumer:
                (await next_of(consumer)).requeue(failed=False)
                await connection.close()
        left: set[bytes] = set()
        async with bench.connection.consumer(bench.queue) as consumer:
            while len(left) < 5:
                async with await next_of(consumer) as delivery:
                    left.add(delivery.body)
        assert left == bodies


async def test_what_a_cancelled_handler_had_goes_back_once(shared_node: Node) -> None:
    async with a_bench(shared_node, "quorum") as bench:
        await bench.publish(b"x")
        began = anyio.Event()

        async def never(_: Delivery) -> None:
            began.set()
            await anyio.sleep_forever()

        async with bench.connection.consumer(bench.queue) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, never))
            await began.wait()
            tasks.cancel_scope.cancel()
        assert returned_once(await bench.again())
