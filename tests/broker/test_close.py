"""Every way to leave a connection, against RabbitMQ: afterwards nothing is left, here or at the broker (invariant 7).

"Nothing" is: no task, timer, socket or thread here, no connection at the broker, no word in its log of a client that
went without a goodbye.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    Channel,
    ChannelClosed,
    Connection,
    ConnectionClosed,
    Consumer,
    Message,
    Publisher,
    ReadyTimeout,
    Settings,
    State,
)
from anyamqp.testing import FaultProxy
from support.leftovers import belongings
from support.nodelog import log_mark
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0


class Mine(Exception):
    """What the user's own code raises."""


@asynccontextmanager
async def nothing_left(node: Node) -> AsyncGenerator[None, None]:
    """What is opened within is gone afterwards: here at once, at the broker as soon as it has noticed."""
    with anyio.fail_after(LIMIT):
        start = await log_mark(node)
        before = belongings()
        yield
        assert belongings().added_since(before) == {}
        connections = None
        with anyio.move_on_after(20):
            while connections != []:
                connections = await anyio.to_thread.run_sync(node.connections)
        assert connections == []
        end = await log_mark(node)
        assert "client unexpectedly closed" not in node.log_text()[start:end]


@asynccontextmanager
async def in_use(connection: Connection) -> AsyncGenerator[Consumer, None]:
    """A channel, a publisher and a consumer with a delivery that is not settled yet, all open."""
    async with (
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        queue = await channel.declare_queue(durable=False, exclusive=True)
        async with connection.consumer(queue) as consumer:
            for body in (b"held", b"not read"):
                await publisher.publish(Message(body), routing_key=queue.name)
            assert (await anext(consumer)).body == b"held"
            yield consumer


def through(proxy: FaultProxy, *, close_timeout: float = 5.0) -> Settings:
    settings = Settings.from_urls(f"amqp://guest:guest@{proxy.host}:{proxy.port}/")
    return replace(settings, close_timeout=close_timeout)


async def test_block_that_ends_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        async with anyamqp.connect(shared_node.url) as connection, in_use(connection):
            assert connection.stats.open_channels == 3
        assert connection.state is State.CLOSED
        assert connection.stats.open_channels == 0


async def test_what_the_block_raises_leaves_it_as_itself(shared_node: Node) -> None:
    mine = Mine()
    async with nothing_left(shared_node):
        connection = anyamqp.connect(shared_node.url)
        with pytest.raises(Mine) as raised:
            async with connection, in_use(connection):
                raise mine
        assert raised.value is mine
        assert connection.state is State.CLOSED


async def test_cancelled_block_closes_with_the_handshake(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        connection = anyamqp.connect(shared_node.url)
        with anyio.CancelScope() as scope:
            async with connection, in_use(connection) as consumer:
                await anext(consumer)
                scope.cancel()
                await anext(consumer)
        assert scope.cancelled_caught
        assert connection.state is State.CLOSED


async def test_cancelled_task_group_around_connections_closes_each_with_the_handshake(shared_node: Node) -> None:
    waiting: list[Connection] = []

    async def client() -> None:
        async with anyamqp.connect(shared_node.url) as connection, in_use(connection):
            waiting.append(connection)
            await anyio.sleep_forever()

    async with nothing_left(shared_node):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client)
            await eventually(lambda: len(waiting) == 5, within=20)
            tasks.cancel_scope.cancel()
        assert {connection.state for connection in waiting} == {State.CLOSED}


class Service:
    """A class with start and stop methods, as README and design have it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = AsyncExitStack()

    async def start(self) -> tuple[Connection, Channel, Publisher, Consumer]:
        connection = await self._stack.enter_async_context(anyamqp.connect(self._url))
        channel = await self._stack.enter_async_context(connection.channel())
        queue = await channel.declare_queue(durable=False, exclusive=True)
        publisher = await self._stack.enter_async_context(connection.publisher())
        consumer = await self._stack.enter_async_context(connection.consumer(queue))
        return connection, channel, publisher, consumer

    async def stop(self) -> None:
        await self._stack.aclose()


async def test_exit_stack_closes_all_that_was_entered(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        service = Service(shared_node.url)
        connection, channel, publisher, consumer = await service.start()
        await publisher.submit(Message(b"on its way"), routing_key=consumer.queue)
        await service.stop()
        assert publisher.unconfirmed == 0
        assert (connection.state, channel.state) == (State.CLOSED, State.CLOSED)
        # Each says what ended it: the publisher its own block, the connection its own.
        with pytest.raises(ChannelClosed):
            await publisher.publish(Message(b"late"))
        with pytest.raises(ConnectionClosed):
            await connection.wait_ready()


async def test_exit_stack_unwinds_when_the_block_raises(shared_node: Node) -> None:
    mine = Mine()
    async with nothing_left(shared_node):
        stack = AsyncExitStack()
        with pytest.raises(Mine) as raised:  # noqa: PT012 - it is the stack that must let it through
            async with stack:
                connection = await stack.enter_async_context(anyamqp.connect(shared_node.url))
                await stack.enter_async_context(in_use(connection))
                raise mine
        assert raised.value is mine


async def test_several_tasks_may_close_at_once(shared_node: Node) -> None:
    async with nothing_left(shared_node), anyamqp.connect(shared_node.url) as connection:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(connection.close)
            tasks.start_soon(connection.wait_closed)
        with pytest.raises(ConnectionClosed):
            await connection.wait_ready()
        await connection.close()


async def reconnecting(node: Node, proxy: FaultProxy, connection: Connection) -> None:
    """Have the broker close the connection, in order, and the proxy not let it come back."""
    proxy.refuse()
    await anyio.to_thread.run_sync(node.close_all_connections)
    await eventually(lambda: connection.state is State.RECONNECTING and connection.stats.dials >= 3)


async def test_block_that_ends_while_reconnecting_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            async with anyamqp.connect(through(proxy)) as connection:
                await reconnecting(shared_node, proxy, connection)
                left_at = anyio.current_time()
            # There is nobody to shake hands with, and no reason to wait for the next attempt.
            assert anyio.current_time() - left_at < 3
            assert connection.state is State.CLOSED


async def test_cancellation_while_reconnecting_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            connection = anyamqp.connect(through(proxy))
            with anyio.CancelScope() as scope:
                async with connection, in_use(connection):
                    await reconnecting(shared_node, proxy, connection)
                    scope.cancel()
                    await connection.wait_ready()
            assert scope.cancelled_caught
        assert connection.state is State.CLOSED


async def test_close_while_reconnecting_ends_all_that_waits(shared_node: Node) -> None:
    ended: set[str] = set()

    async def ends(what: str, work: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ConnectionClosed):
            await work()
        ended.add(what)

    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            async with (
                anyamqp.connect(through(proxy)) as connection,
                connection.channel() as channel,
                connection.publisher() as publisher,
            ):
                queue = await channel.declare_queue(durable=False, exclusive=True)
                async with connection.consumer(queue) as consumer, anyio.create_task_group() as tasks:
                    await reconnecting(shared_node, proxy, connection)
                    publish = partial(publisher.publish, Message(b"waits"), routing_key="nowhere")
                    tasks.start_soon(ends, "publish", publish)
                    tasks.start_soon(ends, "declare", channel.declare_queue)
                    tasks.start_soon(ends, "iteration", consumer.__anext__)
                    tasks.start_soon(ends, "wait_ready", connection.wait_ready)
                    await eventually(lambda: connection.stats.unconfirmed == 1)
                    await connection.close()
        assert ended == {"publish", "declare", "iteration", "wait_ready"}


async def test_close_while_the_first_handshake_is_pending_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            proxy.mute()
            async with anyamqp.connect(through(proxy), ready_timeout=0) as connection:
                await eventually(lambda: proxy.live_connections == 1)
                left_at = anyio.current_time()
            # No byte of the handshake has come, so there is nobody to say goodbye to.
            assert anyio.current_time() - left_at < 1
            assert connection.state is State.CLOSED
            await eventually(lambda: proxy.live_connections == 0)


async def test_connecting_that_meets_silence_times_out_and_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            proxy.mute()
            with pytest.raises(ReadyTimeout):
                async with anyamqp.connect(through(proxy), ready_timeout=0.3):
                    pytest.fail("entered without a broker")
            await eventually(lambda: proxy.live_connections == 0)


async def test_connecting_that_is_cancelled_during_the_handshake_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            proxy.mute()
            with anyio.move_on_after(0.3) as scope:
                async with anyamqp.connect(through(proxy)):
                    pytest.fail("entered without a broker")
            assert scope.cancelled_caught
            await eventually(lambda: proxy.live_connections == 0)


async def test_close_while_the_handshake_of_a_reconnect_is_pending_leaves_nothing(shared_node: Node) -> None:
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            async with anyamqp.connect(through(proxy)) as connection, in_use(connection):
                proxy.mute()
                await anyio.to_thread.run_sync(shared_node.close_all_connections)
                await eventually(lambda: connection.state is State.RECONNECTING and proxy.live_connections == 1)
            assert connection.state is State.CLOSED
            await eventually(lambda: proxy.live_connections == 0)


async def test_close_during_a_slow_handshake_finishes_it_and_says_goodbye(shared_node: Node) -> None:
    """RabbitMQ takes no close during the handshake: leaving at once would be the complaint in its log."""
    async with nothing_left(shared_node):
        with FaultProxy(shared_node.host, shared_node.port) as proxy:
            proxy.delay(0.05)
            async with anyamqp.connect(through(proxy), ready_timeout=0) as connection:
                await eventually(lambda: connection.stats.frames_received == 1)
            assert connection.state is State.CLOSED
            assert connection.stats.last_error is None
            # open-ok came, and then the goodbye: start, tune, open-ok, close-ok.
            assert connection.stats.frames_received == 4


async def test_close_on_a_dead_link_takes_no_longer_than_the_close_timeout(shared_node: Node) -> None:
    """The broker cannot know of it here, so this one looks at our side only."""
    before = belongings()
    with anyio.fail_after(LIMIT), FaultProxy(shared_node.host, shared_node.port) as proxy:
        async with anyamqp.connect(through(proxy, close_timeout=0.3)) as connection:
            proxy.strand()
            left_at = anyio.current_time()
        assert 0.2 < anyio.current_time() - left_at < 3
        assert connection.state is State.CLOSED
    assert belongings().added_since(before) == {}


# --- a broker that does not answer (SIGSTOP) ------------------------------------------------------------------------

CLOSE_TIMEOUT = 2.0


@pytest.fixture(scope="module")
def freezable_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node that a test may freeze, and must thaw."""
    with closing(Node(tmp_path_factory.mktemp("freezable-node"), name="freezable")) as node:
        node.start()
        yield node


@contextmanager
def frozen(node: Node) -> Generator[None, None, None]:
    node.freeze()
    try:
        yield
    finally:
        node.thaw()


async def enter_all(stack: AsyncExitStack, connection: Connection) -> None:
    """Enter one of everything that has a block of its own."""
    channel = await stack.enter_async_context(connection.channel())
    queue = await channel.declare_queue(durable=False, exclusive=True)
    await stack.enter_async_context(channel.transaction())
    await stack.enter_async_context(connection.publisher())
    await stack.enter_async_context(connection.consumer(queue))
    await stack.enter_async_context(connection.rpc_client())
    pool = await stack.enter_async_context(connection.channel_pool(2))
    async with pool.channel():
        pass


async def test_error_leaves_everything_on_a_frozen_broker_after_one_close_timeout(freezable_node: Node) -> None:
    mine = Mine()
    settings = replace(Settings.from_urls(freezable_node.url), close_timeout=CLOSE_TIMEOUT)
    left_at = 0.0
    with ExitStack() as thawed:
        with pytest.raises(Mine) as raised:  # noqa: PT012 - it is the blocks that must let it through
            async with anyamqp.connect(settings) as connection, AsyncExitStack() as stack:
                await enter_all(stack, connection)
                thawed.enter_context(frozen(freezable_node))
                left_at = anyio.current_time()
                raise mine
        assert raised.value is mine
        assert CLOSE_TIMEOUT <= anyio.current_time() - left_at < 2 * CLOSE_TIMEOUT


async def leave_rpc_client(connection: Connection, freeze: Callable[[], object]) -> None:
    async with connection.rpc_client():
        freeze()
        raise Mine


async def leave_transaction(connection: Connection, freeze: Callable[[], object]) -> None:
    async with connection.channel() as channel, channel.transaction():
        freeze()
        raise Mine


@pytest.mark.parametrize("leave", [leave_rpc_client, leave_transaction])
async def test_each_kind_of_block_on_a_frozen_broker_takes_one_close_timeout(
    freezable_node: Node, leave: Callable[[Connection, Callable[[], object]], Awaitable[None]]
) -> None:
    """Those that the embedded broker does not serve; for the others see the simulation."""
    settings = replace(Settings.from_urls(freezable_node.url), close_timeout=CLOSE_TIMEOUT)
    with ExitStack() as thawed:
        began = anyio.current_time()
        with pytest.raises(Mine):
            async with anyamqp.connect(settings) as connection:
                await leave(connection, partial(thawed.enter_context, frozen(freezable_node)))
        assert CLOSE_TIMEOUT <= anyio.current_time() - began < 2 * CLOSE_TIMEOUT


async def test_ready_timeout_on_a_frozen_broker_is_kept_and_names_the_frame(freezable_node: Node) -> None:
    before = belongings()
    began = anyio.current_time()
    with frozen(freezable_node), pytest.raises(ReadyTimeout, match=r"waiting for connection\.start from 127\.0\.0\.1:"):
        async with anyamqp.connect(freezable_node.url, ready_timeout=1):
            pytest.fail("entered without a broker")
    assert anyio.current_time() - began < 2
    assert belongings().added_since(before) == {}


class Program:
    """:mod:`support.interrupted` in a process of its own."""

    def __init__(self, node: Node, backend: str, what: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            [sys.executable, "-m", "support.interrupted", node.url, backend, what],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[float, str]:
        """Wait for its end. Returns how long that took in seconds, and what it wrote to stderr."""
        began = time.monotonic()
        errors = self._process.communicate(timeout=LIMIT)[1]
        return time.monotonic() - began, errors


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupt_of_a_busy_program_is_a_keyboard_interrupt(freezable_node: Node, backend: str) -> None:
    """On trio the signal is raised in the task that runs, which is mostly one of the connection's."""
    for _ in range(3):
        with Program(freezable_node, backend, "busy") as program:
            program.wait_ready()
            time.sleep(0.2)  # a moment into its work, whatever that is
            program.interrupt()
            _, errors = program.ended()
        assert errors.endswith("KeyboardInterrupt\n")
        assert "ExceptionGroup" not in errors


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupt_on_a_frozen_broker_takes_one_close_timeout(freezable_node: Node, backend: str) -> None:
    with Program(freezable_node, backend, "nested") as program:
        program.wait_ready()
        with frozen(freezable_node):
            program.interrupt()
            seconds, errors = program.ended()
    assert seconds < 2 * CLOSE_TIMEOUT
    assert errors.endswith("KeyboardInterrupt\n")
    assert "ExceptionGroup" not in errors


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupt_of_an_unanswered_handshake_ends_the_program_at_once(freezable_node: Node, backend: str) -> None:
    with frozen(freezable_node), Program(freezable_node, backend, "connecting") as program:
        program.wait_ready()
        time.sleep(0.5)
        program.interrupt()
        seconds, errors = program.ended()
    assert seconds < CLOSE_TIMEOUT
    assert errors.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_second_interrupt_ends_a_program_that_is_still_closing(freezable_node: Node, backend: str) -> None:
    with Program(freezable_node, backend, "patient") as program:
        program.wait_ready()
        with frozen(freezable_node):
            program.interrupt()
            time.sleep(0.5)
            program.interrupt()
            seconds, errors = program.ended()
    assert seconds < 5
    assert "KeyboardInterrupt" in errors
