"""Transactions: all of it or nothing (AMQP 0-9-1, class tx)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import anyamqp
from anyamqp import Channel, ConnectionLost, InvalidArgument, InvalidUse, Message, Unroutable
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


@asynccontextmanager
async def queue_on(url: str) -> AsyncGenerator[tuple[anyamqp.Connection, Channel, str], None]:
    """A connection, a channel to make transactions on, and a queue of the connection's own."""
    name = unique("tx")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(url) as connection, connection.channel() as channel:
            await channel.declare_queue(name, exclusive=True)
            yield connection, channel, name


async def bodies(connection: anyamqp.Connection, queue: str) -> list[bytes]:
    """The messages in the queue, which stay there."""
    found: list[bytes] = []
    async with connection.channel() as channel:
        while (delivery := await channel.get(queue)) is not None:
            found.append(delivery.body)
    return found


async def test_what_is_published_shows_with_the_commit(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, channel, queue):
        async with channel.transaction() as transaction:
            for body in (b"one", b"two"):
                await transaction.publish(Message(body), routing_key=queue)
            assert await bodies(connection, queue) == []
        assert await bodies(connection, queue) == [b"one", b"two"]


async def test_wrong_argument_of_a_publish_is_refused(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, channel, queue):
        async with channel.transaction() as transaction:
            publish: Any = transaction.publish
            with pytest.raises(InvalidArgument, match="mandatory: 1 is neither True nor False"):
                await publish(Message(b"x"), routing_key=queue, mandatory=1)
            with pytest.raises(InvalidUse, match="takes only message by position"):
                await publish(Message(b"x"), queue)
        assert await bodies(connection, queue) == []


async def test_an_error_rolls_back_and_leaves_as_itself(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, channel, queue):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"never"), routing_key=queue)
                raise ZeroDivisionError
        assert await bodies(connection, queue) == []
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"later"), routing_key=queue)
        assert await bodies(connection, queue) == [b"later"]


async def test_acknowledgements_are_part_of_it(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, _, queue):
        async with connection.publisher() as publisher:
            for body in (b"kept", b"taken"):
                await publisher.publish(Message(body), routing_key=queue)
        async with connection.channel() as worker:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the end of the block raises
                async with worker.transaction():
                    kept = await worker.get(queue)
                    assert kept is not None
                    kept.ack()
                    raise ZeroDivisionError
            async with worker.transaction() as transaction:
                taken = await worker.get(queue)
                assert taken is not None
                assert taken.body == b"taken"
                taken.ack()
                await transaction.publish(Message(b"made of it"), routing_key=queue)
        assert await bodies(connection, queue) == [b"kept", b"made of it"]


async def test_commit_raises_unroutable_messages_and_keeps_the_rest(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, channel, queue):
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"x", message_id="lost"), routing_key=queue + "-not")
                await transaction.publish(Message(b"routed"), routing_key=queue)
                await transaction.publish(Message(b"x"), routing_key=queue + "-not", mandatory=False)
        (unroutable,) = caught.value.exceptions
        assert isinstance(unroutable, Unroutable)
        assert unroutable.message_id == "lost"
        assert await bodies(connection, queue) == [b"routed"]


async def test_one_inside_another_is_refused(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (_, channel, _), channel.transaction():
        with pytest.raises(InvalidUse, match="not ended yet"):
            async with channel.transaction():
                pytest.fail("entered")


async def test_one_is_entered_once_and_works_inside_its_block(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (_, channel, queue):
        transaction = channel.transaction()
        with pytest.raises(InvalidUse, match="inside its block"):
            await transaction.publish(Message(b"x"), routing_key=queue)
        async with transaction:
            pass
        with pytest.raises(InvalidUse, match="entered once"):
            async with transaction:
                pytest.fail("entered")


async def test_a_loss_in_the_middle_rolls_back_and_the_next_one_works(shared_node: Node) -> None:
    name = unique("tx")
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/"
        async with (
            anyamqp.connect(shared_node.url) as other,
            anyamqp.connect(url) as connection,
            connection.channel() as channel,
        ):
            async with other.channel() as declaring:
                await declaring.declare_queue(name)
            with pytest.raises(ConnectionLost, match="rolled it back"):  # noqa: PT012 - the block raises
                async with channel.transaction() as transaction:
                    await transaction.publish(Message(b"before the loss"), routing_key=name)
                    proxy.reset()
                    await eventually(lambda: connection.stats.reconnects == 1)
                    await transaction.publish(Message(b"after it"), routing_key=name)
            with pytest.raises(ConnectionLost, match=r"tx\.commit"):  # noqa: PT012 - the block raises
                async with channel.transaction() as transaction:
                    await transaction.publish(Message(b"before the next"), routing_key=name)
                    proxy.reset()
                    await eventually(lambda: connection.stats.reconnects == 2)
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"whole"), routing_key=name)
            assert await bodies(other, name) == [b"whole"]
            async with other.channel() as declaring:
                await declaring.delete_queue(name)


async def test_a_cancellation_rolls_back(shared_node: Node) -> None:
    async with queue_on(shared_node.url) as (connection, channel, queue):
        with anyio.CancelScope() as scope:
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"never"), routing_key=queue)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"later"), routing_key=queue)
        assert await bodies(connection, queue) == [b"later"]
