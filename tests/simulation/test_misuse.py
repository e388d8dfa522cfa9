"""Misuse of open objects raises a clear error and sends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import Connection, Consumer, Delivery, InvalidArgument, InvalidUse, Message
from anyamqp.testing import Broker

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
NAIVE = datetime(2026, 11, 24, 12)  # noqa: DTZ001 - without a time zone on purpose
NAN = float("nan")


WRONG: list[tuple[Callable[[Any], Awaitable[object]], str]] = [
    (lambda channel: channel.declare_queue(5), "queue: int instead of text"),
    (lambda channel: channel.declare_queue("q", durable="yes"), "durable: 'yes' is neither True nor False"),
    (lambda channel: channel.declare_queue("q", exclusive=1), "exclusive: 1 is neither True nor False"),
    (lambda channel: channel.declare_queue("q", passive=None), "passive: None is neither True nor False"),
    (lambda channel: channel.declare_queue("q", arguments=["x"]), "arguments: list instead of a table"),
    (lambda channel: channel.declare_queue("q", arguments={"x": NAIVE}), "arguments.x: .* has no time zone"),
    (lambda channel: channel.declare_exchange("x", None), "type: NoneType instead of text"),
    (lambda channel: channel.declare_exchange("x", internal="no"), "internal: 'no' is neither"),
    (lambda channel: channel.declare_exchange("x", alternate_exchange=5), "alternate_exchange: int instead of"),
    (lambda channel: channel.declare_exchange("x", arguments=5), "arguments: int instead of a table"),
    (lambda channel: channel.bind_queue(None, "x"), "queue: NoneType instead of a Queue or its name"),
    (lambda channel: channel.bind_queue(["q"], "x"), "queue: list instead of a Queue or its name"),
    (lambda channel: channel.bind_queue("q", 5), "exchange: int instead of text"),
    (lambda channel: channel.bind_queue("q", "x", None), "routing_key: NoneType instead of text"),
    (lambda channel: channel.bind_exchange("x", None), "source: NoneType instead of text"),
    (lambda channel: channel.delete_queue("q", if_empty=1), "if_empty: 1 is neither True nor False"),
    (lambda channel: channel.set_qos("10"), "prefetch: '10' is not a whole number from 0 to 65535"),
    (lambda channel: channel.set_qos(True), "prefetch: True is not a whole number"),
    (lambda channel: channel.set_qos(65536), "prefetch: 65536 is not a whole number"),
    (lambda channel: channel.get("q", no_ack=1), "no_ack: 1 is neither True nor False"),
]


@pytest.mark.parametrize(("call", "said"), WRONG)
async def test_wrong_value_costs_a_channel_nothing(call: Callable[[Any], Awaitable[object]], said: str) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel() as channel,
    ):
        before = connection.stats.frames_sent
        with pytest.raises(InvalidArgument, match=said):
            await call(channel)
        assert connection.stats.frames_sent == before
        await channel.declare_queue("q")


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"timestamp": NAIVE}, "timestamp: 2026-11-24 12:00:00 has no time zone"),
        ({"timestamp": 1764000000}, "timestamp: int instead of datetime"),
        ({"headers": {"at": NAIVE}}, r"headers\.at: .* has no time zone"),
        ({"headers": {"at": [NAIVE]}}, r"headers\.at\[0\]: .* has no time zone"),
        ({"headers": ["x"]}, "headers: list instead of a table"),
        ({"priority": True}, "priority: bool instead of a whole number"),
        ({"priority": "5"}, "priority: str instead of a whole number"),
        ({"priority": 256}, "priority: 256 is not between 0 and 255"),
        ({"persistent": 2}, "persistent: 2 is neither True nor False"),
        ({"persistent": 0}, "persistent: 0 is neither True nor False"),
        ({"persistent": "no"}, "persistent: 'no' is neither True nor False"),
        ({"expiration": "60000"}, "expiration: '60000' is not a number of seconds"),
        ({"expiration": True}, "expiration: True is not a number of seconds"),
        ({"expiration": NAN}, "expiration: nan is not a number of seconds"),
        ({"expiration": -1}, "expiration: -1 is not a number of seconds"),
        ({"message_id": 5}, "message_id: int instead of text"),
        ({"reply_to": None, "content_type": b"text/plain"}, "content_type: bytes instead of text"),
    ],
)
async def test_wrong_property_is_refused_and_nothing_sent(properties: dict[str, Any], said: str) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        before = connection.stats.frames_sent
        with pytest.raises(InvalidArgument, match=said):
            await publisher.publish(Message(b"x", **properties), routing_key="q")
        assert connection.stats.frames_sent == before
        assert publisher.unconfirmed == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"routing_key": None}, "routing_key: NoneType instead of text"),
        ({"routing_key": 5}, "routing_key: int instead of text"),
        ({"exchange": 5}, "exchange: int instead of text"),
        ({"mandatory": "yes"}, "mandatory: 'yes' is neither True nor False"),
        ({"timeout": "5"}, "timeout: '5' is not a number of seconds"),
        ({"timeout": -1}, "timeout: -1 is not a number of seconds"),
        ({"timeout": NAN}, "timeout: nan is not a number of seconds"),
        ({"timeout": True}, "timeout: True is not a number of seconds"),
    ],
)
async def test_wrong_argument_of_publish_is_refused_and_nothing_sent(arguments: dict[str, Any], said: str) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        before = connection.stats.frames_sent
        with pytest.raises(InvalidArgument, match=said):
            await publisher.publish(Message(b"x"), **arguments)
        assert connection.stats.frames_sent == before


@pytest.mark.parametrize("timeout", ["5", -1, NAN, True])
async def test_wrong_timeout_of_a_wait_is_refused(timeout: Any) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.channel_pool(1) as pool,
    ):
        for wait in (connection.wait_ready, connection.wait_unblocked):
            with pytest.raises(InvalidArgument, match=r"^timeout: "):
                await wait(timeout)
        with pytest.raises(InvalidArgument, match=r"^timeout: "):
            async with pool.channel(timeout):
                pass


# --- another event loop, another thread -----------------------------------------------------------------------------

Use = Callable[["Everything"], Awaitable[object]]


class Everything:
    """One of each, open on the loop that the test runs on."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.publisher = connection.publisher()
        self.consumer = connection.consumer("q")
        self.pool = connection.channel_pool(1)
        self.transitions = connection.transitions()


