"""Handlers, stopping and being cancelled by the broker, in virtual time: every pause and every bound is exact."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
import trio.testing

import anyamqp
from anyamqp import (
    ChannelEvent,
    Connection,
    ConnectionClosed,
    Consumer,
    ConsumerCancelled,
    Delivery,
    Message,
    NotFound,
    OnCancel,
    PreconditionFailed,
    ReconnectPolicy,
    Settings,
    State,
)
from anyamqp.testing import Broker
from anyamqp.testing.embedded.queues import Outcome
from anyamqp.testing.embedded.transport import Served
from anyamqp.wire import methods
from support.stepping import cancel_at
from support.waiting import Stopwatch, eventually, running_tasks

pytestmark = pytest.mark.anyio

SETTINGS = Settings(
    reconnect=ReconnectPolicy(initial=1.0, factor=1.0, maximum=1.0, jitter=0.0), close_timeout=3.0, heartbeat=0
)
"""Reconnects at once, then every second; no heartbeats, so that a silent broker is just silent."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@dataclass(frozen=True)
class Bench:
    """A broker with a queue of another connection's, and a connection to consume on."""

    broker: Broker
    connection: Connection
    other: Connection

    async def publish(self, *bodies: bytes) -> None:
        async with self.other.publisher() as publisher:
            for body in bodies:
                await publisher.publish(Message(body), routing_key="q")

    async def declare(self) -> None:
        async with self.other.channel() as channel:
            await channel.declare_queue("q")

    async def delete(self) -> None:
        async with self.other.channel() as channel:
            await channel.delete_queue("q")

    @property
    def queue(self) -> tuple[int, int, int]:
        """How many messages are ready, how many are unacknowledged, and how many consumers there are."""
        view = self.broker.queues["q"]
        return view.messages, view.unacked, view.consumers

    def lose(self, *, for_good: bool = False) -> None:
        """Drop the connections; ``for_good`` keeps them away."""
        if for_good:
            self.broker.refuse()
        self.broker.reset_connections()

    def cancel_consumers(self) -> None:
        """Send basic.cancel for every consumer, and take its deliveries back: an ack has taken too long.

        RabbitMQ does so in some of its versions, where others close the channel; the queue stays as it is.
        """
        connections: dict[Served, None] = vars(self.broker)["_connections"]
        for connection in connections:
            for channel in connection.peer.channels.values():
                tags: list[str] = list(vars(channel.deliveries)["_consumers"])
                for tag in tags:
                    channel.deliveries.remove(tag)
                    connection.peer.write(channel.number, methods.Basic.Cancel(tag, nowait=True))
                channel.deliveries.settle(0, Outcome.RETURNED, multiple=True)


@asynccontextmanager
async def a_bench() -> AsyncGenerator[Bench, None]:
    async with (
        Broker() as broker,
        anyamqp.connect(SETTINGS, dial=broker.dial) as connection,
        anyamqp.connect(SETTINGS, dial=broker.dial) as other,
    ):
        bench = Bench(broker, connection, other)
        await bench.declare()
        yield bench
        assert broker.unexpected_closes == []


class Gate:
    """A handler whose runs wait until the test releases them."""

    def __init__(self) -> None:
        self.began: list[bytes] = []
        self.ended: list[bytes] = []
        self._open = anyio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.began.append(delivery.body)
        await self._open.wait()
        self.ended.append(delivery.body)

    def open(self) -> None:
        self._open.set()


async def next_of(consumer: Consumer) -> Delivery:
    with anyio.fail_after(1000):
        return await anext(consumer)


async def until_stale(delivery: Delivery) -> None:
    await eventually(lambda: delivery.is_stale)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


# --- stop -----------------------------------------------------------------------------------------------------------


