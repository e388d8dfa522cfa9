"""Transactions with a scripted broker: the methods sent, their order, and their link."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio.testing

from anyamqp import (
    Channel,
    Connection,
    ConnectionLost,
    InvalidArgument,
    InvalidUse,
    Message,
    ReplyError,
    RequestTimeout,
    State,
    Unroutable,
)
from anyamqp.wire import methods
from anyamqp.wire.frames import method_name
from support.handbroker import EAGER, HandBroker, ServedLink, connected, settled

pytestmark = pytest.mark.anyio

OPEN = "channel.open"
SELECT, COMMIT, ROLLBACK = "tx.select", "tx.commit", "tx.rollback"
PUBLISH = "basic.publish"


@asynccontextmanager
async def a_channel() -> AsyncGenerator[tuple[HandBroker, Connection, Channel], None]:
    async with connected(reconnect=EAGER) as (broker, connection), connection.channel() as channel:
        yield broker, connection, channel


def on_channel(link: ServedLink) -> list[str]:
    """The names of the methods that were sent on channel 1."""
    return [method_name(method) for number, method in link.methods if number == 1]


async def lose(broker: HandBroker, connection: Connection) -> None:
    """Have the link lost and another one made."""
    await broker.link.reset()
    await connection.wait_ready(10)
    await settled()


async def test_the_end_of_the_block_commits() -> None:
    async with a_channel() as (broker, _, channel):
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"one"), routing_key="q")
            await transaction.publish(Message(b"two"), routing_key="q")
            await settled()
            assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, PUBLISH]
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, PUBLISH, COMMIT]
        assert broker.bodies() == [b"one", b"two"]
        assert not transaction.is_open


async def test_a_channel_is_selected_once() -> None:
    async with a_channel() as (broker, _, channel):
        for _ in range(2):
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"x"), routing_key="q")
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, COMMIT, PUBLISH, COMMIT]


async def test_an_error_rolls_back_and_leaves_as_itself() -> None:
    async with a_channel() as (broker, _, channel):
        error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"never"), routing_key="q")
                raise error
        assert caught.value is error
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, ROLLBACK]


async def test_a_cancellation_rolls_back() -> None:
    async with a_channel() as (broker, _, channel):
        with anyio.CancelScope() as scope:
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"never"), routing_key="q")
                scope.cancel()
                await anyio.sleep_forever()
        await settled()
        assert scope.cancelled_caught
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, ROLLBACK]


async def test_an_error_after_a_loss_leaves_as_itself_and_rolls_nothing_back() -> None:
    async with a_channel() as (broker, connection, channel):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the end of the block raises
            async with channel.transaction():
                await lose(broker, connection)
                raise ZeroDivisionError
        assert on_channel(broker.link) == [OPEN, SELECT]


async def test_a_loss_before_the_commit_commits_nothing_elsewhere() -> None:
    async with a_channel() as (broker, connection, channel):
        with pytest.raises(ConnectionLost, match=r"tx\.commit"):  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"lost"), routing_key="q")
                await lose(broker, connection)
        assert on_channel(broker.link) == [OPEN, SELECT]
        assert broker.link.bodies() == []


async def test_a_commit_that_is_lost_raises_and_is_not_repeated() -> None:
    """The broker may have committed: sent again, the commit would be another transaction's."""
    async with a_channel() as (broker, connection, channel):
        broker.habits.silent_to.add(methods.Tx.Commit)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lose_once_sent, broker, methods.Tx.Commit)
            with pytest.raises(ConnectionLost, match=r"tx\.commit"):
                async with channel.transaction() as transaction:
                    await transaction.publish(Message(b"lost"), routing_key="q")
        await connection.wait_ready(10)
        assert on_channel(broker.link) == [OPEN, SELECT]


async def lose_once_sent(broker: HandBroker, kind: type[methods.Tx.Commit]) -> None:
    await settled()
    assert len(broker.link.sent(kind)) == 1
    await broker.link.reset()


async def test_a_publish_after_a_loss_says_that_all_was_rolled_back() -> None:
    async with a_channel() as (broker, connection, channel):
        with pytest.raises(ConnectionLost, match="rolled it back"):  # noqa: PT012 - the block raises
            async with channel.transaction() as transaction:
                await lose(broker, connection)
                await transaction.publish(Message(b"alone"), routing_key="q")
        assert broker.bodies() == []


