"""Failed deliveries, in virtual time: which ones are requeued, when and how often, and the log."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import get_ident
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing

import anyamqp
from anyamqp import (
    Connection,
    Consumer,
    Decision,
    Delivery,
    InvalidArgument,
    InvalidUse,
    Message,
    OnError,
    ReconnectPolicy,
    Retry,
    Settings,
)
from anyamqp.core.journal import Journal
from anyamqp.on_error import Failures
from anyamqp.testing import Broker
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from support.amqp import decode
from support.waiting import eventually

pytestmark = pytest.mark.anyio

SETTINGS = Settings(
    reconnect=ReconnectPolicy(initial=1.0, factor=1.0, maximum=1.0, jitter=0.0), close_timeout=3.0, heartbeat=0
)
PAUSES = [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
"""Seconds between a failure and the next delivery of the same message, by default."""

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Not on trio, which has no cancellation exception that anyone may raise."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Tap(anyio.abc.ByteStream):
    """A transport that records the sent bytes."""

    def __init__(self, inner: anyio.abc.ByteStream) -> None:
        self.sent = b""
        self._inner = inner

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        self.sent += item
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class Bench:
    """A broker with a queue, a connection to consume on, and another one to publish on."""

    broker: Broker
    connection: Connection
    other: Connection
    taps: list[Tap] = field(default_factory=list[Tap])

    async def publish(self, *bodies: bytes, headers: anyamqp.FieldTable | None = None) -> None:
        async with self.other.publisher() as publisher:
            for body in bodies:
                await publisher.publish(Message(body, headers=headers), routing_key="q")

    @property
    def queue(self) -> tuple[int, int]:
        """How many messages are ready, and how many are unacknowledged."""
        view = self.broker.queues["q"]
        return view.messages, view.unacked

    def settled(self) -> list[str]:
        """The methods that settled deliveries or ended consumers, on all links of the consuming connection."""
        kinds = (methods.Basic.Ack, methods.Basic.Nack, methods.Basic.Reject, methods.Basic.Cancel)
        payloads = [frame.payload for tap in self.taps for frame in decode(tap.sent, as_server=True)]
        return [payload.name for payload in payloads if isinstance(payload, kinds)]


@asynccontextmanager
async def a_bench() -> AsyncGenerator[Bench, None]:
    async with Broker() as broker:
        taps: list[Tap] = []

        async def dial(address: object) -> anyio.abc.ByteStream:
            taps.append(Tap(await broker.dial(address)))
            return taps[-1]

        async with (
            anyamqp.connect(SETTINGS, dial=dial) as connection,
            anyamqp.connect(SETTINGS, dial=broker.dial) as other,
            other.channel() as channel,
        ):
            await channel.declare_queue("q")
            yield Bench(broker, connection, other, taps)
            assert broker.unexpected_closes == []


class Handler:
    """Fails for each message as often as it is told, and notes when it ran.

    Args:
        failures: how often, by body; messages that are not listed never fail.
    """

    def __init__(self, failures: dict[bytes, float]) -> None:
        self.failures = failures
        self.runs: list[bytes] = []
        self.times: list[float] = []
        self.errors: list[Exception] = []

    async def __call__(self, delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        self.runs.append(delivery.body)
        self.times.append(anyio.current_time())
        if self.runs.count(delivery.body) <= self.failures.get(delivery.body, 0):
            self.errors.append(LookupError(f"no account {delivery.body.decode()}, run {len(self.runs)}"))
            raise self.errors[-1]

    @property
    def pauses(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in pairwise(self.times)]


ALWAYS = {b"poison": math.inf}


@asynccontextmanager
async def processing(
    bench: Bench,
    handler: Callable[[Delivery], Awaitable[object]],
    *,
    on_error: OnError | None = None,
    concurrency: int = 1,
    prefetch: int = 10,
) -> AsyncGenerator[Consumer, None]:
    """Run the handler until the block ends."""
    async with bench.connection.consumer("q", prefetch=prefetch) as consumer, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(consumer.process, handler, concurrency=concurrency, on_error=on_error))
        yield consumer
        await consumer.stop()


async def handle(_: Delivery) -> None:
    await anyio.lowlevel.checkpoint()


async def next_of(consumer: Consumer) -> Delivery:
    with anyio.fail_after(1000):
        return await anext(consumer)


def logged(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    """The errors that were logged with their tracebacks."""
    return [record.exc_info[1] for record in caplog.records if record.exc_info is not None]


# --- requeue, the default -------------------------------------------------------------------------------------------


async def test_failing_handlers_are_logged_and_do_not_end_process(caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        await bench.publish(b"0", b"1", b"2", b"3")
        handler = Handler({b"1": 1, b"2": 2})
        async with processing(bench, handler, concurrency=2):
            await anyio.sleep(30)
        assert sorted(handler.runs) == [b"0", b"1", b"1", b"2", b"2", b"2", b"3"]
        assert bench.queue == (0, 0)
        assert logged(caplog) == handler.errors
        assert "a handler of queue 'q' failed" in caplog.messages


async def test_a_failure_is_rejected_with_requeue_and_success_acked() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with processing(bench, Handler({b"x": 1})):
            await anyio.sleep(1)
        assert bench.settled() == ["Basic.Reject", "Basic.Ack", "Basic.Cancel"]


async def test_a_message_that_fails_again_waits_up_to_ten_seconds() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler(ALWAYS)
        async with processing(bench, handler):
            await anyio.sleep(sum(PAUSES) + 0.5)
        assert handler.pauses == PAUSES


async def test_a_message_that_fails_again_waits_in_the_iterator_too() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler(ALWAYS)
        async with bench.connection.consumer("q") as consumer:
            with anyio.move_on_after(sum(PAUSES) + 0.5):
                async for delivery in consumer:
                    with suppress(LookupError):
                        async with delivery:
                            await handler(delivery)
        assert handler.pauses == PAUSES


async def test_a_pause_delays_no_other_message() -> None:
    """Invariant 13: the pause is a timer's, not the handler's or the iteration's time."""
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler(ALWAYS)
        async with processing(bench, handler, prefetch=2):
            await anyio.sleep(10)  # the pause that runs now is one of 6.4 s
            began = anyio.current_time()
            for n in range(20):
                await bench.publish(b"%d" % n)
            await eventually(lambda: handler.runs[-1] == b"19")
            assert anyio.current_time() - began < 1
            assert bench.queue == (0, 1)