async def test_stop_while_the_connection_is_away_lets_the_handler_finish_and_consumes_no_more() -> None:
    async with a_bench() as bench:
        await bench.publish(b"a", b"b")
        gate = Gate()
        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, gate)
            await anyio.wait_all_tasks_blocked()
            bench.lose(for_good=True)
            await eventually(lambda: bench.connection.state is State.RECONNECTING)
            watch = Stopwatch()
            await consumer.stop()
            assert watch.seconds == 0
            gate.open()
            await anyio.wait_all_tasks_blocked()
            assert gate.ended == [b"a"]
            bench.broker.accept()
            await anyio.sleep(30)
            assert bench.connection.state is State.OPEN
            # The ack was stale, so both are there for somebody else.
            assert bench.queue == (2, 0, 0)
            assert bench.connection.stats.stale_acks == 1


async def test_stop_before_a_loss_lasts_over_it() -> None:
    async with a_bench() as bench:
        await bench.publish(b"a", b"b")
        gate = Gate()
        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(consumer.process, gate)
            await anyio.wait_all_tasks_blocked()
            await consumer.stop()
            bench.lose()
            await anyio.sleep(30)
            assert bench.connection.stats.reconnects == 1
            assert (bench.queue, consumer.is_consuming) == ((2, 0, 0), False)
            gate.open()
        assert gate.began == gate.ended == [b"a"]


async def test_stop_twice_is_stop_once() -> None:
    async with a_bench() as bench:
        await bench.publish(*numbered(5))
        async with bench.connection.consumer("q") as consumer:
            held = await next_of(consumer)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(consumer.stop)
            sent = bench.connection.stats.frames_sent
            await consumer.stop()
            await anyio.wait_all_tasks_blocked()
            assert bench.connection.stats.frames_sent == sent
            assert bench.queue == (4, 1, 0)
            held.ack()
        assert bench.broker.queues["q"].bodies() == numbered(5)[1:]


async def test_stop_takes_no_longer_than_close_timeout_when_the_broker_is_silent() -> None:
    async with a_bench() as bench:
        async with bench.connection.consumer("q") as consumer:
            bench.broker.freeze()
            watch = Stopwatch()
            await consumer.stop()
            assert watch.seconds == 3
            with pytest.raises(StopAsyncIteration):
                await anext(consumer)
            bench.broker.thaw()
        await anyio.wait_all_tasks_blocked()
        assert bench.queue == (0, 0, 0)


async def test_a_loss_during_stop_ends_it_quietly() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        watch = Stopwatch()
        async with anyio.create_task_group() as tasks:
            bench.broker.freeze()
            tasks.start_soon(consumer.stop)
            await anyio.wait_all_tasks_blocked()
            bench.lose()
        assert watch.seconds == 0
        bench.broker.thaw()
        await bench.connection.wait_ready()
        assert bench.queue == (0, 0, 0)


async def test_closing_the_connection_during_stop_ends_it_quietly() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
        bench.broker.freeze()
        tasks.start_soon(consumer.stop)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(bench.connection.close)
        await anyio.wait_all_tasks_blocked()
        bench.broker.thaw()


async def test_stop_that_is_cancelled_anywhere_has_stopped_all_the_same() -> None:
    steps = 0
    while True:
        async with a_bench() as bench:
            await bench.publish(*numbered(3))
            async with bench.connection.consumer("q") as consumer:
                held = await next_of(consumer)
                was_cancelled = await cancel_at(steps + 1, consumer.stop)
                await anyio.wait_all_tasks_blocked()
                assert bench.queue == (2, 1, 0)
                assert [delivery async for delivery in consumer] == []
                held.ack()
            assert bench.queue == (2, 0, 0)
        if not was_cancelled:
            break
        steps += 1
    assert steps > 0


async def test_a_stopped_consumer_processes_nothing() -> None:
    async with a_bench() as bench:
        async with bench.connection.consumer("q") as consumer:
            await consumer.stop()
            await bench.publish(b"x")
            gate = Gate()
            await consumer.process(gate, concurrency=3)
            assert gate.began == []
        assert bench.queue == (1, 0, 0)