async def test_a_channel_that_came_back_is_transactional_again() -> None:
    async with a_channel() as (broker, connection, channel):
        async with channel.transaction():
            pass
        await lose(broker, connection)
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"whole"), routing_key="q")
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, COMMIT]


async def test_what_reached_no_queue_is_raised_at_the_commit() -> None:
    async with a_channel() as (broker, _, channel):
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"x", message_id="lost"), routing_key="nowhere")
                await settled()
                await broker.link.give_back(broker.published[0])
                await settled()
        (unroutable,) = caught.value.exceptions
        assert isinstance(unroutable, Unroutable)
        assert unroutable.message_id == "lost"
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, COMMIT]


async def test_a_publish_waits_while_the_connection_is_blocked() -> None:
    async with a_channel() as (broker, connection, channel), channel.transaction() as transaction:
        await broker.link.block()
        assert connection.state is State.BLOCKED
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: transaction.publish(Message(b"later"), routing_key="q"))
            await settled()
            assert broker.bodies() == []
            await broker.link.unblock()
        await settled()
        assert broker.bodies() == [b"later"]


async def test_a_message_that_amqp_cannot_carry_is_refused_before_it_is_sent() -> None:
    async with a_channel() as (broker, _, channel), channel.transaction() as transaction:
        with pytest.raises(InvalidArgument):
            await transaction.publish(Message(b"x"), routing_key="x" * 256)
        with pytest.raises(InvalidArgument):
            await transaction.publish(Message(b"x", headers={"large": bytes(200_000)}), routing_key="q")
        await settled()
        assert on_channel(broker.link) == [OPEN, SELECT]


async def test_a_message_above_the_largest_size_is_refused() -> None:
    async with (
        connected(max_message_size=10) as (broker, connection),
        connection.channel() as channel,
        channel.transaction() as transaction,
    ):
        with pytest.raises(InvalidArgument, match="max_message_size"):
            await transaction.publish(Message(bytes(11)), routing_key="q")
        await transaction.publish(Message(bytes(10)), routing_key="q")
        await settled()
        assert broker.bodies() == [bytes(10)]


async def test_one_inside_another_is_refused() -> None:
    async with a_channel() as (_, _, channel), channel.transaction():
        with pytest.raises(InvalidUse, match="not ended yet"):
            async with channel.transaction():
                pytest.fail("entered")


async def test_one_is_entered_once_and_works_inside_its_block() -> None:
    async with a_channel() as (_, _, channel):
        transaction = channel.transaction()
        with pytest.raises(InvalidUse, match="inside its block"):
            await transaction.publish(Message(b"x"), routing_key="q")
        async with transaction:
            pass
        with pytest.raises(InvalidUse, match="entered once"):
            async with transaction:
                pytest.fail("entered")


async def test_one_that_could_not_begin_may_be_entered_again() -> None:
    async with a_channel() as (broker, connection, channel):
        transaction = channel.transaction()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with transaction:
                pytest.fail("entered")
        assert not transaction.is_open
        await connection.wait_ready(10)
        async with transaction:
            await transaction.publish(Message(b"x"), routing_key="q")
        assert broker.bodies() == [b"x"]


async def test_one_that_was_made_first_is_refused_inside_a_later_one() -> None:
    async with a_channel() as (broker, _, channel):
        first, second = channel.transaction(), channel.transaction()
        async with second:
            with pytest.raises(InvalidUse, match="not ended yet"):
                async with first:
                    pytest.fail("entered")
        assert on_channel(broker.link) == [OPEN, SELECT, COMMIT]


async def test_one_is_refused_while_another_begins() -> None:
    async with a_channel() as (broker, _, channel), anyio.create_task_group() as tasks:
        broker.habits.silent_to.add(methods.Tx.Select)
        tasks.start_soon(channel.transaction().__aenter__)
        await settled()
        with pytest.raises(InvalidUse, match="not ended yet"):
            async with channel.transaction():
                pytest.fail("entered")
        assert on_channel(broker.link) == [OPEN, SELECT]
        tasks.cancel_scope.cancel()


async def test_what_reached_no_queue_is_told_to_the_transaction_that_runs() -> None:
    async with a_channel() as (broker, _, channel):
        with pytest.raises(ExceptionGroup, match="1 messages reached no queue"):  # noqa: PT012 - the end of the block
            async with channel.transaction() as transaction:
                channel.transaction()  # made meanwhile, and never entered
                await transaction.publish(Message(b"x"), routing_key="nowhere")
                await settled()
                await broker.link.give_back(broker.published[0])
                await settled()