async def test_a_known_failure_counts_anew_for_a_message_not_redelivered() -> None:
    async with a_bench() as bench:
        handler = Handler({b"same": 5})
        async with bench.other.publisher() as publisher, processing(bench, handler, on_error=Retry(1, delay=1)):
            for _ in range(2):
                await publisher.publish(Message(b"same", message_id="same"), routing_key="q")
                await anyio.sleep(10)
        assert handler.runs == [b"same"] * 4


async def test_stop_ends_the_pause() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler(ALWAYS)
        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, handler, on_error=Retry(5, delay=100)))
            await anyio.sleep(1)
            assert bench.queue == (0, 1)
            await consumer.stop()
            await anyio.wait_all_tasks_blocked()
            assert bench.queue == (1, 0)
        assert bench.settled() == ["Basic.Cancel", "Basic.Reject"]


async def test_leaving_the_block_ends_the_pause() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        async with bench.connection.consumer("q", on_error=Retry(5, delay=100)) as consumer:
            with suppress(LookupError):
                async with await next_of(consumer):
                    raise LookupError
            await anyio.sleep(1)
            assert bench.queue == (0, 1)
        assert bench.queue == (1, 0)
        assert bench.settled() == ["Basic.Cancel", "Basic.Reject"]


async def test_a_failure_after_stop_goes_back_at_once() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        release = anyio.Event()

        async def fail(_: Delivery) -> None:
            await release.wait()
            raise LookupError

        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(consumer.process, fail, on_error=Retry(5, delay=100)))
            await anyio.wait_all_tasks_blocked()
            await consumer.stop()
            release.set()
            await anyio.wait_all_tasks_blocked()
            assert bench.queue == (1, 0)


async def test_a_loss_ends_the_pause_and_sends_nothing() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(5, delay=100)):
            await anyio.sleep(10)
            bench.broker.reset_connections()
            await eventually(lambda: len(handler.runs) == 2)
            await anyio.sleep(95)
            assert (bench.queue, len(handler.runs)) == ((0, 1), 2)
            assert bench.connection.stats.stale_acks == 0
            assert [tap.sent.count(b"\x00\x3c\x00\x5a") for tap in bench.taps] == [0, 0]


