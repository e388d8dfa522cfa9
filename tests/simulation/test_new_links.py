"""The methods sent on a new link after a loss, with a scripted broker."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from anyamqp import Connection, ConnectionLost, Delivery, Message, State
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from support.handbroker import EAGER, HandBroker, connected, settled
from support.waiting import eventually

pytestmark = pytest.mark.anyio

SETTLING = (methods.Basic.Ack, methods.Basic.Nack, methods.Basic.Reject)


async def lose(broker: HandBroker, connection: Connection) -> None:
    """Drop the link, and wait for the next one."""
    await broker.link.reset()
    await connection.wait_ready(10)
    await settled()


# --- acknowledgements -----------------------------------------------------------------------------------------------


def ack(delivery: Delivery) -> None:
    delivery.ack()


def nack(delivery: Delivery) -> None:
    delivery.nack(requeue=True)


def reject(delivery: Delivery) -> None:
    delivery.reject(requeue=False)


@pytest.mark.parametrize("settle", [ack, nack, reject])
async def test_an_acknowledgement_does_not_cross_to_the_next_link(settle: Callable[[Delivery], None]) -> None:
    """Invariant 8: the tag is another message's there."""
    async with connected(reconnect=EAGER) as (broker, connection), connection.consumer("q") as consumer:
        await broker.link.deliver(Message(b"before"))
        before = await anext(consumer)
        await lose(broker, connection)
        await broker.link.deliver(Message(b"after"))
        settle(before)
        await settled()
        assert [method for _, method in broker.link.methods if isinstance(method, SETTLING)] == []
        assert connection.stats.stale_acks == 1
        (await anext(consumer)).ack()
        await settled()
        assert [method.delivery_tag for method in broker.link.sent(methods.Basic.Ack)] == [1]


# --- prefetch -------------------------------------------------------------------------------------------------------


def requests(broker: HandBroker) -> list[str]:
    """The requests on channel 1 of the current link."""
    return [method_name(method) for number, method in broker.link.methods if number == 1]


async def test_a_consumer_has_its_prefetch_and_its_tag_on_every_link() -> None:
    async with (
        connected(reconnect=EAGER) as (broker, connection),
        connection.consumer("q", prefetch=7, consumer_tag="mine"),
    ):
        for _ in range(3):
            assert requests(broker) == ["channel.open", "basic.qos", "basic.consume"]
            assert [qos.prefetch_count for qos in broker.link.sent(methods.Basic.Qos)] == [7]
            assert [one.consumer_tag for one in broker.link.sent(methods.Basic.Consume)] == ["mine"]
            await lose(broker, connection)


async def test_a_channel_has_its_prefetch_on_every_link() -> None:
    async with connected(reconnect=EAGER) as (broker, connection), connection.channel() as channel:
        await channel.set_qos(3)
        await channel.set_qos(7)
        for _ in range(2):
            await lose(broker, connection)
            assert requests(broker) == ["channel.open", "basic.qos"]
            assert [qos.prefetch_count for qos in broker.link.sent(methods.Basic.Qos)] == [7]


# --- consumers ------------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_on_behind_what_was_handed_out() -> None:
    async with (
        connected(reconnect=EAGER) as (broker, connection),
        connection.consumer("q", stream_offset="first") as consumer,
    ):
        await broker.link.deliver(Message(b"handed out", headers={"x-stream-offset": 41}), tag=1)
        await broker.link.deliver(Message(b"waits", headers={"x-stream-offset": 42}), tag=2)
        assert (await anext(consumer)).body == b"handed out"
        await lose(broker, connection)
        assert [one.arguments for one in broker.link.sent(methods.Basic.Consume)] == [{"x-stream-offset": 42}]