@asynccontextmanager
async def everything() -> AsyncGenerator[Everything, None]:
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        one = Everything(connection)
        async with one.channel, one.publisher, one.pool:
            await one.channel.declare_queue("q")
            async with one.consumer:
                yield one


async def handle(delivery: Delivery) -> None:
    pytest.fail(f"{delivery} was handled elsewhere")


async def iterate(consumer: Consumer) -> None:
    async for delivery in consumer:
        pytest.fail(f"{delivery} was handed out elsewhere")


async def enter(block: AbstractAsyncContextManager[object]) -> None:
    async with block:
        pass


ELSEWHERE: dict[str, Use] = {
    "publish": lambda one: one.publisher.publish(Message(b"x"), routing_key="q"),
    "submit": lambda one: one.publisher.submit(Message(b"x"), routing_key="q"),
    "channel.publish": lambda one: one.channel.publish(Message(b"x"), routing_key="q"),
    "declare": lambda one: one.channel.declare_queue("other"),
    "get": lambda one: one.channel.get("q"),
    "close": lambda one: one.channel.close(),
    "anext": lambda one: one.consumer.__anext__(),
    "async for": lambda one: iterate(one.consumer),
    "process": lambda one: one.consumer.process(handle),
    "flush": lambda one: one.publisher.flush(),
    "channel_pool()": lambda one: enter(one.connection.channel_pool(1)),
    "stop": lambda one: one.consumer.stop(),
    "channel()": lambda one: enter(one.connection.channel()),
    "publisher()": lambda one: enter(one.connection.publisher()),
    "consumer()": lambda one: enter(one.connection.consumer("q")),
    "rpc_client()": lambda one: enter(one.connection.rpc_client()),
    "pool.channel()": lambda one: enter(one.pool.channel()),
    "wait_ready": lambda one: one.connection.wait_ready(1),
    "wait_closed": lambda one: one.connection.wait_closed(),
    "update_secret": lambda one: one.connection.update_secret("x"),
    "connection.close": lambda one: one.connection.close(),
    "transition": lambda one: anext(one.transitions),
    "transitions()": lambda one: anext(one.connection.transitions()),
}