async def test_an_error_that_leaves_the_consumer_costs_one_delivery() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        error = LookupError("no account")

        async def consume() -> None:
            async with bench.connection.consumer("q") as consumer:
                async for delivery in consumer:
                    async with delivery:
                        raise error

        with pytest.raises(LookupError) as caught:
            await consume()
        assert caught.value is error
        # Cancelled first: the broker had no consumer to deliver the message to once more.
        assert bench.settled() == ["Basic.Cancel", "Basic.Reject"]
        assert bench.queue == (1, 0)


async def test_multiple_does_not_settle_what_waits_to_go_back() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison", b"good")
        async with bench.connection.consumer("q") as consumer:
            with suppress(LookupError):
                async with await next_of(consumer):
                    raise LookupError
            (await next_of(consumer)).ack(multiple=True)
            again = await next_of(consumer)
            assert (again.body, again.redelivered) == (b"poison", True)
            again.ack()
        assert bench.settled() == ["Basic.Reject", "Basic.Ack", "Basic.Ack", "Basic.Cancel"]


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, "3", None])
async def test_a_return_is_delayed_by_a_number_of_seconds(after: float) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            delivery = await next_of(consumer)
            with pytest.raises(InvalidArgument, match="after"):
                delivery.requeue(after=after)
            assert not delivery.is_settled
            delivery.requeue(after=5)
            with pytest.raises(InvalidUse, match="already settled"):
                delivery.ack()


async def test_a_fetched_message_whose_block_fails_is_requeued() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.channel() as channel:
            fetched = await channel.get("q")
            assert fetched is not None
            with suppress(LookupError):
                async with fetched:
                    raise LookupError
            await anyio.wait_all_tasks_blocked()
            assert bench.queue == (1, 0)
        assert bench.settled() == ["Basic.Reject"]


async def test_recover_takes_back_what_waits_for_its_return() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.channel() as channel:
            fetched = await channel.get("q")
            assert fetched is not None
            fetched.requeue(after=5)
            await channel.recover()
            await anyio.sleep(10)
            assert bench.queue == (1, 0)
        assert bench.settled() == []