async def test_an_exclusive_consumer_outlasts_the_lock_of_its_own_lost_link() -> None:
    """Only the client knows that the old link is dead; the broker refuses until it notices."""
    in_use = methods.Channel.Close(403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", 60, 20)
    async with connected(reconnect=EAGER) as (broker, connection), connection.consumer("q", exclusive=True) as consumer:
        broker.habits.silent_to.add(methods.Basic.Consume)
        await broker.link.reset()
        await eventually(lambda: len(broker.links) == 2 and bool(broker.link.sent(methods.Basic.Consume)))
        broker.habits.silent_to.clear()
        await broker.link.close_channel(in_use)
        await connection.wait_ready(10)
        await eventually(lambda: consumer.is_consuming)
        assert [one.exclusive for one in broker.link.sent(methods.Basic.Consume)] == [True, True]


# --- single messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("no_ack", "asked_again"), [(False, 1), (True, 0)])
async def test_a_get_without_ack_is_not_repeated(*, no_ack: bool, asked_again: int) -> None:
    """The broker may have sent a message, and has forgotten it."""
    async with connected(reconnect=EAGER) as (broker, connection), connection.channel() as channel:
        broker.habits.silent_to.add(methods.Basic.Get)
        errors: list[ConnectionLost] = []

        async def get() -> None:
            try:
                await channel.get("q", no_ack=no_ack)
            except ConnectionLost as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await settled()
            broker.habits.silent_to.clear()
            await lose(broker, connection)
        assert len(broker.link.sent(methods.Basic.Get)) == asked_again
        assert len(errors) == 1 - asked_again


# --- declarations ---------------------------------------------------------------------------------------------------


async def test_what_was_declared_passively_is_not_declared_again() -> None:
    """The queue is somebody else's: a declare could create it again, with wrong settings."""
    async with connected(reconnect=EAGER) as (broker, connection), connection.channel() as channel:
        await channel.declare_exchange("our exchange")
        await channel.declare_queue("ours")
        await channel.declare_exchange("their exchange", passive=True)
        await channel.declare_queue("theirs", passive=True)
        await lose(broker, connection)
        assert [one.exchange for one in broker.link.sent(methods.Exchange.Declare)] == ["our exchange"]
        assert [one.queue for one in broker.link.sent(methods.Queue.Declare)] == ["ours"]


# --- publishes ------------------------------------------------------------------------------------------------------


async def test_nothing_is_published_before_the_connection_is_open_again() -> None:
    async with (
        connected(reconnect=EAGER) as (broker, connection),
        connection.publisher() as publisher,
        connection.channel() as channel,
    ):
        await channel.set_qos(1)  # a request that recovery repeats
        await publisher.submit(Message(b"again"), routing_key="q")
        broker.habits.silent_on.add(2)
        await broker.link.reset()
        await eventually(lambda: len(broker.links) == 2 and bool(broker.link.sent(methods.Confirm.Select)))
        await settled()
        assert connection.state is State.OPEN or broker.link.bodies() == []
        broker.habits.silent_on.clear()
        await broker.link.answer_all()
        await connection.wait_ready(10)
        await settled()
        assert broker.link.bodies() == [b"again"]
        await broker.link.ack(1)


async def test_a_publisher_confirms_on_every_link() -> None:
    async with connected(reconnect=EAGER) as (broker, connection), connection.publisher() as publisher:
        for attempt in (1, 2, 3):
            assert requests(broker) == ["channel.open", "confirm.select"]
            publication = await publisher.submit(Message(b"x"), routing_key="q")
            await settled()
            await broker.link.ack(1)
            assert (await publication).attempts == 1, f"on link {attempt}"
            await lose(broker, connection)


# --- the old link ---------------------------------------------------------------------------------------------------


async def test_a_link_that_opens_and_ends_in_one_chunk_costs_no_other_link() -> None:
    async with connected(reconnect=EAGER) as (broker, connection), connection.channel() as channel:
        await channel.declare_queue("q")
        broker.habits.silent_to.add(methods.Connection.Open)
        await broker.link.reset()
        await eventually(lambda: len(broker.links) == 2 and bool(broker.link.sent(methods.Connection.Open)))
        broker.habits.silent_to.clear()
        closing = methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)
        await broker.link.tell(0, methods.Connection.OpenOk(), closing)
        await connection.wait_ready(10)
        assert len(broker.links) == 3


async def test_the_brokers_close_is_answered_before_the_next_link() -> None:
    async with connected(reconnect=EAGER) as (broker, connection):
        first = broker.link
        await first.tell(0, methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
        await eventually(lambda: len(broker.links) == 2)
        assert len(first.sent(methods.Connection.CloseOk)) == 1
        await connection.wait_ready(10)