# --- cancelled while the broker owes an answer ----------------------------------------------------------------------


async def cancel_entering(channel: Channel) -> None:
    """Enter a transaction, and be cancelled while tx.select is not answered."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with channel.transaction():
            pytest.fail("entered")


async def test_a_select_whose_caller_was_cancelled_counts_when_it_is_answered() -> None:
    """The broker has made the channel transactional, so it has to be so on the next link as well."""
    async with a_channel() as (broker, connection, channel):
        await cancel_entering(channel)
        await settled()
        async with channel.transaction():
            pass
        assert on_channel(broker.link) == [OPEN, SELECT, COMMIT]
        await lose(broker, connection)
        assert on_channel(broker.link) == [OPEN, SELECT]


async def test_a_select_that_was_cancelled_and_lost_does_not_count() -> None:
    async with a_channel() as (broker, connection, channel):
        broker.habits.silent_to.add(methods.Tx.Select)
        await cancel_entering(channel)
        await settled()
        assert on_channel(broker.link) == [OPEN, SELECT]
        broker.habits.silent_to.clear()
        await lose(broker, connection)
        assert on_channel(broker.link) == [OPEN]
        async with channel.transaction():
            pass
        assert on_channel(broker.link) == [OPEN, SELECT, COMMIT]


async def test_a_select_that_is_sent_twice_begins_one_transaction() -> None:
    async with a_channel() as (broker, _, channel), anyio.create_task_group() as tasks:
        broker.habits.silent_to.add(methods.Tx.Select)
        await cancel_entering(channel)
        await settled()
        tasks.start_soon(answer_soon, broker)
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"x"), routing_key="q")
        assert on_channel(broker.link) == [OPEN, SELECT, SELECT, PUBLISH, COMMIT]


async def answer_soon(broker: HandBroker) -> None:
    await settled()
    await broker.link.answer_all()


async def test_a_select_that_the_broker_does_not_know_costs_one_link() -> None:
    async with a_channel() as (broker, connection, channel), anyio.create_task_group() as tasks:
        broker.habits.silent_to.add(methods.Tx.Select)
        tasks.start_soon(refuse_select, broker)
        with pytest.raises(ReplyError, match="no transactions"):
            async with channel.transaction():
                pytest.fail("entered")
        await connection.wait_ready(10)
        assert on_channel(broker.link) == [OPEN]
        await channel.declare_queue("q")


async def refuse_select(broker: HandBroker) -> None:
    await settled()
    await broker.link.tell(0, methods.Connection.Close(540, "NOT_IMPLEMENTED - no transactions", 90, 10))


async def test_what_a_cancelled_commit_returns_is_not_the_next_ones() -> None:
    async with a_channel() as (broker, _, channel):
        broker.habits.silent_to.add(methods.Tx.Commit)
        with anyio.CancelScope() as scope:
            async with channel.transaction() as transaction:
                await transaction.publish(Message(b"of the first"), routing_key="nowhere")
                scope.cancel()
        await settled()
        broker.habits.silent_to.clear()
        async with channel.transaction() as transaction:
            await transaction.publish(Message(b"of the second"), routing_key="q")
            await settled()
            await broker.link.give_back(broker.published[0])
            await broker.link.answer_all()
        assert scope.cancelled_caught
        assert on_channel(broker.link) == [OPEN, SELECT, PUBLISH, COMMIT, PUBLISH, COMMIT]


# --- while the connection is away -----------------------------------------------------------------------------------


async def test_a_lost_one_raises_at_once_while_the_connection_is_away() -> None:
    async with a_channel() as (broker, connection, channel):
        with pytest.raises(ConnectionLost, match=r"tx\.commit"):  # noqa: PT012 - the end of the block raises
            async with channel.transaction() as transaction:
                broker.is_refusing = True
                await broker.link.reset()
                with pytest.raises(ConnectionLost, match="rolled it back"):
                    await transaction.publish(Message(b"x"), routing_key="q")
        assert connection.state is State.RECONNECTING


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_entering_one_takes_no_longer_than_a_request() -> None:
    async with connected(request_timeout=5) as (broker, connection), connection.channel() as channel:
        async with channel.transaction():
            pass
        broker.is_refusing = True
        await broker.link.reset()
        with pytest.raises(RequestTimeout, match=r"tx\.select"):
            async with channel.transaction():
                pytest.fail("entered")