async def test_a_message_with_unreadable_properties_counts_by_its_body(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures(Journal(None, lambda _seconds, _call: None))
    for redelivered in (False, True, True):
        failed = Delivery(
            Received(b"abc", b"\x80\x00\xffabc"),
            exchange="",
            routing_key="q",
            delivery_tag=1,
            redelivered=redelivered,
            settler=Absorbing(),
        )
        await failures.settle(failed, LookupError("bad"), Retry(2), "q")
    assert caplog.messages == ["message None of queue 'q' is rejected after 3 failures; the last: LookupError: bad"]


class Absorbing:
    """Settles into nothing."""

    is_stale = False
    settled_up_to = -1

    def __init__(self) -> None:
        self.thread = get_ident()

    def ack(self, delivery_tag: int, *, multiple: bool) -> None: ...

    def nack(self, delivery_tag: int, *, multiple: bool, requeue: bool) -> None: ...

    def reject(self, delivery_tag: int, *, requeue: bool) -> None: ...

    def requeue(self, delivery_tag: int, *, failed: bool, after: float) -> None: ...

    async def block_failed(self, delivery: Delivery, raised: BaseException) -> None: ...


# --- given back unhandled -------------------------------------------------------------------------------------------


async def test_a_cancelled_handler_gives_back_without_a_failure() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            with anyio.move_on_after(1):
                await consumer.process(lambda _: anyio.sleep_forever())
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack"]
        assert bench.queue == (1, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_cancellation_turned_into_an_error_ends_process() -> None:
    async with a_bench() as bench:
        await bench.publish(*(b"%d" % n for n in range(30)))
        began: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            began.append(delivery.body)
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                raise LookupError from error

        async with bench.connection.consumer("q", on_error="reject") as consumer:
            with anyio.move_on_after(0.3) as scope:
                await consumer.process(handle)
            assert scope.cancelled_caught
        await eventually(lambda: bench.queue == (30, 0))
        assert began == [b"0"]


async def test_a_cancelled_block_gives_back_without_a_failure() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            with anyio.move_on_after(1):
                async with await next_of(consumer):
                    await anyio.sleep_forever()
            again = await next_of(consumer)
            assert again.redelivered
            again.ack()
        assert bench.settled() == ["Basic.Nack", "Basic.Ack", "Basic.Cancel"]


@pytest.mark.parametrize("leave", ["stop", "block", "cancelled"])
async def test_what_was_not_handed_out_goes_back_without_a_failure(leave: str) -> None:
    async with a_bench() as bench:
        await bench.publish(b"0", b"1", b"2")
        with anyio.CancelScope() as scope:
            async with bench.connection.consumer("q") as consumer:
                await eventually(lambda: bench.queue == (0, 3))
                await anyio.wait_all_tasks_blocked()
                if leave == "stop":
                    await consumer.stop()
                elif leave == "cancelled":
                    scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack", "Basic.Nack", "Basic.Nack"]
        assert bench.queue == (3, 0)


async def test_closing_the_connection_gives_back_without_a_failure() -> None:
    """The consumers are cancelled before anything goes back, or one would be delivered what another gives back."""
    async with a_bench() as bench:
        await bench.publish(b"0", b"1", b"2", b"3")
        async with bench.connection.consumer("q", prefetch=2), bench.connection.consumer("q", prefetch=2):
            await eventually(lambda: bench.queue == (0, 4))
            await anyio.wait_all_tasks_blocked()
            await bench.connection.close()
        assert bench.settled() == ["Basic.Cancel"] * 2 + ["Basic.Nack"] * 4
        assert bench.queue == (4, 0)


async def test_closing_the_connection_ends_the_pause() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            (await next_of(consumer)).requeue(after=30)
            await bench.connection.close()
        assert bench.settled() == ["Basic.Cancel", "Basic.Reject"]
        assert bench.queue == (1, 0)


async def test_closing_the_connection_while_a_consumer_stops_gives_back() -> None:
    async with a_bench() as bench:
        await bench.publish(b"0", b"1")
        async with bench.connection.consumer("q") as consumer, anyio.create_task_group() as tasks:
            await eventually(lambda: bench.queue == (0, 2))
            await anyio.wait_all_tasks_blocked()
            bench.broker.freeze()
            tasks.start_soon(consumer.stop)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(bench.connection.close)
            await anyio.wait_all_tasks_blocked()
            bench.broker.thaw()
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack", "Basic.Nack"]
        assert bench.queue == (2, 0)


# --- reject ---------------------------------------------------------------------------------------------------------


async def test_a_rejection_is_logged_and_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        async with bench.other.publisher() as publisher:
            await publisher.publish(Message(b"poison", message_id="m"), routing_key="q")
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error="reject"):
            await anyio.sleep(30)
        assert (handler.runs, bench.queue) == ([b"poison"], (0, 0))
        assert logged(caplog) == handler.errors
        assert (
            "message 'm' of queue 'q' is rejected after 1 failures; the last: LookupError: no account poison, run 1"
            in caplog.messages
        )


async def test_the_consumers_policy_is_for_its_blocks_and_process() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison", b"poison", b"poison")
        async with bench.connection.consumer("q", prefetch=1, on_error="reject") as consumer:
            assert consumer.on_error == "reject"
            with suppress(LookupError):
                async with await next_of(consumer):
                    raise LookupError
            handler = Handler(ALWAYS)
            with anyio.move_on_after(1):
                await consumer.process(handler)
        assert (handler.runs, bench.queue) == ([b"poison", b"poison"], (0, 0))


async def test_process_may_have_a_policy_of_its_own() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        handler = Handler({b"poison": 2})
        async with bench.connection.consumer("q", on_error="reject") as consumer:
            with anyio.move_on_after(1):
                await consumer.process(handler, on_error="requeue")
        assert (handler.runs, bench.queue) == ([b"poison"] * 3, (0, 0))


# --- Retry ----------------------------------------------------------------------------------------------------------


async def test_retry_rejects_after_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison", b"good")
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(limit=3, delay=5)):
            await anyio.sleep(60)
        assert handler.runs == [b"poison", b"good", b"poison", b"poison", b"poison"]
        assert [at - handler.times[0] for at in handler.times[2:]] == pytest.approx([5, 10, 15])
        assert bench.queue == (0, 0)
        assert [text for text in caplog.messages if "is rejected after 4 failures" in text]