async def test_without_acknowledgements_what_has_arrived_is_handled_after_stop() -> None:
    async with a_bench() as bench:
        await bench.publish(*numbered(10))
        gate = Gate()
        async with bench.connection.consumer("q", no_ack=True) as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, gate, concurrency=2))
            await eventually(lambda: bench.queue[0] == 0)
            await anyio.wait_all_tasks_blocked()
            assert gate.began == numbered(2)
            await consumer.stop()
            gate.open()
        assert gate.began == sorted(gate.ended) == numbered(10)
        assert bench.queue == (0, 0, 0)


# --- failing handlers -----------------------------------------------------------------------------------------------


async def test_a_handler_that_fails_while_its_delivery_is_stale_is_logged_once_and_handled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        runs: list[bool] = []

        async def handle(delivery: Delivery) -> None:
            runs.append(delivery.redelivered)
            if len(runs) == 1:
                await anyio.sleep(10)
                raise LookupError("too late")
            await anyio.lowlevel.checkpoint()

        with caplog.at_level(logging.ERROR, "anyamqp"):
            async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
                tasks.start_soon(partial(consumer.process, handle, on_error="reject"))
                await anyio.wait_all_tasks_blocked()
                bench.lose()
                await anyio.sleep(30)
                await consumer.stop()
        assert runs == [False, True]
        assert [record.exc_info is not None for record in caplog.records] == [True]
        assert (bench.queue, bench.connection.stats.stale_acks) == ((0, 0, 0), 1)


async def test_closing_the_connection_ends_process_with_connection_closed_after_its_handlers() -> None:
    async with a_bench() as bench:
        await bench.publish(b"0", b"1")
        ended: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.sleep(1)
            ended.append(delivery.body)

        before = running_tasks()
        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:

            async def process() -> None:
                with pytest.raises(ConnectionClosed):
                    await consumer.process(handle, concurrency=2)

            tasks.start_soon(process)
            await anyio.wait_all_tasks_blocked()
            await bench.connection.close()
        assert sorted(ended) == [b"0", b"1"]
        assert running_tasks() < before


# --- waiting for a queue --------------------------------------------------------------------------------------------


class Failures:
    """When channels of a connection failed, in virtual seconds."""

    def __init__(self, connection: Connection) -> None:
        self.times: list[float] = []
        self._transitions = connection.transitions()

    async def watch(self) -> None:
        async for transition in self._transitions:
            if transition.event is ChannelEvent.FAILED:
                self.times.append(transition.at)


async def test_pauses_between_attempts_at_a_missing_queue_grow_to_ten_seconds_and_begin_anew() -> None:
    async with a_bench() as bench, anyio.create_task_group() as tasks:
        async with bench.connection.consumer("q", on_cancel="resubscribe") as consumer:
            expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
            for _ in range(2):
                failures = Failures(bench.connection)
                tasks.start_soon(failures.watch)
                began = anyio.current_time()
                await bench.delete()
                await anyio.sleep(sum(expected) + 1)
                pauses = [round(later - earlier, 6) for earlier, later in pairwise([began, *failures.times])]
                assert pauses == expected
                await bench.declare()
                await bench.publish(b"back")
                watch = Stopwatch()
                (await next_of(consumer)).ack()
                assert watch.seconds == 9
        tasks.cancel_scope.cancel()


async def test_leaving_while_the_queue_is_waited_for_ends_the_attempts() -> None:
    async with a_bench() as bench, anyio.create_task_group() as tasks:
        failures = Failures(bench.connection)
        tasks.start_soon(failures.watch)
        async with bench.connection.consumer("q", on_cancel="resubscribe"):
            await bench.delete()
            await anyio.sleep(1)
        count = len(failures.times)
        assert count == 3
        await bench.declare()
        await anyio.sleep(100)
        assert (len(failures.times), bench.queue) == (count, (0, 0, 0))
        tasks.cancel_scope.cancel()