@pytest.mark.parametrize("use", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_use_in_another_thread_is_refused_and_sends_nothing(use: Use, anyio_backend_name: str) -> None:
    async with everything() as one:

        async def elsewhere() -> None:
            with anyio.fail_after(5), pytest.raises(InvalidUse, match="event loop"):
                await use(one)

        before = one.connection.stats.frames_sent
        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=anyio_backend_name))
        await anyio.wait_all_tasks_blocked()
        assert one.connection.stats.frames_sent == before
        assert (await one.publisher.publish(Message(b"here"), routing_key="q")).attempts == 1
        assert (await anext(one.consumer)).body == b"here"


@pytest.mark.parametrize("use", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_use_in_a_second_loop_of_the_thread_is_refused(use: Use) -> None:
    """As a program does that calls run_until_complete on two loops in turn. Trio has no such thing."""
    await anyio.to_thread.run_sync(in_two_loops, use)


def in_two_loops(use: Use) -> None:
    opened: asyncio.Future[Everything]
    leave = asyncio.Event()

    async def live() -> None:
        async with everything() as one:
            opened.set_result(one)
            await leave.wait()
            with anyio.fail_after(5):
                await one.publisher.publish(Message(b"here"), routing_key="q")
                assert (await anext(one.consumer)).body == b"here"

    async def elsewhere(one: Everything) -> None:
        with anyio.fail_after(5), pytest.raises(InvalidUse, match="event loop"):
            await use(one)

    with contextlib.closing(asyncio.new_event_loop()) as first, contextlib.closing(asyncio.new_event_loop()) as second:
        opened = first.create_future()
        living = first.create_task(live())
        one = first.run_until_complete(opened)
        before = one.connection.stats.frames_sent
        second.run_until_complete(elsewhere(one))
        assert one.connection.stats.frames_sent == before
        leave.set()
        first.run_until_complete(living)


async def test_transitions_awaited_elsewhere_before_entering_harm_nobody(anyio_backend_name: str) -> None:
    waits, leave = threading.Event(), threading.Event()

    async def read() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, stream)
            await anyio.wait_all_tasks_blocked()
            waits.set()
            await anyio.to_thread.run_sync(leave.wait)
            tasks.cancel_scope.cancel()

    async def read_elsewhere() -> None:
        await anyio.to_thread.run_sync(partial(anyio.run, read, backend=anyio_backend_name))

    async with Broker() as broker, anyio.create_task_group() as tasks:
        connection = anyamqp.connect(URL, dial=broker.dial)
        stream = connection.transitions()
        tasks.start_soon(read_elsewhere)
        try:
            await anyio.to_thread.run_sync(waits.wait)
            async with connection, connection.channel() as channel:
                assert (await channel.declare_queue("q")).name == "q"
                assert connection.stats.link_number == 1
        finally:
            leave.set()


@pytest.mark.parametrize("settle", ["ack", "nack", "reject"])
async def test_delivery_that_is_settled_in_a_thread_is_refused_and_stays_open(settle: str) -> None:
    async with everything() as one:
        await one.publisher.publish(Message(b"x"), routing_key="q")
        delivery = await anext(one.consumer)
        before = one.connection.stats.frames_sent
        with pytest.raises(InvalidUse, match="thread"):
            await anyio.to_thread.run_sync(getattr(delivery, settle))
        await anyio.wait_all_tasks_blocked()
        assert one.connection.stats.frames_sent == before
        assert not delivery.is_settled
        delivery.ack()


async def test_outcome_that_is_awaited_in_another_thread_is_refused(anyio_backend_name: str) -> None:
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial) as connection,
        connection.publisher() as publisher,
    ):
        broker.freeze()
        publication = await publisher.submit(Message(b"x"), routing_key="q", mandatory=False)

        async def elsewhere() -> None:
            with anyio.fail_after(5):
                for wait in (publication.wait, publisher.flush):
                    with pytest.raises(InvalidUse, match="event loop"):
                        await wait()

        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=anyio_backend_name))
        broker.thaw()
        assert (await publication).attempts == 1