async def test_retry_tells_messages_without_an_id_apart() -> None:
    async with a_bench() as bench:
        async with bench.other.channel() as channel:
            for body in (b"a", b"b"):
                await channel.publish(Message(body), routing_key="q")
        handler = Handler({b"a": math.inf, b"b": math.inf})
        async with processing(bench, handler, on_error=Retry(limit=2, delay=1)):
            await anyio.sleep(10)
        assert (sorted(handler.runs), bench.queue) == ([b"a"] * 3 + [b"b"] * 3, (0, 0))


@pytest.mark.parametrize(
    ("headers", "runs"),
    [
        ({"x-delivery-count": 7}, 1),
        ({"x-delivery-count": 10**18}, 1),
        ({"x-acquired-count": 9}, 6),
        ({"x-acquired-count": 9, "x-delivery-count": 3}, 3),
        ({"x-delivery-count": "7"}, 5),
        ({"x-delivery-count": -7}, 5),
    ],
    ids=str,
)
async def test_retry_believes_a_redelivery_that_tells_its_failures(headers: anyamqp.FieldTable, runs: int) -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison", headers=headers)
        async with bench.other.consumer("q") as consumer:
            (await next_of(consumer)).nack()
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(limit=5, delay=1)):
            await anyio.sleep(60)
        assert (len(handler.runs), bench.queue) == (runs, (0, 0))


async def test_a_published_count_of_failures_is_not_believed() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison", headers={"x-delivery-count": 10})
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(limit=5, delay=1)):
            await anyio.sleep(60)
        assert (len(handler.runs), bench.queue) == (6, (0, 0))


async def test_identical_messages_do_not_add_up_their_failures(caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        async with bench.other.channel() as channel:
            for _ in range(10):
                await channel.publish(Message(b"tick"), routing_key="q")
        handled: list[bytes] = []
        began = anyio.current_time()

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            if anyio.current_time() - began < 1.2:
                raise LookupError
            handled.append(delivery.body)

        async with processing(bench, handle, on_error=Retry(5, delay=0.4)):
            await anyio.sleep(30)
        assert handled == [b"tick"] * 10
        assert not [text for text in caplog.messages if "is rejected" in text]


async def test_a_rejected_message_leaves_no_count_for_an_identical_one() -> None:
    async with a_bench() as bench, bench.other.channel() as channel:
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(limit=3)):
            await channel.publish(Message(b"poison"), routing_key="q")
            await anyio.sleep(10)
        assert (len(handler.runs), bench.queue) == (4, (0, 0))
        await channel.publish(Message(b"poison"), routing_key="q")
        async with bench.other.consumer("q") as consumer:
            (await next_of(consumer)).nack()
        async with processing(bench, handler, on_error=Retry(limit=3)):
            await anyio.sleep(10)
        assert (len(handler.runs), bench.queue) == (7, (0, 0))


async def test_a_redelivery_of_unknown_history_has_failed_once() -> None:
    async with a_bench() as bench:
        await bench.publish(b"poison")
        async with bench.other.consumer("q") as consumer:
            (await next_of(consumer)).nack()
        handler = Handler(ALWAYS)
        async with processing(bench, handler, on_error=Retry(limit=1)):
            await anyio.sleep(10)
        assert (handler.runs, bench.queue) == ([b"poison"], (0, 0))


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3", None])
def test_a_retry_limit_is_a_whole_number(limit: int) -> None:
    with pytest.raises(InvalidArgument, match=r"Retry\.limit"):
        Retry(limit=limit)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, True, "3", None])
def test_a_retry_delay_is_a_number_of_seconds(delay: float) -> None:
    with pytest.raises(InvalidArgument, match=r"Retry\.delay"):
        Retry(limit=1, delay=delay)


