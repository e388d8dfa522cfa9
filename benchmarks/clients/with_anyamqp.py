"""anyamqp as its users have it, with its defaults, on asyncio, uvloop or trio."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio

import anyamqp
from anyamqp import Connection, Message, Publication, Publisher
from benchmarks.cases import LARGE_WINDOW, PREFETCH, QUIET_QUEUES, TASKS, WINDOW
from benchmarks.pacing import age, stamped, waits
from benchmarks.task import Samples, Stopwatch, Task, helper

_LOOPS: Final[dict[str, dict[str, Any]]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
_TICK = 0.005
"""Seconds between looks at how late the event loop is."""


def run(task: Task, watch: Stopwatch) -> Samples:
    """Do what the task says."""
    return anyio.run(partial(_run, task, watch), **_LOOPS[task.loop])


def serve(task: Task) -> None:
    """Answer remote calls until the process is ended."""
    anyio.run(partial(_serve, task), **_LOOPS[task.loop])


async def _run(task: Task, watch: Stopwatch) -> Samples:
    async with anyamqp.connect(task.url) as connection:
        return await _RUNS[task.case](connection, task, watch)


async def _serve(task: Task) -> None:
    body = bytes(task.size)
    async with (
        anyamqp.connect(task.url) as connection,
        connection.channel() as channel,
        connection.consumer(task.queue, no_ack=True) as consumer,
    ):
        async for request in consumer:
            reply = Message(body, correlation_id=request.correlation_id)
            await channel.publish(reply, routing_key=request.reply_to or "")


# --- publishing -----------------------------------------------------------------------------------------------------


async def _publish(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    body = bytes(task.size)
    async with connection.channel() as channel:

        async def go(queue: str, count: int) -> None:
            for _ in range(count):
                await channel.publish(Message(body), routing_key=queue)
            await channel.declare_queue(queue, passive=True)

        await go(task.warm_queue, task.warmup)
        with watch:
            await go(task.queue, task.messages)
    return {}


async def _confirms(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    async with connection.publisher(window=WINDOW) as publisher:
        await _submit(publisher, task.warm_queue, task.warmup, task.size)
        with watch:
            await _submit(publisher, task.queue, task.messages, task.size)
    return {}


async def _submit(publisher: Publisher, queue: str, count: int, size: int) -> None:
    body = bytes(size)
    for _ in range(count):
        await publisher.submit(Message(body), routing_key=queue)
    await publisher.flush()


async def _tasks(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    async with connection.publisher() as publisher:

        async def go(queue: str, count: int) -> None:
            async with anyio.create_task_group() as group:
                for number in range(TASKS):
                    share = count // TASKS + (number < count % TASKS)
                    group.start_soon(_one_by_one, publisher, queue, share, task.size)

        await go(task.warm_queue, task.warmup)
        with watch:
            await go(task.queue, task.messages)
    return {}


async def _serial(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    async with connection.publisher() as publisher:
        await _one_by_one(publisher, task.warm_queue, task.warmup, task.size)
        with watch:
            await _one_by_one(publisher, task.queue, task.messages, task.size)
    return {}


async def _one_by_one(publisher: Publisher, queue: str, count: int, size: int) -> None:
    body = bytes(size)
    for _ in range(count):
        await publisher.publish(Message(body), routing_key=queue)


# --- consuming ------------------------------------------------------------------------------------------------------


async def _consume(connection: Connection, queue: str, count: int) -> None:
    taken = 0
    async with connection.consumer(queue, no_ack=True) as consumer:
        async for _ in consumer:
            taken += 1
            if taken == count:
                break
        await consumer.stop()


async def _ack(connection: Connection, queue: str, count: int, *, prefetch: int = PREFETCH) -> None:
    taken = 0
    async with connection.consumer(queue, prefetch=prefetch) as consumer:
        async for delivery in consumer:
            delivery.ack()
            taken += 1
            if taken == count:
                break
        await consumer.stop()


def _consumed(
    consume: Callable[[Connection, str, int], Awaitable[None]],
) -> Callable[[Connection, Task, Stopwatch], Awaitable[Samples]]:
    async def run_consumer(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
        await consume(connection, task.warm_queue, task.warmup)
        with watch:
            await consume(connection, task.queue, task.messages)
        return {}

    return run_consumer


async def _large(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    async def go(queue: str, count: int) -> None:
        async with connection.publisher(window=LARGE_WINDOW) as publisher:
            await _submit(publisher, queue, count, task.size)
        await _ack(connection, queue, count, prefetch=LARGE_WINDOW)

    await go(task.warm_queue, task.warmup)
    with watch:
        await go(task.queue, task.messages)
    return {}


# --- latencies ------------------------------------------------------------------------------------------------------


async def _rpc(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    body = bytes(task.size)
    took: list[float] = []
    async with connection.rpc_client() as rpc:

        async def go(count: int) -> None:
            for _ in range(count):
                begun = time.perf_counter()
                await rpc.call(Message(body), routing_key=task.queue)
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
    sent: deque[tuple[float, Publication]] = deque()
    news = anyio.Event()

    async def note_confirms() -> None:
        nonlocal news
        for _ in range(count):
            while not sent:
                news = anyio.Event()
                await news.wait()
            begun, publication = sent.popleft()
            await publication
            confirms.append(time.perf_counter() - begun)

    async def note_arrivals(own: Connection, ready: anyio.Event) -> None:
        async with own.consumer(task.queue, prefetch=PREFETCH) as consumer:
            ready.set()
            async for delivery in consumer:
                arrivals.append(age(delivery.body))
                delivery.ack()
                if len(arrivals) == count:
                    break
            await consumer.stop()

    async with anyamqp.connect(task.url) as own, connection.publisher() as publisher:
        with watch:
            async with anyio.create_task_group() as group:
                ready = anyio.Event()
                group.start_soon(note_arrivals, own, ready)
                group.start_soon(note_confirms)
                await ready.wait()
                for wait in waits(task.rate, count):
                    await anyio.sleep(wait)
                    begun = time.perf_counter()
                    publication = await publisher.submit(Message(stamped(task.size)), routing_key=task.queue)
                    sent.append((begun, publication))
                    news.set()
    return {"confirm": confirms[task.warmup :], "end to end": arrivals[task.warmup :]}


async def _fairness(connection: Connection, task: Task, watch: Stopwatch) -> Samples:
    """One connection: quiet consumers alone, then the same beside one that is flooded."""
    alone: list[float] = []
    beside: list[float] = []
    late: list[float] = []
    into: list[float] = []
    begun = anyio.Event()

    async def quiet(queue: str) -> None:
        async with connection.consumer(queue) as consumer:
            async for delivery in consumer:
                into.append(age(delivery.body))
                delivery.ack()
                begun.set()

    async def watch_loop() -> None:
        while True:
            due = time.perf_counter() + _TICK
            await anyio.sleep(_TICK)
            late.append(time.perf_counter() - due)

    await _ack(connection, task.warm_queue, task.warmup)
    async with anyio.create_task_group() as group:
        for queue in task.quiet_queues(QUIET_QUEUES):
            group.start_soon(quiet, queue)
        with helper(task, "pace", module="with_raw_socket"):
            await begun.wait()
            into = alone
            await anyio.sleep(task.seconds)
            into = beside
            group.start_soon(watch_loop)
            with watch:
                await _ack(connection, task.queue, task.messages)
            into = []
        group.cancel_scope.cancel()
    if stalls := connection.stats.stalls:
        raise RuntimeError(f"the event loop stalled {stalls} times for longer than a quarter of the heartbeat")
    return {"alone": alone, "beside": beside, "loop late": late}


_RUNS: Final[dict[str, Callable[[Connection, Task, Stopwatch], Awaitable[Samples]]]] = {
    "publish": _publish,
    "confirms": _confirms,
    "tasks": _tasks,
    "serial": _serial,
    "consume": _consumed(_consume),
    "ack": _consumed(_ack),
    "rpc": _rpc,
    "large": _large,
    "latency": _latency,
    "fairness": _fairness,
}
