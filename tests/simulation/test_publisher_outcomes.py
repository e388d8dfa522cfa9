"""Every outcome that a publish can have, each of them exactly once (invariant 3), and the order of the rest."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

import anyamqp
from anyamqp import (
    ChannelClosed,
    Connection,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    InvalidUse,
    Message,
    NotFound,
    Publication,
    Publisher,
    PublishTimeout,
    ReconnectPolicy,
    State,
    Unroutable,
)
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("observer")]

URL = "amqp://guest:guest@memory/"
QUICK = ReconnectPolicy(initial=0.01, maximum=0.05)


@contextlib.asynccontextmanager
async def connected(
    *, reconnect: ReconnectPolicy = QUICK, settings: anyamqp.Settings | None = None
) -> AsyncGenerator[tuple[Broker, Connection], None]:
    """A broker with a queue ``q``, and a connection to it."""
    async with Broker() as broker:
        async with anyamqp.connect(settings or URL, dial=broker.dial, reconnect=reconnect) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
            yield broker, connection
        await eventually(lambda: broker.connection_count == 0)
        assert broker.unexpected_closes == []


def bodies(broker: Broker) -> list[bytes]:
    return broker.queues["q"].bodies()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def submit_all(publisher: Publisher, count: int) -> list[Publication]:
    return [await publisher.submit(Message(body), routing_key="q") for body in numbered(count)]


# --- confirmed ------------------------------------------------------------------------------------------------------


async def test_confirmed_publish_returns_a_receipt() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        receipt = await publisher.publish(Message(b"x", message_id="mine"), routing_key="q")
        assert (receipt.message_id, receipt.attempts) == ("mine", 1)
        assert bodies(broker) == [b"x"]


async def test_message_id_is_filled_in_when_absent() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher, connection.channel() as channel:
        one = await publisher.publish(Message(b"x"), routing_key="q")
        other = await publisher.publish(Message(b"x"), routing_key="q")
        assert one.message_id != other.message_id
        delivery = await channel.get("q")
        assert delivery is not None
        assert delivery.message.message_id == one.message_id


async def test_publish_that_a_reset_caught_is_sent_again() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.freeze()
        publication = await publisher.submit(Message(b"x"), routing_key="q")
        await anyio.wait_all_tasks_blocked()
        broker.reset_connections()
        broker.thaw()
        with anyio.fail_after(5):
            receipt = await publication
        assert receipt.attempts == 2
        assert bodies(broker) == [b"x"]


async def test_handle_tells_the_same_outcome_to_all_who_await_it() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        publication = await publisher.submit(Message(b"x"), routing_key="q")
        first = await publication
        assert publication.is_settled
        assert await publication == first


# --- failed by the broker -------------------------------------------------------------------------------------------


async def test_mandatory_publish_without_a_queue_is_unroutable() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        with pytest.raises(Unroutable) as caught:
            await publisher.publish(Message(b"x", message_id="mine"), routing_key="nowhere")
        error = caught.value
        assert (error.message_id, error.exchange, error.routing_key, error.code) == ("mine", "", "nowhere", 312)
        assert connection.state is State.OPEN


async def test_returned_message_is_told_from_its_neighbours() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        good = [await publisher.submit(Message(b"good"), routing_key="q")]
        lost = await publisher.submit(Message(b"lost"), routing_key="nowhere")
        good.append(await publisher.submit(Message(b"good"), routing_key="q"))
        with pytest.raises(Unroutable):
            await lost
        assert [(await one).attempts for one in good] == [1, 1]
        assert bodies(broker) == [b"good", b"good"]


async def test_missing_exchange_fails_the_guilty_publish_alone_and_keeps_the_order() -> None:
    """Invariant 5."""
    async with connected() as (broker, connection), connection.publisher() as publisher:
        good = await submit_all(publisher, 15)
        guilty = await publisher.submit(Message(b"bad"), exchange="gone", routing_key="q")
        good += [await publisher.submit(Message(body), routing_key="q") for body in (b"%d" % n for n in range(15, 30))]
        with pytest.raises(NotFound, match="no exchange 'gone'"):
            await guilty
        receipts = [await one for one in good]
        assert list(dict.fromkeys(bodies(broker))) == numbered(30)
        assert all(receipt.attempts <= 3 for receipt in receipts)
        assert connection.stats.link_number == 1
        assert broker.channel_count == connection.stats.open_channels == 1


async def test_every_one_of_several_guilty_publishes_fails_and_no_other() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = [
            await publisher.submit(Message(body), exchange="gone" if number % 7 == 3 else "", routing_key="q")
            for number, body in enumerate(numbered(30))
        ]
        failed: list[int] = []
        for number, publication in enumerate(publications):
            try:
                await publication
            except NotFound:
                failed.append(number)
        assert failed == [3, 10, 17, 24]
        expected = [body for number, body in enumerate(numbered(30)) if number % 7 != 3]
        assert list(dict.fromkeys(bodies(broker))) == expected


async def test_lonely_guilty_publish_fails_and_the_publisher_goes_on() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        for _n in range(2):
            with pytest.raises(NotFound):
                await publisher.publish(Message(b"x"), exchange="gone")
            assert (await publisher.publish(Message(b"x"), routing_key="q")).attempts == 1


async def test_failed_publish_leaves_other_publishers_alone() -> None:
    async with connected() as (_, connection), connection.publisher() as idle, connection.publisher() as publisher:
        with pytest.raises(NotFound):
            await publisher.publish(Message(b"x"), exchange="gone")
        assert (await idle.publish(Message(b"x"), routing_key="q")).attempts == 1


async def test_channel_closed_for_nobodys_fault_fails_none_of_several() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.freeze()
        publications = await submit_all(publisher, 5)
        await anyio.wait_all_tasks_blocked()
        broker.close_channels(406, "PRECONDITION_FAILED - simulated")
        broker.thaw()
        with anyio.fail_after(5):
            receipts = [await one for one in publications]
        assert [receipt.attempts for receipt in receipts] == [2] * 5
        assert bodies(broker) == numbered(5)
        assert connection.stats.link_number == 1


async def test_channel_closed_for_no_publish_blames_none() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.freeze()
        publication = await publisher.submit(Message(b"x"), routing_key="q")
        await anyio.wait_all_tasks_blocked()
        broker.close_channels(406, "PRECONDITION_FAILED - simulated")
        broker.thaw()
        with anyio.fail_after(5):
            assert (await publication).attempts == 2


async def test_reset_while_the_guilty_one_is_looked_for_loses_nothing() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        publications = await submit_all(publisher, 10)
        guilty = await publisher.submit(Message(b"bad"), exchange="gone")
        publications += await submit_all(publisher, 10)
        await eventually(lambda: len(bodies(broker)) > 12)
        broker.reset_connections()
        with anyio.fail_after(5), pytest.raises(NotFound):
            await guilty
        with anyio.fail_after(5):
            for publication in publications:
                await publication
        assert set(bodies(broker)) == set(numbered(10))


# --- out of time ----------------------------------------------------------------------------------------------------


async def test_publish_that_never_left_times_out_unsent() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is State.RECONNECTING)
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish(Message(b"x", message_id="mine"), routing_key="q", timeout=0.05)
        assert (caught.value.sent, caught.value.message_id) == (False, "mine")
        broker.accept()
        await connection.wait_ready(5)
        await publisher.publish(Message(b"later"), routing_key="q")
        assert bodies(broker) == [b"later"]


async def test_publish_that_was_not_answered_times_out_sent() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.freeze()
        with pytest.raises(PublishTimeout) as caught:
            await publisher.publish(Message(b"x"), routing_key="q", timeout=0.05)
        assert caught.value.sent
        broker.thaw()
        await publisher.publish(Message(b"later"), routing_key="q")
        assert bodies(broker) == [b"x", b"later"]


async def test_submit_without_room_times_out_unsent() -> None:
    async with connected() as (broker, connection), connection.publisher(window=1) as publisher:
        broker.freeze()
        first = await publisher.submit(Message(b"x"), routing_key="q")
        with pytest.raises(PublishTimeout) as caught:
            await publisher.submit(Message(b"y"), routing_key="q", timeout=0.05)
        assert not caught.value.sent
        broker.thaw()
        await first
        assert bodies(broker) == [b"x"]


async def test_timed_out_publishes_that_never_left_give_their_room_back() -> None:
    async with connected() as (broker, connection), connection.publisher(window=2) as publisher:
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is State.RECONNECTING)
        old = [await publisher.submit(Message(b"old"), routing_key="q", timeout=0.02) for _ in range(2)]
        for publication in old:
            with pytest.raises(PublishTimeout):
                await publication
        new = [await publisher.submit(Message(b"new"), routing_key="q", timeout=5) for _ in range(2)]
        broker.accept()
        for publication in new:
            await publication
        assert bodies(broker) == [b"new", b"new"]


# --- closed ---------------------------------------------------------------------------------------------------------


async def test_exhausted_policy_fails_every_publish_from_its_cause() -> None:
    async with connected(reconnect=ReconnectPolicy(initial=0.01, max_attempts=2)) as (broker, connection):
        async with connection.publisher(window=1) as publisher, anyio.create_task_group() as tasks:
            broker.freeze()
            publication = await publisher.submit(Message(b"x"), routing_key="q")

            async def wait_for_room() -> None:
                with pytest.raises(ConnectionClosed):
                    await publisher.submit(Message(b"y"), routing_key="q")

            tasks.start_soon(wait_for_room)
            await anyio.wait_all_tasks_blocked()
            broker.refuse()
            broker.reset_connections()
            with anyio.fail_after(5), pytest.raises(ConnectionClosed) as caught:
                await publication
            assert isinstance(caught.value.__cause__, ConnectionLost)
            with pytest.raises(ConnectionClosed):
                await publisher.publish(Message(b"z"), routing_key="q")
        assert connection.state is State.CLOSED


async def test_closing_the_connection_fails_unconfirmed_publishes() -> None:
    settings = anyamqp.Settings(close_timeout=0.05)
    async with connected(settings=settings) as (broker, connection):
        async with connection.publisher() as publisher:
            broker.freeze()
            publication = await publisher.submit(Message(b"x"), routing_key="q")
            await connection.close()
            with pytest.raises(ConnectionClosed) as caught:
                await publication
            assert caught.value.__cause__ is None
        broker.thaw()


async def test_publisher_whose_block_has_ended_publishes_no_more() -> None:
    async with connected() as (_, connection):
        async with connection.publisher() as publisher:
            pass
        with pytest.raises(ChannelClosed, match="the publisher is closed"):
            await publisher.publish(Message(b"x"), routing_key="q")


# --- refused before anything is sent --------------------------------------------------------------------------------


async def publish_long_key(publisher: Publisher) -> None:
    await publisher.publish(Message(b"x"), routing_key="k" * 256)


async def publish_long_exchange(publisher: Publisher) -> None:
    await publisher.publish(Message(b"x"), exchange="x" * 256)


async def publish_wrong_priority(publisher: Publisher) -> None:
    await publisher.publish(Message(b"x", priority=256), routing_key="q")


async def publish_too_large(publisher: Publisher) -> None:
    await publisher.publish(Message(bytes(2000)), routing_key="q")


async def publish_large_headers(publisher: Publisher) -> None:
    await publisher.publish(Message(b"x", headers={"large": "x" * 200_000}), routing_key="q")


@pytest.mark.parametrize(
    "act",
    [publish_long_key, publish_long_exchange, publish_wrong_priority, publish_too_large, publish_large_headers],
    ids=lambda act: act.__name__,
)
async def test_what_amqp_cannot_carry_is_refused_before_anything_is_sent(
    act: Callable[[Publisher], Awaitable[None]],
) -> None:
    settings = anyamqp.Settings(max_message_size=1000)
    async with connected(settings=settings) as (broker, connection), connection.publisher(window=1) as publisher:
        before = connection.stats.frames_sent
        with pytest.raises(InvalidArgument):
            await act(publisher)
        assert connection.stats.frames_sent == before
        assert publisher.unconfirmed == 0
        assert (await publisher.publish(Message(b"x"), routing_key="q", timeout=5)).attempts == 1
        assert bodies(broker) == [b"x"]


@pytest.mark.parametrize("timeout", ["5", -1, float("nan"), True])
async def test_time_out_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        with pytest.raises(InvalidArgument, match=r"timeout: .* is not a number of seconds"):
            await publisher.publish(Message(b"x"), routing_key="q", timeout=timeout)
        assert bodies(broker) == []


@pytest.mark.parametrize("message", [b"x", {"body": b"x"}, None])
async def test_what_is_no_message_is_refused_by_its_type(message: Any) -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        with pytest.raises(InvalidArgument, match=f"message: {type(message).__name__} instead of Message"):
            await publisher.publish(message, routing_key="q")
        assert bodies(broker) == []


async def test_publisher_that_was_not_entered_refuses() -> None:
    async with connected() as (_, connection):
        publisher = connection.publisher()
        with pytest.raises(InvalidUse, match="inside its block"):
            await publisher.publish(Message(b"x"), routing_key="q")
        with pytest.raises(InvalidUse, match="inside its block"):
            await publisher.submit(Message(b"x"), routing_key="q")
        with pytest.raises(InvalidUse, match="inside its block"):
            await publisher.flush()


async def test_publisher_is_entered_once() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        with pytest.raises(InvalidUse, match="entered once"):
            async with publisher:
                pass
        await publisher.publish(Message(b"x"), routing_key="q")


@pytest.mark.parametrize(("window", "window_bytes"), [(0, 1), (1, 0)])
async def test_window_without_room_is_refused(window: int, window_bytes: int) -> None:
    async with connected() as (_, connection):
        with pytest.raises(InvalidArgument, match=r"0 is not a whole number of .* from 1 up"):
            connection.publisher(window=window, window_bytes=window_bytes)


# --- the window -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def submitting(broker: Broker, publisher: Publisher, sizes: list[int]) -> AsyncGenerator[list[int], None]:
    """Submit bodies of these sizes to a frozen broker; gives the sizes that found room so far."""
    admitted: list[int] = []

    async def submit() -> None:
        for size in sizes:
            await publisher.submit(Message(bytes(size)), routing_key="q")
            admitted.append(size)

    broker.freeze()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            await anyio.wait_all_tasks_blocked()
            yield admitted
            broker.thaw()


async def test_window_bounds_how_many_are_unconfirmed() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher(window=3) as publisher:
        async with submitting(broker, publisher, [1] * 10) as admitted:
            assert len(admitted) == publisher.unconfirmed == connection.stats.unconfirmed == 3
        assert len(admitted) == 10


async def test_window_bounds_how_many_bytes_are_unconfirmed() -> None:
    """Invariant 11."""
    async with connected() as (broker, connection), connection.publisher(window_bytes=100) as publisher:
        async with submitting(broker, publisher, [40, 60, 1, 1]) as admitted:
            assert admitted == [40, 60]
        assert len(admitted) == 4


async def test_message_larger_than_the_window_goes_alone() -> None:
    async with connected() as (broker, connection), connection.publisher(window_bytes=100) as publisher:
        async with submitting(broker, publisher, [1000, 1]) as admitted:
            assert admitted == [1000]
        async with submitting(broker, publisher, [1, 1000, 1]) as admitted:
            assert admitted == [1]
        await publisher.flush()
        assert [len(body) for body in bodies(broker)] == [1000, 1, 1, 1000, 1]


# --- order ----------------------------------------------------------------------------------------------------------


async def test_order_holds_over_many_resets() -> None:
    """Invariants 4 and 5."""
    async with connected() as (broker, connection), connection.publisher(window=8) as publisher:
        publications: list[Publication] = []
        for number, body in enumerate(numbered(200)):
            publications.append(await publisher.submit(Message(body), routing_key="q"))
            if number % 20 == 19:
                broker.reset_connections()
        receipts = [await publication for publication in publications]
        assert list(dict.fromkeys(bodies(broker))) == numbered(200)
        assert any(receipt.attempts > 1 for receipt in receipts)
        assert connection.stats.reconnects == 10


async def test_what_waits_while_blocked_goes_out_in_order() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        await publisher.publish(Message(b"first"), routing_key="q")
        broker.block()
        await eventually(lambda: connection.state is State.BLOCKED)
        await submit_all(publisher, 20)
        await anyio.wait_all_tasks_blocked()
        assert bodies(broker) == [b"first"]
        broker.unblock()
        await publisher.flush()
        assert bodies(broker) == [b"first", *numbered(20)]


# --- flush and the end of the block ---------------------------------------------------------------------------------


async def test_flush_waits_for_all_and_raises_the_failures_together() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        await submit_all(publisher, 3)
        for name in ("one", "two"):
            await publisher.submit(Message(b"x", message_id=name), routing_key="nowhere")
        with pytest.raises(ExceptionGroup, match="2 publishes failed") as caught:
            await publisher.flush()
        failures = [error for error in caught.value.exceptions if isinstance(error, Unroutable)]
        assert [error.message_id for error in failures] == ["one", "two"]
        assert publisher.unconfirmed == 0
        assert bodies(broker) == numbered(3)


async def test_flush_tells_of_each_failure_once() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        await publisher.submit(Message(b"x"), routing_key="nowhere")
        with pytest.raises(ExceptionGroup):
            await publisher.flush()
        await publisher.flush()


async def test_flush_does_not_tell_of_what_somebody_awaited() -> None:
    async with connected() as (_, connection), connection.publisher() as publisher:
        publication = await publisher.submit(Message(b"x"), routing_key="nowhere")
        with pytest.raises(Unroutable):
            await publication
        with pytest.raises(Unroutable):
            await publisher.publish(Message(b"x"), routing_key="nowhere")
        await publisher.flush()


async def test_end_of_the_block_waits_for_every_outcome() -> None:
    async with connected() as (broker, connection):
        async with connection.publisher() as publisher:
            publications = await submit_all(publisher, 50)
        assert all(publication.is_settled for publication in publications)
        assert bodies(broker) == numbered(50)


async def test_end_of_the_block_raises_the_failures() -> None:
    async with connected() as (_, connection):
        with pytest.raises(ExceptionGroup, match="1 publishes failed"):
            async with connection.publisher() as publisher:
                await publisher.submit(Message(b"x"), routing_key="nowhere")


async def test_an_error_in_the_block_is_raised_and_ends_publishes() -> None:
    error = KeyError("mine")
    publications: list[Publication] = []
    async with connected() as (broker, connection):

        async def fail() -> None:
            async with connection.publisher() as publisher:
                broker.freeze()
                publications.append(await publisher.submit(Message(b"x"), routing_key="nowhere"))
                broker.thaw()
                raise error

        with pytest.raises(KeyError) as caught:
            await fail()
        assert caught.value is error
        with pytest.raises(ChannelClosed, match="the publisher is closed"):
            await publications[0]
        await eventually(lambda: broker.channel_count == 0)


async def test_cancelled_publish_that_never_left_is_not_sent_later() -> None:
    async with connected() as (broker, connection), connection.publisher() as publisher:
        broker.refuse()
        broker.reset_connections()
        await eventually(lambda: connection.state is State.RECONNECTING)
        with anyio.move_on_after(0.02):
            await publisher.publish(Message(b"cancelled"), routing_key="q")
        broker.accept()
        await publisher.publish(Message(b"later"), routing_key="q", timeout=5)
        assert bodies(broker) == [b"later"]