# --- a function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(
    ("decision", "runs", "settled"),
    [
        ("ack", 1, ["Basic.Ack"]),
        ("reject", 1, ["Basic.Reject"]),
        ("requeue", 3, ["Basic.Reject", "Basic.Reject", "Basic.Ack"]),
        (Retry(limit=1, delay=1), 2, ["Basic.Reject", "Basic.Reject"]),
    ],
    ids=str,
)
async def test_a_function_decides(decision: Decision, runs: int, settled: list[str], *, is_async: bool) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        handler = Handler({b"x": 2})
        told: list[tuple[bytes, Exception]] = []

        def decide(delivery: Delivery, error: Exception) -> Decision:
            told.append((delivery.body, error))
            return decision

        async def decide_later(delivery: Delivery, error: Exception) -> Decision:
            await anyio.sleep(0.01)
            return decide(delivery, error)

        async with processing(bench, handler, on_error=decide_later if is_async else decide):
            await anyio.sleep(10)
        assert len(handler.runs) == runs
        assert told == [(b"x", error) for error in handler.errors]
        assert bench.settled() == [*settled, "Basic.Cancel"]


async def test_a_function_may_settle_by_itself() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")

        def give_back(delivery: Delivery, _: Exception) -> None:
            delivery.requeue(failed=False, after=5)

        handler = Handler({b"x": 1})
        async with processing(bench, handler, on_error=give_back):
            await anyio.sleep(10)
        assert handler.pauses == [5]
        assert bench.settled() == ["Basic.Nack", "Basic.Ack", "Basic.Cancel"]


