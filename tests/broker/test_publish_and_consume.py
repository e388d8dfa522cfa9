"""Publishing with confirms and consuming, against a real broker: every outcome, every way to settle, every property."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal

import anyio
import pytest

import anyamqp
from anyamqp import (
    Channel,
    Connection,
    Consumer,
    FieldTable,
    Message,
    Properties,
    Publication,
    Publisher,
    Receipt,
    Settings,
    State,
)
from anyamqp.testing import FaultProxy
from support.queues import depth, unique, until_depth
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
FRAME_MAX_FLOOR = 8192
FRAME_OVERHEAD = 8
"""Octets of a frame that are not payload: type, channel, size and end (AMQP 0-9-1, 4.2.3)."""


@dataclass(frozen=True)
class Bench:
    """A connection, a channel, a publisher and an empty queue."""

    connection: Connection
    channel: Channel
    publisher: Publisher
    queue: str

    async def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.publisher.publish(Message(body), routing_key=self.queue)

    async def ready_messages(self) -> int:
        return await depth(self.channel, self.queue)

    async def until_ready(self, expected: int) -> None:
        """Wait until so many messages are ready: the broker handles acks and returns in its own time."""
        await until_depth(self.channel, self.queue, expected)


@asynccontextmanager
async def a_bench(node: Node, settings: Settings | None = None) -> AsyncGenerator[Bench, None]:
    queue = unique("queue")
    with anyio.fail_after(LIMIT):
        async with (
            anyamqp.connect(settings or node.url) as connection,
            connection.channel() as channel,
            connection.publisher() as publisher,
        ):
            await channel.declare_queue(queue)
            try:
                yield Bench(connection, channel, publisher, queue)
            finally:
                await channel.delete_queue(queue)


async def take(consumer: Consumer, count: int) -> list[anyamqp.Delivery]:
    return [await anext(consumer) for _ in range(count)]


# --- outcomes ---------------------------------------------------------------------------------------------------------


async def test_a_confirmed_publish_is_in_the_queue(shared_node: Node) -> None:
    """Invariant 4: confirmed implies delivered."""
    async with a_bench(shared_node) as bench:
        receipt = await bench.publisher.publish(Message(b"one", message_id="mine"), routing_key=bench.queue)
        assert receipt == Receipt("mine", attempts=1)
        assert await bench.ready_messages() == 1


async def test_a_mandatory_message_that_no_queue_takes_is_unroutable(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        nowhere = unique("queue")
        with pytest.raises(anyamqp.Unroutable, match="NO_ROUTE") as caught:
            await bench.publisher.publish(Message(b"lost"), routing_key=nowhere)
        assert (caught.value.exchange, caught.value.routing_key, caught.value.code) == ("", nowhere, 312)
        assert caught.value.message_id is not None
        assert (await bench.publisher.publish(Message(b"dropped"), routing_key=nowhere, mandatory=False)).attempts == 1
        assert bench.publisher.unconfirmed == 0


async def test_only_the_unroutable_ones_of_many_fail(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        submitted: dict[Publication, bool] = {}
        for n in range(200):
            is_routable = n % 7 != 0
            key = bench.queue if is_routable else f"nowhere-{n % 2}-{bench.queue}"
            submitted[await bench.publisher.submit(Message(b"%d" % n), routing_key=key)] = is_routable
        for publication, is_routable in submitted.items():
            if is_routable:
                assert (await publication).attempts == 1
            else:
                with pytest.raises(anyamqp.Unroutable) as caught:
                    await publication
                assert caught.value.message_id == publication.message_id
        assert await bench.ready_messages() == sum(submitted.values())


async def test_a_full_queue_that_rejects_publishes_nacks(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        full = f"{bench.queue}-full"
        await bench.channel.declare_queue(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        try:
            await bench.publisher.publish(Message(b"fits"), routing_key=full)
            with pytest.raises(anyamqp.Nacked) as caught:
                await bench.publisher.publish(Message(b"too much", message_id="second"), routing_key=full)
            assert caught.value.message_id == "second"
        finally:
            await bench.channel.delete_queue(full)


async def test_a_missing_exchange_fails_only_that_publish(shared_node: Node) -> None:
    """Invariants 3 and 5: the guilty publish has its outcome; the others are confirmed, in order."""
    async with a_bench(shared_node) as bench:
        missing = unique("exchange")

        async def submit(n: int) -> Publication:
            return await bench.publisher.submit(Message(b"%d" % n), routing_key=bench.queue)

        before = [await submit(n) for n in range(25)]
        guilty = await bench.publisher.submit(Message(b"guilty"), exchange=missing, routing_key=bench.queue)
        after = [await submit(n) for n in range(25, 50)]
        with pytest.raises(anyamqp.NotFound, match=missing):
            await guilty
        for publication in before + after:
            await publication
        async with bench.connection.consumer(bench.queue) as consumer:
            bodies: list[bytes] = []
            while len(set(bodies)) < 50:
                async with await anext(consumer) as delivery:
                    bodies.append(delivery.body)
        assert list(dict.fromkeys(bodies)) == [b"%d" % n for n in range(50)]
        assert bench.connection.stats.link_number == 1
        assert (await bench.publisher.publish(Message(b"goes on"), routing_key=bench.queue)).attempts == 1


async def test_several_missing_exchanges_are_all_found(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        good: list[Publication] = []
        guilty: dict[str, Publication] = {}
        for n in range(40):
            good.append(await bench.publisher.submit(Message(b"good"), routing_key=bench.queue))
            if n % 10 == 3:
                missing = unique(f"exchange-{n}")
                guilty[missing] = await bench.publisher.submit(Message(b"guilty"), exchange=missing)
        for missing, publication in guilty.items():
            with pytest.raises(anyamqp.NotFound, match=missing):
                await publication
        for publication in good:
            await publication
        assert (bench.connection.state, bench.connection.stats.open_channels) == (State.OPEN, 2)


async def test_a_foreign_user_id_is_a_failed_precondition_of_that_publish(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        with pytest.raises(anyamqp.PreconditionFailed, match="user_id"):
            await bench.publisher.publish(Message(b"forged", user_id="somebody"), routing_key=bench.queue)
        await bench.publisher.publish(Message(b"mine", user_id="guest"), routing_key=bench.queue)
        assert await bench.ready_messages() == 1


async def test_flush_waits_for_every_outcome(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        for _ in range(1000):
            await bench.publisher.submit(Message(b"x"), routing_key=bench.queue)
        await bench.publisher.flush()
        assert bench.publisher.unconfirmed == 0
        assert await bench.ready_messages() == 1000


async def test_flush_raises_the_failures_together_and_once(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        for n in range(10):
            await bench.publisher.submit(Message(b"good"), routing_key=bench.queue)
            if n % 5 == 0:
                message = Message(b"bad", message_id=f"bad-{n}")
                await bench.publisher.submit(message, routing_key=f"nowhere-{bench.queue}")
        with pytest.raises(ExceptionGroup) as caught:
            await bench.publisher.flush()
        errors = caught.value.exceptions
        assert [type(error) for error in errors] == [anyamqp.Unroutable] * 2
        assert ["bad-0" in str(errors[0]), "bad-5" in str(errors[1])] == [True, True]
        await bench.publisher.flush()


async def test_flush_does_not_repeat_what_was_awaited(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        bad = await bench.publisher.submit(Message(b"bad"), routing_key=f"nowhere-{bench.queue}")
        with pytest.raises(anyamqp.Unroutable):
            await bad
        await bench.publisher.flush()


async def test_leaving_the_publisher_raises_what_failed(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:

        async def publish_and_leave() -> None:
            async with bench.connection.publisher() as publisher:
                await publisher.submit(Message(b"good"), routing_key=bench.queue)
                await publisher.submit(Message(b"bad"), routing_key=f"nowhere-{bench.queue}")

        with pytest.raises(ExceptionGroup, match="1 publishes failed"):
            await publish_and_leave()
        assert await bench.ready_messages() == 1


@pytest.mark.parametrize("limits", [(8, 1 << 20), (1000, 800)], ids=["count", "bytes"])
async def test_the_window_bounds_what_is_unconfirmed(shared_node: Node, limits: tuple[int, int]) -> None:
    """Invariant 11: slow peers cause waiting, not growth."""
    window, window_bytes = limits
    with FaultProxy(shared_node.host, shared_node.port) as proxy:
        settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
        async with (
            a_bench(shared_node, settings) as bench,
            bench.connection.publisher(window=window, window_bytes=window_bytes) as publisher,
        ):
            submitted: list[Publication] = []

            async def submit_many() -> None:
                for _ in range(30):
                    publication = await publisher.submit(Message(bytes(100)), routing_key=bench.queue)
                    submitted.append(publication)

            proxy.black_hole()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(submit_many)
                await eventually(lambda: publisher.unconfirmed == 8)
                await anyio.wait_all_tasks_blocked()
                assert (publisher.unconfirmed, len(submitted)) == (8, 8)
                proxy.heal()
            await publisher.flush()
            assert await bench.ready_messages() == 30


async def test_message_ids_are_filled_in_and_unique(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        submitted = [await bench.publisher.submit(Message(b"x"), routing_key=bench.queue) for _ in range(300)]
        kept = await bench.publisher.submit(Message(b"x", message_id="my own"), routing_key=bench.queue)
        await bench.publisher.flush()
        async with bench.connection.consumer(bench.queue, no_ack=True) as consumer:
            arrived = [delivery.message_id for delivery in await take(consumer, 301)]
        assert arrived == [one.message_id for one in (*submitted, kept)]
        assert len(set(arrived)) == 301
        assert arrived[-1] == "my own"


# --- settling ---------------------------------------------------------------------------------------------------------


async def test_acknowledged_messages_are_gone(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"a", b"b", b"c")
        async with bench.connection.consumer(bench.queue) as consumer:
            for delivery in await take(consumer, 3):
                assert (delivery.routing_key, delivery.exchange, delivery.redelivered) == (bench.queue, "", False)
                assert delivery.consumer_tag == consumer.consumer_tag
                delivery.ack()
        assert await bench.ready_messages() == 0


async def test_one_ack_covers_everything_older(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"a", b"b", b"c", b"d")
        async with bench.connection.consumer(bench.queue) as consumer:
            (await take(consumer, 3))[-1].ack(multiple=True)
            await take(consumer, 1)
        await bench.until_ready(1)


async def test_a_nacked_message_is_delivered_again(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"again")
        async with bench.connection.consumer(bench.queue) as consumer:
            first = await anext(consumer)
            first.nack()
            again = await anext(consumer)
            assert (again.body, again.redelivered, again.message_id) == (b"again", True, first.message_id)
            again.nack(requeue=False)
        assert await bench.ready_messages() == 0


async def test_a_rejected_message_is_dead_lettered(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        source = f"{bench.queue}-source"
        arguments: FieldTable = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": bench.queue}
        await bench.channel.declare_queue(source, arguments=arguments)
        try:
            await bench.publisher.publish(Message(b"poison"), routing_key=source)
            async with bench.connection.consumer(source) as consumer, bench.connection.consumer(bench.queue) as dead:
                (await anext(consumer)).reject()
                async with await anext(dead) as delivery:
                    assert delivery.body == b"poison"
                    deaths = delivery.headers["x-death"]
                    assert isinstance(deaths, list)
                    assert isinstance(deaths[0], dict)
                    assert (deaths[0]["queue"], deaths[0]["reason"], deaths[0]["count"]) == (source, "rejected", 1)
        finally:
            await bench.channel.delete_queue(source)


async def test_a_handler_that_fails_gives_the_message_back(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"once more")
        async with bench.connection.consumer(bench.queue) as consumer:
            with pytest.raises(ZeroDivisionError):
                async with await anext(consumer):
                    raise ZeroDivisionError
            async with await anext(consumer) as delivery:
                assert delivery.redelivered
        assert await bench.ready_messages() == 0


async def test_settling_twice_is_refused_and_costs_no_channel(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"a", b"b")
        async with bench.connection.consumer(bench.queue) as consumer:
            delivery = await anext(consumer)
            delivery.ack()
            for again in (delivery.ack, delivery.nack, delivery.reject):
                with pytest.raises(anyamqp.InvalidUse, match="already settled"):
                    again()
            async with await anext(consumer) as second:
                assert second.body == b"b"
        assert await bench.ready_messages() == 0


async def test_unsettled_deliveries_are_requeued_at_the_consumers_end(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"a", b"b", b"c")
        async with bench.connection.consumer(bench.queue) as consumer:
            await take(consumer, 2)
        await bench.until_ready(3)


async def test_prefetch_limits_what_is_unsettled(shared_node: Node) -> None:
    """Invariant 11: memory is bounded by prefetch."""
    async with a_bench(shared_node) as bench:
        await bench.publish(*(b"%d" % n for n in range(10)))
        async with bench.connection.consumer(bench.queue, prefetch=3) as consumer:
            held = await take(consumer, 3)
            assert await bench.ready_messages() == 7
            with anyio.move_on_after(0.2) as scope:
                await anext(consumer)
            assert scope.cancelled_caught
            held[0].ack()
            assert (await anext(consumer)).body == b"3"
            assert await bench.ready_messages() == 6


async def test_without_acknowledgements_the_broker_forgets_at_once(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publish(b"a", b"b")
        async with bench.connection.consumer(bench.queue, no_ack=True) as consumer:
            for delivery in await take(consumer, 2):
                assert delivery.is_settled
                with pytest.raises(anyamqp.InvalidUse, match="no_ack"):
                    delivery.ack()
        assert await bench.ready_messages() == 0


async def test_many_messages_without_acknowledgements_all_arrive_in_order(shared_node: Node) -> None:
    """More than the consumer holds before it pauses reading (invariant 11)."""
    async with a_bench(shared_node) as bench:
        for n in range(5000):
            await bench.publisher.submit(Message(b"%d" % n), routing_key=bench.queue)
        await bench.publisher.flush()
        async with bench.connection.consumer(bench.queue, no_ack=True) as consumer:
            for n in range(5000):
                assert (await anext(consumer)).body == b"%d" % n
        assert bench.connection.stats.link_number == 1


@pytest.mark.parametrize("no_ack", [True, False], ids=["without acknowledgements", "without a prefetch"])
async def test_a_reader_whom_nothing_slows_down_may_publish_for_each_delivery(
    shared_node: Node, *, no_ack: bool
) -> None:
    """Reading pauses when a thousand deliveries wait; the confirm is behind them."""
    count = 1500
    async with a_bench(shared_node) as bench:
        for n in range(count):
            await bench.publisher.submit(Message(b"%d" % n), routing_key=bench.queue)
        await bench.publisher.flush()
        async with bench.connection.consumer(bench.queue, no_ack=no_ack, prefetch=0) as consumer:
            for n in range(count):
                delivery = await anext(consumer)
                assert delivery.body == b"%d" % n
                await bench.publisher.publish(Message(b"done"), routing_key=bench.queue)
                if not no_ack:
                    delivery.ack()


async def test_a_second_consumer_of_an_exclusively_consumed_queue_is_refused(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue, exclusive=True) as first:
        with pytest.raises(anyamqp.AccessRefused, match="exclusive"):
            async with bench.connection.consumer(bench.queue):
                pytest.fail("two consumers of an exclusive queue")
        await bench.publish(b"for the first")
        async with await anext(first) as delivery:
            assert delivery.body == b"for the first"


async def test_consuming_from_a_missing_queue_is_not_found(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        with pytest.raises(anyamqp.NotFound):
            async with bench.connection.consumer(f"missing-{bench.queue}"):
                pytest.fail("consumes from nothing")


async def test_deleting_the_queue_ends_its_consumer(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench, bench.connection.consumer(bench.queue) as consumer:
        await bench.channel.delete_queue(bench.queue)
        with pytest.raises(anyamqp.ConsumerCancelled, match=bench.queue):
            await anext(consumer)


# --- what a message carries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_max", [FRAME_MAX_FLOOR, 131072])
async def test_bodies_around_the_frame_limit_arrive_unchanged(shared_node: Node, frame_max: int) -> None:
    settings = replace(Settings.from_urls(shared_node.url), frame_max=frame_max)
    async with a_bench(shared_node, settings) as bench:
        assert bench.connection.tuning is not None
        assert bench.connection.tuning.frame_max == frame_max
        room = frame_max - FRAME_OVERHEAD
        sizes = [0, 1, *(n * room + d for n in (1, 2, 3) for d in (-1, 0, 1)), frame_max, frame_max + 1]
        bodies = [bytes(n % 251 for n in range(size)) for size in sizes]
        for body in bodies:
            await bench.publisher.submit(Message(body), routing_key=bench.queue)
        await bench.publisher.flush()
        async with bench.connection.consumer(bench.queue) as consumer:
            for body in bodies:
                async with await anext(consumer) as delivery:
                    assert delivery.body == body
        for body in bodies:
            receipt = await bench.publisher.publish(Message(body), routing_key=bench.queue)
            fetched = await bench.channel.get(bench.queue, no_ack=True)
            assert fetched is not None
            assert (fetched.body, fetched.message_id) == (body, receipt.message_id)


async def test_bodies_of_several_megabytes_arrive_unchanged(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        bodies = [bytes([n]) * (5_000_000 + n) for n in range(4)]
        for body in bodies:
            await bench.publisher.submit(Message(body), routing_key=bench.queue)
        await bench.publisher.flush()
        async with bench.connection.consumer(bench.queue, prefetch=2) as consumer:
            for body in bodies:
                async with await anext(consumer) as delivery:
                    assert delivery.body == body


async def round_trip(node: Node, message: Message) -> Message:
    async with a_bench(node) as bench:
        await bench.publisher.publish(message, routing_key=bench.queue)
        async with bench.connection.consumer(bench.queue) as consumer, await anext(consumer) as delivery:
            return delivery.message


async def test_every_property_arrives_as_it_was_sent(shared_node: Node) -> None:
    headers: FieldTable = {
        "flag": True,
        "no flag": False,
        "small": -5,
        "byte": 200,
        "short": -30000,
        "long": 2**31,
        "very long": -(2**63),
        "float": 0.1,
        "huge": 1.7976931348623157e308,
        "decimal": Decimal("1234.56"),
        "text": "größer 🐇",
        "empty": "",
        "bytes": b"\x00\xff\xfe",
        "when": datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
        "nothing": None,
        "list": [1, "two", 3.5, None, [b"four"], {"five": 5}],
        "table": {"deep": {"deeper": {"deepest": [True, Decimal("0.001")]}}},
    }
    message = Message(
        b"body",
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        persistent=True,
        priority=9,
        correlation_id="which",
        reply_to="where",
        expiration=3600.5,
        message_id="me",
        timestamp=datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
        type="trade",
        user_id="guest",
        app_id="tests",
    )
    assert all(getattr(message, field.name) is not None for field in fields(Properties))
    assert await round_trip(shared_node, message) == message


async def test_absent_properties_stay_absent(shared_node: Node) -> None:
    message = Message(b"", message_id="me", persistent=False)
    assert await round_trip(shared_node, message) == message


async def test_an_expired_message_is_gone(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        await bench.publisher.publish(Message(b"brief", expiration=0.001), routing_key=bench.queue)
        await bench.until_ready(0)


async def test_priorities_change_the_order(shared_node: Node) -> None:
    async with a_bench(shared_node) as bench:
        queue = f"{bench.queue}-priorities"
        await bench.channel.declare_queue(queue, arguments={"x-max-priority": 5})
        try:
            for priority in (1, 5, 3):
                await bench.publisher.publish(Message(b"%d" % priority, priority=priority), routing_key=queue)
            async with bench.connection.consumer(queue, no_ack=True) as consumer:
                assert [delivery.body for delivery in await take(consumer, 3)] == [b"5", b"3", b"1"]
        finally:
            await bench.channel.delete_queue(queue)