async def test_delivery_that_waits_is_not_handed_out_in_another_thread(anyio_backend_name: str) -> None:
    async with everything() as one:
        await one.publisher.publish(Message(b"x"), routing_key="q")
        await anyio.wait_all_tasks_blocked()

        async def elsewhere() -> None:
            with anyio.fail_after(5), pytest.raises(InvalidUse, match="event loop"):
                await iterate(one.consumer)

        await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=anyio_backend_name))
        assert (await anext(one.consumer)).body == b"x"


# --- handlers that cannot work ----------------------------------------------------------------------------------------


class Sync:
    """A handler with a plain ``__call__``."""

    def __call__(self, delivery: Delivery) -> None:
        pytest.fail(f"{delivery} was lost to it")


async def takes_none() -> None:
    pytest.fail("it was called")


async def takes_two(delivery: Delivery, channel: object) -> None:
    pytest.fail(f"{delivery} came with {channel}")


BEFORE_IT_RUNS: dict[str, tuple[Any, str]] = {
    "plain __call__": (Sync(), "handler: Sync is not an async function; define it with 'async def'"),
    "partial of it": (partial(Sync()), "handler: Sync is not an async function"),
    "no argument": (takes_none, r"handler: takes_none\(\).* does not take one argument by position, the delivery"),
    "two arguments": (takes_two, r"handler: takes_two\(.* does not take one argument"),
    "lambda of none": (lambda: None, "does not take one argument"),
}


@pytest.mark.parametrize(("handler", "said"), BEFORE_IT_RUNS.values(), ids=BEFORE_IT_RUNS)
async def test_handler_that_cannot_work_is_refused_before_it_runs(handler: Any, said: str) -> None:
    async with everything() as one:
        await one.publisher.publish(Message(b"x"), routing_key="q")
        with anyio.fail_after(5):
            with pytest.raises(InvalidArgument, match=said):
                await one.consumer.process(handler)
            with pytest.raises(InvalidArgument, match=said):
                await anyamqp.serve_rpc(one.consumer, one.publisher, handler)


ONCE_IT_RAN: dict[str, Callable[[Delivery], object]] = {"lambda": lambda _: None, "class": Exception}


@pytest.mark.parametrize("handler", ONCE_IT_RAN.values(), ids=ONCE_IT_RAN)
@pytest.mark.parametrize("serving", [False, True], ids=["process", "serve_rpc"])
async def test_handler_that_returns_nothing_to_await_ends_the_processing(handler: Any, serving: bool) -> None:
    failed: list[Exception] = []

    async def on_error(_: Delivery, error: Exception) -> anyamqp.Decision:
        failed.append(error)
        return "reject"

    async with everything() as one:
        await one.publisher.publish(Message(b"x", reply_to="q"), routing_key="q")
        process = partial(anyamqp.serve_rpc, one.consumer, one.publisher) if serving else one.consumer.process
        with anyio.fail_after(5), pytest.raises(InvalidArgument, match=r"is not an async function.*; it returned"):
            await process(handler, on_error=on_error)
        delivery = await one.channel.get("q")
        assert delivery is not None
        assert (delivery.body, delivery.redelivered, failed) == (b"x", True, [])


async def test_lambda_that_returns_what_an_async_function_returns_is_a_handler() -> None:
    async with everything() as one:
        handled: list[bytes] = []

        async def handle_and_stop(delivery: Delivery, into: list[bytes]) -> None:
            into.append(delivery.body)
            await one.consumer.stop()

        await one.publisher.publish(Message(b"x"), routing_key="q")
        with anyio.fail_after(5):
            await one.consumer.process(lambda delivery: handle_and_stop(delivery, handled))
        assert handled == [b"x"]


async def test_serve_rpc_with_its_arguments_swapped_names_the_argument() -> None:
    serve: Any = anyamqp.serve_rpc
    async with everything() as one:
        with pytest.raises(InvalidArgument, match=r"^consumer: .* is no Consumer, such as connection.consumer"):
            await serve(one.publisher, one.consumer, handle)