async def test_a_function_that_raises_is_logged_and_requeues(caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        fault = ZeroDivisionError("in on_error")

        def fail(_delivery: Delivery, _error: Exception) -> Decision:
            raise fault

        handler = Handler({b"x": 1})
        async with processing(bench, handler, on_error=fail):
            await anyio.sleep(10)
        assert len(handler.runs) == 2
        assert logged(caplog) == [*handler.errors, fault]


@pytest.mark.parametrize("wrong", [None, "drop", 3], ids=str)
async def test_a_function_that_decides_nothing_known_requeues(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")

        def decide(_delivery: Delivery, _error: Exception) -> Decision:
            return cast("Decision", wrong)

        handler = Handler({b"x": 1})
        async with processing(bench, handler, on_error=decide):
            await anyio.sleep(10)
        assert len(handler.runs) == 2
        assert [type(error) for error in logged(caplog)] == [LookupError, InvalidUse]
        assert f"returned {wrong!r}" in str(logged(caplog)[1])


async def test_a_cancelled_function_gives_back_without_a_failure() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")

        async def never(_delivery: Delivery, _error: Exception) -> Decision:
            await anyio.sleep_forever()
            return "ack"

        async with bench.connection.consumer("q", on_error=never) as consumer:
            with anyio.move_on_after(1):
                async with await next_of(consumer):
                    raise LookupError
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack"]


@pytest.mark.parametrize("wrong", ["raise", "ack", None, 3], ids=str)
async def test_an_unknown_policy_is_refused(wrong: OnError) -> None:
    async with a_bench() as bench:
        with pytest.raises(InvalidArgument, match=f"on_error: {wrong!r} is not"):
            bench.connection.consumer("q", on_error=wrong)
        if wrong is not None:
            async with bench.connection.consumer("q") as consumer:
                with pytest.raises(InvalidArgument, match="on_error"):
                    await consumer.process(handle, on_error=wrong)


# --- cancellations of somebody else's -------------------------------------------------------------------------------


@on_asyncio
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_foreign_cancellation_is_a_failure(concurrency: int, caplog: pytest.LogCaptureFixture) -> None:
    """Measured before: with two handlers at a time the processing ended silently after 4 of 20 messages."""
    async with a_bench() as bench:
        await bench.publish(*(b"%d" % n for n in range(20)))
        handled: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            with anyio.move_on_after(0):  # a cancellation of its own, over by the time of the foreign one
                await anyio.sleep_forever()
            if delivery.body in (b"2", b"3") and not delivery.redelivered:
                foreign = asyncio.get_running_loop().create_future()
                foreign.cancel()
                await foreign
            handled.append(delivery.body)

        async with processing(bench, handle, concurrency=concurrency):
            await eventually(lambda: len(handled) == 20)
        assert {*handled} == {b"%d" % n for n in range(20)}
        assert bench.queue == (0, 0)
        causes = [error.__cause__ for error in logged(caplog) if isinstance(error, InvalidUse)]
        assert [type(cause) for cause in causes] == [asyncio.CancelledError] * 2


@on_asyncio
async def test_foreign_cancellations_and_errors_in_a_group_are_a_failure() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        runs: list[bool] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            runs.append(delivery.redelivered)
            if len(runs) == 1:
                raise BaseExceptionGroup("of a handler's tasks", [asyncio.CancelledError(), LookupError()])

        async with processing(bench, handle):
            await eventually(lambda: runs == [False, True])


class Leave(BaseException):
    """Ends a program, as SystemExit does."""


@pytest.mark.parametrize("end", [Leave(), BaseExceptionGroup("", [Leave(), LookupError()])], ids=repr)
async def test_what_is_no_error_ends_process_as_itself(end: BaseException) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")

        async def handle(_: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            raise end

        async with bench.connection.consumer("q") as consumer:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - compared below
                await consumer.process(handle, concurrency=2)
        assert caught.value is end
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack"]


@on_asyncio
async def test_a_foreign_cancellation_in_a_block_is_a_failure() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        foreign = asyncio.get_running_loop().create_future()
        foreign.cancel()
        told: list[Exception] = []

        def note(_: Delivery, error: Exception) -> Decision:
            told.append(error)
            return "reject"

        async with bench.connection.consumer("q", on_error=note) as consumer:
            with pytest.raises(asyncio.CancelledError):
                async with await next_of(consumer):
                    await foreign
        assert [type(error) for error in told] == [InvalidUse]
        assert bench.queue == (0, 0)


@on_asyncio
async def test_a_native_cancellation_is_no_failure_and_goes_through() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            began = anyio.Event()

            async def handle_one() -> None:
                async with await next_of(consumer):
                    began.set()
                    await anyio.sleep_forever()

            task = asyncio.ensure_future(handle_one())
            await began.wait()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            (await next_of(consumer)).ack()
        assert bench.settled() == ["Basic.Nack", "Basic.Ack", "Basic.Cancel"]


@on_asyncio
async def test_a_foreign_cancellation_in_a_cancelled_scope_is_that_scopes() -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")

        async def handle(_: Delivery) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise asyncio.CancelledError

        async with bench.connection.consumer("q") as consumer:
            with anyio.move_on_after(0.05) as scope:
                await consumer.process(handle)
            assert scope.cancelled_caught
        assert bench.settled() == ["Basic.Cancel", "Basic.Nack"]


async def test_a_cancellation_that_another_task_caught_is_a_failure() -> None:
    """On trio nobody can make one, but whoever keeps one may raise it elsewhere."""
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    async with a_bench() as bench:
        await bench.publish(b"x")
        runs: list[bool] = []

        async def handle(delivery: Delivery) -> None:
            await anyio.lowlevel.checkpoint()
            runs.append(delivery.redelivered)
            if len(runs) == 1:
                raise kept[0]

        async with processing(bench, handle):
            await anyio.sleep(1)
        assert (runs, bench.queue) == ([False, True], (0, 0))


# --- handlers that are none -----------------------------------------------------------------------------------------


def plain(_: Delivery) -> None:
    raise AssertionError("ran")


class Plain:
    def method(self, _: Delivery) -> None:
        raise AssertionError("ran")

    async def __call__(self, _: Delivery) -> None:
        await anyio.lowlevel.checkpoint()


async def generator(_: Delivery) -> AsyncGenerator[None, None]:
    yield


@pytest.mark.parametrize(
    "handler",
    [plain, partial(plain), Plain().method, generator, print, None],
    ids=["function", "partial", "method", "generator", "builtin", "none"],
)
async def test_a_handler_that_is_not_async_is_refused_before_it_runs(
    handler: Callable[[Delivery], Awaitable[object]],
) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with bench.connection.consumer("q") as consumer:
            with pytest.raises(InvalidArgument, match="handler"):
                await consumer.process(handler)
            assert consumer.is_consuming


def returns_awaitable(delivery: Delivery) -> Awaitable[None]:
    return handle(delivery)


returns_awaitable.__name__ = "<lambda>"


@pytest.mark.parametrize(
    "handler", [handle, partial(handle), Plain(), returns_awaitable], ids=["function", "partial", "object", "lambda"]
)
async def test_every_kind_of_async_handler_is_taken(handler: Callable[[Delivery], Awaitable[object]]) -> None:
    async with a_bench() as bench:
        await bench.publish(b"x")
        async with processing(bench, handler):
            await eventually(lambda: bench.queue == (0, 0))
