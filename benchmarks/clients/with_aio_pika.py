"""aio-pika as its users have it: a robust connection, a task for each publish, a callback for each delivery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractRobustConnection

from benchmarks.cases import LARGE_WINDOW, PREFETCH, TASKS, WINDOW
from benchmarks.pacing import age, stamped, waits
from benchmarks.task import Samples, Stopwatch, Task

Connection: TypeAlias = AbstractRobustConnection

_REPLY_TO = "amq.rabbitmq.reply-to"
_LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    with asyncio.Runner(loop_factory=_LOOPS[task.loop]) as runner:
        return runner.run(_run(task, watch))


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    with asyncio.Runner(loop_factory=_LOOPS[task.loop]) as runner:
        runner.run(_serve(task))


async def _run(task: Task, watch: Stopwatch) -> Samples:
    async with await aio_pika.connect_robust(task.url) as connection:
        return await _RUNS[task.case](connection, task, watch)


async def _serve(task: Task) -> None:
    body = bytes(task.size)
    async with await aio_pika.connect_robust(task.url) as connection:
        channel = await connection.channel(publisher_confirms=False)

        async def answer(request: AbstractIncomingMessage) -> None:
            reply = _message(body, correlation_id=request.correlation_id)
            await channel.default_exchange.publish(reply, request.reply_to or "", mandatory=False)

        queue = await channel.declare_queue(task.queue, passive=True)
        await queue.consume(answer, no_ack=True)
        await asyncio.Future()


def _message(body: bytes, *, correlation_id: str | None = None, reply_to: str | None = None) -> aio_pika.Message:
    return aio_pika.Message(
        body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, correlation_id=correlation_id, reply_to=reply_to
    )


# --- publishing -----------------------------------------------------------------------------------------------------


async def _publish(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    body = bytes(task.size)
    channel = await connection.channel(publisher_confirms=False)
    exchange = channel.default_exchange

    async def go(queue: str, count: int) -> None:
        for _ in range(count):
            await exchange.publish(_message(body), queue, mandatory=False)
        await channel.declare_queue(queue, passive=True)

    await go(task.warm_queue, task.warmup)
    with watch:
        await go(task.queue, task.messages)
    return {}


async def _confirms(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    channel = await connection.channel()
    await _in_window(channel, task.warm_queue, task.warmup, task.size, WINDOW)
    with watch:
        await _in_window(channel, task.queue, task.messages, task.size, WINDOW)
    return {}


async def _in_window(channel: AbstractChannel, queue: str, count: int, size: int, window: int) -> None:
    body = bytes(size)
    room = asyncio.Semaphore(window)

    async def publish() -> None:
        try:
            await channel.default_exchange.publish(_message(body), queue)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            await room.acquire()
            group.create_task(publish())


async def _tasks(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    channel = await connection.channel()

    async def go(queue: str, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                share = count // TASKS + (number < count % TASKS)
                group.create_task(_one_by_one(channel, queue, share, task.size))

    await go(task.warm_queue, task.warmup)
    with watch:
        await go(task.queue, task.messages)
    return {}


async def _serial(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    channel = await connection.channel()
    await _one_by_one(channel, task.warm_queue, task.warmup, task.size)
    with watch:
        await _one_by_one(channel, task.queue, task.messages, task.size)
    return {}


async def _one_by_one(channel: AbstractChannel, queue: str, count: int, size: int) -> None:
    body = bytes(size)
    for _ in range(count):
        await channel.default_exchange.publish(_message(body), queue)


# --- consuming ------------------------------------------------------------------------------------------------------


async def _take(connection: Connection, queue: str, count: int, prefetch: int) -> None:
    """Without a prefetch, without acks."""
    taken = 0
    done = asyncio.Event()

    async def on_message(message: AbstractIncomingMessage) -> None:
        nonlocal taken
        if prefetch:
            await message.ack()
        taken += 1
        if taken == count:
            done.set()

    channel = await connection.channel()
    if prefetch:
        await channel.set_qos(prefetch)
    declared = await channel.declare_queue(queue, passive=True)
    tag = await declared.consume(on_message, no_ack=not prefetch)
    await done.wait()
    await declared.cancel(tag)


def _consumed(*, prefetch: int) -> Callable[[Connection, Task, Stopwatch], Awaitable[Samples]]:
    async def run_consumer(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
        await _take(connection, task.warm_queue, task.warmup, prefetch)
        with watch:
            await _take(connection, task.queue, task.messages, prefetch)
        return {}

    return run_consumer


async def _large(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    async def go(queue: str, count: int) -> None:
        channel = await connection.channel()
        await _in_window(channel, queue, count, task.size, LARGE_WINDOW)
        await _take(connection, queue, count, LARGE_WINDOW)

    await go(task.warm_queue, task.warmup)
    with watch:
        await go(task.queue, task.messages)
    return {}


# --- latencies ------------------------------------------------------------------------------------------------------


async def _rpc(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    body = bytes(task.size)
    took: list[float] = []
    calls: dict[str, asyncio.Future[bytes]] = {}

    async def on_reply(reply: AbstractIncomingMessage) -> None:
        calls.pop(reply.correlation_id or "").set_result(reply.body)

    channel = await connection.channel(publisher_confirms=False)
    replies = await channel.get_queue(_REPLY_TO, ensure=False)
    await replies.consume(on_reply, no_ack=True)

    async def go(count: int) -> None:
        for number in range(count):
            begun = time.perf_counter()
            calls[str(number)] = future = asyncio.get_running_loop().create_future()
            request = _message(body, correlation_id=str(number), reply_to=_REPLY_TO)
            await channel.default_exchange.publish(request, task.queue)
            await future
            took.append(time.perf_counter() - begun)

    await go(task.warmup)
    took.clear()
    with watch:
        await go(task.messages)
    return {"call": took}


async def _latency(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    confirms: list[float] = []
    arrivals: list[float] = []
    count = task.warmup + task.messages
    done = asyncio.Event()
    channel = await connection.channel()

    async def publish() -> None:
        begun = time.perf_counter()
        await channel.default_exchange.publish(_message(stamped(task.size)), task.queue)
        confirms.append(time.perf_counter() - begun)

    async def on_message(message: AbstractIncomingMessage) -> None:
        arrivals.append(age(message.body))
        await message.ack()
        if len(arrivals) == count:
            done.set()

    async with await aio_pika.connect_robust(task.url) as own:
        consuming = await own.channel()
        await consuming.set_qos(PREFETCH)
        queue = await consuming.declare_queue(task.queue, passive=True)
        tag = await queue.consume(on_message)
        with watch:
            async with asyncio.TaskGroup() as group:
                for wait in waits(task.rate, count):
                    await asyncio.sleep(wait)
                    group.create_task(publish())
            await done.wait()
        await queue.cancel(tag)
    return {"confirm": confirms[task.warmup :], "end to end": arrivals[task.warmup :]}


_RUNS: Final[dict[str, Callable[[Connection, Task, Stopwatch], Awaitable[Samples]]]] = {
    "publish": _publish,
    "confirms": _confirms,
    "tasks": _tasks,
    "serial": _serial,
    "consume": _consumed(prefetch=0),
    "ack": _consumed(prefetch=PREFETCH),
    "rpc": _rpc,
    "large": _large,
    "latency": _latency,
}