# --- channels that the broker closes --------------------------------------------------------------------------------

TEXT = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"


async def test_a_channel_that_is_closed_three_times_right_after_opening_ends_the_consumer() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        for closed in range(3):
            await eventually(lambda: consumer.is_consuming)
            assert bench.queue[2] == 1, f"gave up after {closed}"
            bench.broker.close_channels(406, TEXT)
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(PreconditionFailed, match="timed out"):
            await next_of(consumer)
        assert (bench.queue, bench.connection.stats.link_number) == ((0, 0, 0), 1)


async def test_a_channel_that_lives_for_a_while_each_time_is_never_given_up() -> None:
    async with a_bench() as bench, bench.connection.consumer("q", prefetch=1) as consumer:
        await bench.publish(b"slow")
        for n in range(10):
            delivery = await next_of(consumer)
            assert delivery.redelivered == (n > 0)
            await anyio.sleep(1)
            bench.broker.close_channels(406, TEXT)
            await until_stale(delivery)
        (await next_of(consumer)).ack()
        await anyio.wait_all_tasks_blocked()
        assert (bench.queue, bench.connection.stats.link_number) == ((0, 0, 1), 1)


async def test_two_early_closes_do_not_count_when_a_long_life_comes_between() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        for pause in (0, 0, 5, 0, 0, 5, 0, 0):
            await eventually(lambda: consumer.is_consuming)
            await anyio.sleep(pause)
            bench.broker.close_channels(406, TEXT)
            await anyio.wait_all_tasks_blocked()
        await eventually(lambda: consumer.is_consuming)
        await bench.publish(b"still there")
        (await next_of(consumer)).ack()


async def test_handlers_run_on_when_their_channel_is_closed() -> None:
    async with a_bench() as bench:
        await bench.publish(*numbered(4))
        runs: list[tuple[bytes, bool]] = []

        async def handle(delivery: Delivery) -> None:
            runs.append((delivery.body, delivery.redelivered))
            await anyio.sleep(10 if delivery.body == b"1" and not delivery.redelivered else 1)

        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, handle, concurrency=2))
            await anyio.sleep(5)
            assert runs == [(body, False) for body in (b"0", b"1", b"2", b"3")]
            bench.broker.close_channels(406, TEXT)
            await anyio.sleep(10)
            await consumer.stop()
        assert runs[4:] == [(b"1", True)]
        assert (bench.queue, bench.connection.stats.stale_acks) == ((0, 0, 0), 1)


# --- basic.cancel ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_cancel", "pause"), [("raise", 0), ("end", 0), ("resubscribe", 0.1)])
async def test_basic_cancel_of_a_queue_that_is_there_ends_nothing(on_cancel: OnCancel, pause: float) -> None:
    """An ack that took too long, as RabbitMQ 4.3 tells it for a quorum queue: what was delivered before is stale."""
    async with a_bench() as bench:
        await bench.publish(b"a", b"b")
        async with bench.connection.consumer("q", prefetch=1, on_cancel=on_cancel) as consumer:
            slow = await next_of(consumer)
            bench.cancel_consumers()
            watch = Stopwatch()
            again = await next_of(consumer)
            assert watch.seconds == pause
            assert (again.body, again.redelivered) == (b"a", True)
            assert (slow.is_stale, again.is_stale) == (True, False)
            slow.ack()
            assert bench.connection.stats.stale_acks == 1
            again.ack()
            (await next_of(consumer)).ack()
        assert bench.queue == (0, 0, 0)
        assert (bench.connection.stats.link_number, bench.connection.stats.open_channels) == (1, 0)


@pytest.mark.parametrize("on_cancel", ["raise", "end"])
async def test_basic_cancel_of_a_deleted_queue_comes_after_what_was_delivered(on_cancel: OnCancel) -> None:
    async with a_bench() as bench:
        await bench.publish(b"a", b"b")
        async with bench.connection.consumer("q", on_cancel=on_cancel) as consumer:
            await anyio.wait_all_tasks_blocked()
            await bench.delete()
            await eventually(lambda: not consumer.is_consuming)
            assert [(await next_of(consumer)).body for _ in range(2)] == [b"a", b"b"]
            if on_cancel == "end":
                assert [delivery async for delivery in consumer] == []
            else:
                with pytest.raises(ConsumerCancelled, match="'q', which is gone") as caught:
                    await next_of(consumer)
                assert isinstance(caught.value.__cause__, NotFound)
            assert not consumer.is_consuming
        assert (bench.connection.state, bench.connection.stats.link_number) == (State.OPEN, 1)


async def test_basic_cancel_three_times_right_after_consuming_ends_the_consumer() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        for cancelled in range(3):
            await eventually(lambda: consumer.is_consuming)
            assert bench.queue[2] == 1, f"gave up after {cancelled}"
            bench.cancel_consumers()
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConsumerCancelled, match="again and again although the queue exists"):
            await next_of(consumer)
        assert (bench.queue, bench.connection.stats.link_number) == ((0, 0, 0), 1)


async def test_basic_cancel_now_and_then_never_ends_the_consumer() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        for _ in range(10):
            await eventually(lambda: consumer.is_consuming)
            await anyio.sleep(1)
            bench.cancel_consumers()
            await anyio.wait_all_tasks_blocked()
        await bench.publish(b"still there")
        (await next_of(consumer)).ack()


async def test_a_loss_while_the_cancelled_consumers_queue_is_asked_for_is_recovered_from() -> None:
    async with a_bench() as bench, bench.connection.consumer("q") as consumer:
        bench.cancel_consumers()
        while consumer.is_consuming:
            await anyio.lowlevel.checkpoint()
        bench.broker.freeze()
        await anyio.wait_all_tasks_blocked()
        assert not consumer.is_consuming
        bench.lose()
        bench.broker.thaw()
        await bench.publish(b"still there")
        (await next_of(consumer)).ack()


@pytest.mark.parametrize("on_cancel", ["raise", "end", "resubscribe"])
async def test_basic_cancel_under_handlers(on_cancel: OnCancel) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        runs: list[bool] = []

        async def handle(delivery: Delivery) -> None:
            runs.append(delivery.redelivered)
            await anyio.sleep(5 if len(runs) == 1 else 0)

        async with (
            bench.connection.consumer("q", prefetch=1, on_cancel=on_cancel) as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(partial(consumer.process, handle, concurrency=2))
            await anyio.wait_all_tasks_blocked()
            bench.cancel_consumers()
            await anyio.sleep(20)
            await consumer.stop()
        assert runs == [False, True]
        assert bench.queue == (0, 0, 0)


@pytest.mark.parametrize("on_cancel", ["raise", "end", "resubscribe"])
async def test_basic_cancel_that_crosses_stop_is_no_error(on_cancel: OnCancel) -> None:
    async with a_bench() as bench:
        async with bench.connection.consumer("q", on_cancel=on_cancel) as consumer:
            bench.cancel_consumers()
            await consumer.stop()
            await anyio.sleep(30)
            assert [delivery async for delivery in consumer] == []
        assert bench.queue == (0, 0, 0)
        assert bench.connection.stats.open_channels == 0


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_processing_leaves_as_itself_on_trio() -> None:
    """trio raises it in the main task, which waits for the handlers' tasks here."""

    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def handle(_: Delivery) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        async with (
            Broker() as broker,
            anyamqp.connect(SETTINGS, dial=broker.dial) as connection,
            connection.channel() as channel,
        ):
            await channel.declare_queue("q")
            async with connection.consumer("q") as consumer:
                trio.lowlevel.spawn_system_task(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    await consumer.process(handle)

    trio.run(main)
